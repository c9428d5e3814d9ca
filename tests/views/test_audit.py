"""The audit trail: who may open it, filters, one event, and histories."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from connections import audit
from connections.models import AuditEvent, User
from connections.models.audit import AuditAction
from connections.views.audit import history, recorded_actions
from tests import factories

pytestmark = pytest.mark.django_db

SignIn = Callable[[User], Client]


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
def test_the_trail_is_for_admins_and_auditors(
    signed_in: SignIn, events: Any, who: Any, status: Any, request: Any
) -> None:
    client = signed_in(request.getfixturevalue(who))
    event = AuditEvent.objects.all()[0]
    assert client.get("/audit/").status_code == status
    assert client.get(f"/audit/{event.pk}/").status_code == status


def test_a_refused_member_reads_where_to_look_instead(signed_in: SignIn, events: Any, bob: User) -> None:
    page = signed_in(bob).get("/audit/").content.decode()
    assert "Only IT admins and auditors" in page
    assert "connections stands on their pages" in page


def test_the_list_is_newest_first(signed_in: SignIn, events: Any, carol: User) -> None:
    assert listed(signed_in(carol)) == [
        "connection.flagged",
        "tenant.changed",
        "connection.changed",
        "connection.connected",
    ]


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
def test_filters_narrow_the_list(
    signed_in: SignIn, events: Any, carol: User, filters: dict[str, str], actions: list[str]
) -> None:
    assert listed(signed_in(carol), **filters) == actions


def test_dates_mean_whole_days_in_utc(signed_in: SignIn, events: Any, carol: User) -> None:
    for day, hour in ((9, 23), (10, 0), (10, 23), (11, 0)):
        AuditEvent.objects.create(
            at=datetime(2026, 3, day, hour, 30, tzinfo=UTC), action=f"day.{day}_{hour}", actor_name="x",
            target_type="Tenant", target_name="t",
        )  # fmt: skip
    assert listed(signed_in(carol), date_from="2026-03-10", date_to="2026-03-10") == ["day.10_23", "day.10_0"]


def test_the_list_can_show_one_object(signed_in: SignIn, events: Any, carol: User) -> None:
    entries = listed(signed_in(carol), target_type="Connection", target_id=str(events.pk))
    assert entries == ["connection.flagged", "connection.changed", "connection.connected"]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"date_from": "yesterday"}, "Enter a valid date."),
        ({"date_from": "2026-02-02", "date_to": "2026-02-01"}, "The last day lies before the first one."),
        ({"action": "no.such"}, "not one of the available choices"),
        ({"date_to": "9999-12-31", "q": "x" * 101}, "at most 100 characters"),
    ],
)
def test_an_invalid_filter_shows_an_error_at_its_field(
    signed_in: SignIn, events: Any, carol: User, filters: dict[str, str], sentence: str
) -> None:
    answer = signed_in(carol).get("/audit/", filters)
    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert answer.context["page"].items == []


def test_nothing_matches_offers_to_clear_the_filters(signed_in: SignIn, events: Any, carol: User) -> None:
    page = signed_in(carol).get("/audit/", {"q": "nothing has this name"}).content.decode()
    assert "Nothing matches" in page
    assert "Clear filters" in page


def test_an_empty_trail_says_so(signed_in: SignIn, carol: User) -> None:
    assert "Nothing has been recorded yet" in signed_in(carol).get("/audit/").content.decode()


def test_the_list_costs_the_same_however_long_it_is(
    signed_in: SignIn, events: Any, carol: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(120):
        audit.record(AuditAction.TENANT_LOOKED_UP, events.app_registration.tenant, actor=None, changes={"n": number})
    client = signed_in(carol)
    with django_assert_max_num_queries(15):
        answer = client.get("/audit/")
    assert answer.context["page"].shown == 50


def test_an_event_shows_before_and_after_and_leads_to_its_object(signed_in: SignIn, events: Any, carol: User) -> None:
    event = AuditEvent.objects.get(action="connection.changed")
    page = signed_in(carol).get(f"/audit/{event.pk}/").content.decode()
    assert "Bills" in page
    assert "Invoices" in page
    assert f'href="/connections/{events.pk}/"' in page


def test_an_event_outlives_its_object(signed_in: SignIn, events: Any, carol: User) -> None:
    event = AuditEvent.objects.get(action="connection.changed")
    events.delete()
    page = signed_in(carol).get(f"/audit/{event.pk}/").content.decode()
    assert "Invoices" in page
    assert f'href="/connections/{event.target_id}/"' not in page


def test_names_in_the_trail_are_not_markup(signed_in: SignIn, carol: User) -> None:
    tenant = factories.make_tenant(name="<b>bold</b>")
    event = audit.record(AuditAction.TENANT_ADDED, tenant, actor=None, changes={"name": "<img src=x>"})
    for url in ("/audit/", f"/audit/{event.pk}/"):
        page = signed_in(carol).get(url).content.decode()
        assert "<b>bold" not in page
        assert "<img src=x" not in page


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


def test_filters_are_offered_in_the_words_of_the_list(signed_in: SignIn, events: Any, carol: User) -> None:
    fields = signed_in(carol).get("/audit/").context["filters"].fields
    assert ("connection.flagged", "Connection: flagged") in fields["action"].choices
    assert ("AppRegistration", "App registration") in fields["target_type"].choices


def test_a_fact_of_two_values_does_not_read_as_a_change(signed_in: SignIn, bob: User, carol: User) -> None:
    connection = factories.make_connection(owner=bob)
    granted = {"roles": audit.join_values(["Mail.Read", "User.Read.All"])}
    event = audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=bob, changes=granted)
    page = signed_in(carol).get(f"/audit/{event.pk}/")
    assert [(line["is_fact"], line["after"]) for line in page.context["changes"]] == [
        (True, "Mail.Read, User.Read.All")
    ]
