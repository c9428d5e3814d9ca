"""The audit trail: who may open it, filters, one event, and histories."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from connections import audit
from connections.models import AuditEvent, Connection, User
from connections.models.audit import AuditAction
from connections.views.audit import history, recorded_actions
from tests import factories
from tests.views.pages import assert_hides, assert_shows, text


@pytest.fixture
def events(alice: User, bob: User) -> Connection:
    """A connection of bob's, a tenant of alice's, and what happened to them."""
    connection = factories.make_connection(owner=bob)
    tenant = connection.app_registration.tenant
    audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=bob)
    audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=bob, changes={"name": ["Bills", "Invoices"]})
    audit.record(AuditAction.TENANT_CHANGED, tenant, actor=alice, changes={"name": ["Contoso Ltd", "Contoso"]})
    audit.record(AuditAction.CONNECTION_FLAGGED, connection, actor=None, outcome=AuditEvent.Outcome.FAILED)
    return connection


def listed(client: Client, **filters: str) -> list[str]:
    """Actions on the list, newest first."""
    page = client.get("/audit/", filters).context["page"]
    return [event.action for event in page.items]


def test_a_refused_member_is_told_where_to_look_instead(events: Connection, member: Client) -> None:
    page = member.get("/audit/").content.decode()
    assert_shows(page, "Only IT admins and auditors", "connections stands on their pages")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["connection.flagged", "tenant.changed", "connection.changed", "connection.connected"]),
        ({"action": "tenant.changed"}, ["tenant.changed"]),
        ({"target_type": "Tenant"}, ["tenant.changed"]),
        ({"outcome": "failed"}, ["connection.flagged"]),
        ({"who": "BOB"}, ["connection.changed", "connection.connected"]),
        ({"who": "portal"}, ["connection.flagged"]),
        ({"q": "contoso"}, ["tenant.changed"]),
        ({"q": "invoices", "who": "bob"}, ["connection.changed", "connection.connected"]),
        ({"q": "%"}, []),
        ({"date_from": "2999-01-01"}, []),
        ({"date_to": "2000-01-01"}, []),
    ],
)
def test_filters_narrow_the_list(
    events: Connection, auditor: Client, filters: dict[str, str], found: list[str]
) -> None:
    assert listed(auditor, **filters) == found


def test_dates_mean_whole_days_in_utc(events: Connection, auditor: Client) -> None:
    for day, hour in ((9, 23), (10, 0), (10, 23), (11, 0)):
        AuditEvent.objects.create(
            at=datetime(2026, 3, day, hour, 30, tzinfo=UTC), action=f"day.{day}_{hour}", actor_name="x",
            target_type="Tenant", target_name="t",
        )  # fmt: skip
    assert listed(auditor, date_from="2026-03-10", date_to="2026-03-10") == ["day.10_23", "day.10_0"]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"date_from": "yesterday"}, "Enter a valid date."),
        ({"date_from": "2026-02-02", "date_to": "2026-02-01"}, "The last day lies before the first one."),
        ({"action": "no.such"}, "not one of the available choices"),
        ({"date_to": "9999-12-31", "q": "x" * 101}, "at most 100 characters"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told_at_its_field(
    events: Connection, auditor: Client, filters: dict[str, str], sentence: str
) -> None:
    answer = auditor.get("/audit/", filters)
    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert answer.context["page"].items == []


def test_nothing_matches_offers_to_clear_the_filters(events: Connection, auditor: Client) -> None:
    page = auditor.get("/audit/", {"q": "nothing has this name"}).content.decode()
    assert_shows(page, "Nothing matches", "Clear filters")


def test_the_list_costs_the_same_however_long_it_is(
    events: Connection, auditor: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(120):
        audit.record(AuditAction.TENANT_LOOKED_UP, events.app_registration.tenant, actor=None, changes={"n": number})
    with django_assert_max_num_queries(15):
        answer = auditor.get("/audit/")
    assert answer.context["page"].shown == 50


def test_an_event_shows_before_and_after_and_leads_to_its_object(events: Connection, auditor: Client) -> None:
    of_object = {"target_type": "Connection", "target_id": str(events.pk)}
    assert listed(auditor, **of_object) == ["connection.flagged", "connection.changed", "connection.connected"]
    event = AuditEvent.objects.get(action="connection.changed")
    page = text(auditor.get(f"/audit/{event.pk}/"))
    assert_shows(page, "Bills", "Invoices", f'href="/connections/{events.pk}/"')


def test_an_event_outlives_its_object(events: Connection, auditor: Client) -> None:
    event = AuditEvent.objects.get(action="connection.changed")
    events.delete()
    page = auditor.get(f"/audit/{event.pk}/").content.decode()
    assert "Invoices" in page
    assert f'href="/connections/{event.target_id}/"' not in page


def test_names_in_the_trail_are_not_markup(auditor: Client) -> None:
    tenant = factories.make_tenant(name="<b>bold</b>")
    event = audit.record(AuditAction.TENANT_ADDED, tenant, actor=None, changes={"name": "<img src=x>"})
    for url in ("/audit/", f"/audit/{event.pk}/"):
        page = auditor.get(url).content.decode()
        assert_hides(page, "<b>bold", "<img src=x")


def test_a_history_holds_one_object_and_ends_after_twenty(
    events: Connection, bob: User, alice: User, dave: User
) -> None:
    for _ in range(30):
        audit.record(AuditAction.CONNECTION_CHECKED, events, actor=bob)
    audit.record(AuditAction.TENANT_CHANGED, events.app_registration.tenant, actor=alice)
    found = history(bob, events)
    assert len(found) == 20
    assert {event.target_name for event in found} == {"Invoices"}
    assert len(history(alice, events)) == 20
    assert history(dave, events) == []


def test_the_offered_actions_are_those_that_occur(auditor: Client, request: pytest.FixtureRequest) -> None:
    assert recorded_actions() == []
    assert "Nothing has been recorded yet" in text(auditor.get("/audit/"))
    request.getfixturevalue("events")
    assert recorded_actions() == ["connection.changed", "connection.connected", "connection.flagged", "tenant.changed"]


def test_filters_are_offered_in_the_words_of_the_list(events: Connection, auditor: Client) -> None:
    fields = auditor.get("/audit/").context["filters"].fields
    assert ("connection.flagged", "Connection: flagged") in fields["action"].choices
    assert ("AppRegistration", "App registration") in fields["target_type"].choices


def test_a_fact_of_two_values_does_not_read_as_a_change(bob: User, auditor: Client) -> None:
    connection = factories.make_connection(owner=bob)
    granted = {"roles": audit.join_values(["Mail.Read", "User.Read.All"])}
    event = audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=bob, changes=granted)
    page = auditor.get(f"/audit/{event.pk}/")
    assert [(line.is_fact, line.after) for line in page.context["changes"]] == [(True, "Mail.Read, User.Read.All")]
