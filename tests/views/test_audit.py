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
from tests.views.pages import assert_hides, assert_shows


@pytest.fixture
def events(alice: User, bob: User) -> Any:
    """Record events about a connection of bob's and its tenant."""
    connection = factories.make_connection(owner=bob)
    tenant = connection.app_registration.tenant
    audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=bob)
    audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=bob, changes={"name": ["Bills", "Invoices"]})
    audit.record(AuditAction.TENANT_CHANGED, tenant, actor=alice, changes={"name": ["Contoso Ltd", "Contoso"]})
    audit.record(AuditAction.CONNECTION_FLAGGED, connection, actor=None, outcome=AuditEvent.Outcome.FAILED)
    return connection


def listed(client: Any, **filters: str) -> Any:
    """Return the actions on the list, newest first."""
    page = client.get("/audit/", filters).context["page"]
    return [event.action for event in page.items]


@pytest.mark.parametrize(("who", "status"), [("alice", 200), ("carol", 200), ("bob", 403), ("dave", 403)])
def test_only_admins_and_auditors_see_it(events: Any, who: Any, status: Any, request: Any) -> None:
    client = factories.signed_in(request.getfixturevalue(who))
    event = AuditEvent.objects.all()[0]
    assert client.get("/audit/").status_code == status
    assert client.get(f"/audit/{event.pk}/").status_code == status


def test_a_refused_member_reads_where_to_look_instead(events: Any, member: Client) -> None:
    page = member.get("/audit/").content.decode()
    assert_shows(page, "Only IT admins and auditors", "history of your connections")


def test_the_list_is_newest_first(events: Any, auditor: Client) -> None:
    assert listed(auditor) == ["connection.flagged", "tenant.changed", "connection.changed", "connection.connected"]


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
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
def test_filters_narrow_the_list(events: Any, auditor: Client, filters: dict[str, str], actions: list[str]) -> None:
    assert listed(auditor, **filters) == actions


def test_dates_mean_whole_days_in_utc(events: Any, auditor: Client) -> None:
    for day, hour in ((9, 23), (10, 0), (10, 23), (11, 0)):
        AuditEvent.objects.create(
            at=datetime(2026, 3, day, hour, 30, tzinfo=UTC), action=f"day.{day}_{hour}", actor_name="x",
            target_type="Tenant", target_name="t",
        )  # fmt: skip
    assert listed(auditor, date_from="2026-03-10", date_to="2026-03-10") == ["day.10_23", "day.10_0"]


def test_the_list_can_show_one_object(events: Any, auditor: Client) -> None:
    entries = listed(auditor, target_type="Connection", target_id=str(events.pk))
    assert entries == ["connection.flagged", "connection.changed", "connection.connected"]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"date_from": "yesterday"}, "Enter a valid date."),
        ({"date_from": "2026-02-02", "date_to": "2026-02-01"}, "The end date is before the start date."),
        ({"action": "no.such"}, "not one of the available choices"),
        ({"date_to": "9999-12-31", "q": "x" * 101}, "at most 100 characters"),
    ],
)
def test_an_invalid_filter_shows_an_error_at_its_field(
    events: Any, auditor: Client, filters: dict[str, str], sentence: str
) -> None:
    answer = auditor.get("/audit/", filters)
    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert answer.context["page"].items == []


def test_nothing_matches_offers_to_clear_the_filters(events: Any, auditor: Client) -> None:
    page = auditor.get("/audit/", {"q": "nothing has this name"}).content.decode()
    assert_shows(page, "No results found", "Clear filters")


def test_an_empty_trail_says_so(auditor: Client) -> None:
    assert "No events recorded yet" in auditor.get("/audit/").content.decode()


def test_the_list_costs_the_same_however_long_it_is(events: Any, auditor: Client, max_queries: Any) -> None:
    for number in range(120):
        audit.record(AuditAction.TENANT_LOOKED_UP, events.app_registration.tenant, actor=None, changes={"n": number})
    with max_queries(17):
        answer = auditor.get("/audit/")
    assert answer.context["page"].shown == 50


def test_an_event_shows_before_and_after_and_leads_to_its_object(events: Any, auditor: Client) -> None:
    event = AuditEvent.objects.get(action="connection.changed")
    page = auditor.get(f"/audit/{event.pk}/").content.decode()
    assert_shows(page, "Bills", "Invoices", f'href="/connections/{events.pk}/"')


def test_an_event_outlives_its_object(events: Any, auditor: Client) -> None:
    event = AuditEvent.objects.get(action="connection.changed")
    events.delete()
    page = auditor.get(f"/audit/{event.pk}/").content.decode()
    assert "Invoices" in page
    assert f'href="/connections/{event.target_id}/"' not in page


def test_names_in_the_trail_are_not_markup(auditor: Client) -> None:
    tenant = factories.make_tenant(name="<b>bold</b>")
    event = audit.record(AuditAction.TENANT_ADDED, tenant, actor=None, changes={"name": "<img src=x>"})
    for url in ("/audit/", f"/audit/{event.pk}/"):
        assert_hides(auditor.get(url).content.decode(), "<b>bold", "<img src=x")


def test_a_history_holds_one_object_and_ends_after_twenty(events: Any, bob: User, alice: User, dave: User) -> None:
    for _ in range(30):
        audit.record(AuditAction.CONNECTION_CHECKED, events, actor=bob)
    audit.record(AuditAction.TENANT_CHANGED, events.app_registration.tenant, actor=alice)
    events_shown = history(bob, events)
    assert len(events_shown) == 20
    assert {event.target_name for event in events_shown} == {"Invoices"}
    assert len(history(alice, events)) == 20
    assert history(dave, events) == []


def test_only_recorded_actions_are_offered(events: Any) -> None:
    assert recorded_actions() == ["connection.changed", "connection.connected", "connection.flagged", "tenant.changed"]


def test_no_action_is_offered_when_nothing_was_recorded() -> None:
    assert recorded_actions() == []


def test_filters_are_offered_in_the_words_of_the_list(events: Any, auditor: Client) -> None:
    fields = auditor.get("/audit/").context["filters"].fields
    assert ("connection.flagged", "Connection: flagged") in fields["action"].choices
    assert ("AppRegistration", "App registration") in fields["target_type"].choices


def test_a_fact_of_two_values_does_not_read_as_a_change(bob: User, auditor: Client, connection: Connection) -> None:
    granted = {"roles": audit.join_values(["Mail.Read", "User.Read.All"])}
    event = audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=bob, changes=granted)
    page = auditor.get(f"/audit/{event.pk}/")
    assert [(line.before, line.after) for line in page.context["changes"]] == [(None, "Mail.Read, User.Read.All")]
