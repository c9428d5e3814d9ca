"""Token requests listed with events, saved views, seals, verifications, and reports for auditors."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from connections import audit
from connections.models import AuditEvent, Connection, SavedView, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import sealing, verification
from tests import factories
from tests.views.pages import assert_shows

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def trail(bob: User) -> Connection:
    """Record 60 events and 60 token requests alternately; in every tenth pair, both have the same time."""
    connection = factories.make_connection(owner=bob)
    key, _ = factories.make_key(bob)
    for minute in range(60):
        moment = (NOW - timedelta(minutes=minute)).replace(second=0 if minute % 10 == 0 else 30)
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, at=moment)
        api_keys.record_token_request(key, connection, address="10.1.1.1", now=moment)
    return connection


def walk(client: Client, direction: str, url: str = "/audit/") -> list[Any]:
    """Return all pages in one direction."""
    seen = []
    while url:
        page = client.get(f"/audit/{url}" if url.startswith("?") else url).context["page"]
        seen.append(page)
        url = getattr(page, f"{direction}_url")
    return seen


def test_events_and_hand_outs_are_one_list_in_pages_both_ways(trail: Connection, auditor: Client) -> None:
    forth = walk(auditor, "next")
    entries = [entry for page in forth for entry in page.items]
    assert [len(page.items) for page in forth] == [50, 50, 20]
    assert [entry.at for entry in entries] == sorted((entry.at for entry in entries), reverse=True)
    assert sum(isinstance(entry, AuditEvent) for entry in entries) == 60
    assert len({entry.fetch.pk for entry in entries if not isinstance(entry, AuditEvent)}) == 60
    back = walk(auditor, "previous", forth[1].next_url)
    assert [entry.at for page in reversed(back) for entry in page.items] == [entry.at for entry in entries]


@pytest.mark.parametrize(
    ("filters", "events", "fetches"),
    [
        ({}, 60, 60),
        ({"kind": "event"}, 60, 0),
        ({"kind": "fetch"}, 0, 60),
        ({"action": "connection.token_fetched"}, 0, 60),
        ({"action": "connection.checked"}, 60, 0),
        ({"who": "key of bob"}, 0, 60),
        ({"q": "invoices"}, 60, 60),
        ({"outcome": "denied"}, 0, 0),
        ({"target_type": "Tenant"}, 0, 0),
        ({"target_id": "99999999999999999999"}, 0, 0),
        ({"date_to": "2026-11-24"}, 0, 0),
    ],
)
def test_filters_narrow_both(
    trail: Connection, auditor: Client, filters: dict[str, str], events: int, fetches: int
) -> None:
    assert auditor.get("/audit/", filters).context["page"].total == str(events + fetches)


@pytest.mark.parametrize("key", ["x", "W10", "WzEsMiwzXQ", "WyIyMDI2LTExLTI1IiwxLDFd", "//8"])
def test_an_invalid_key_gives_the_first_page(trail: Connection, auditor: Client, key: str) -> None:
    assert auditor.get("/audit/", {"after": key}).context["page"].previous_url == ""


def test_a_filter_is_saved_opened_and_forgotten_by_its_owner_alone(admin: Client, auditor: Client) -> None:
    answer = auditor.post(
        "/views/add/", {"page": "audit", "name": "Failed sign-ins", "query": "action=account.signed_in&outcome=failed"}
    )
    assert answer["Location"] == "/audit/?action=account.signed_in&outcome=failed"
    view = SavedView.objects.get()
    assert "Failed sign-ins" in auditor.get("/audit/").content.decode()
    assert "Failed sign-ins" not in admin.get("/audit/").content.decode()
    assert admin.post(f"/views/{view.pk}/remove/").status_code == 404
    twice = auditor.post("/views/add/", {"page": "audit", "name": "Failed sign-ins", "query": ""}, follow=True)
    assert "already have a view" in twice.content.decode()
    for nothing in ("", "x" * 121):
        assert auditor.post("/views/add/", {"page": "audit", "name": nothing}).status_code == 302
    auditor.post(f"/views/{view.pk}/remove/")
    assert not SavedView.objects.exists()


def test_a_saved_view_cannot_redirect_elsewhere(auditor: Client) -> None:
    answer = auditor.post("/views/add/", {"page": "audit", "name": "x", "query": "//evil.example/\r\nX: y"})
    assert answer["Location"].startswith("/audit/?")
    assert "\n" not in answer["Location"]


def test_the_page_shows_the_state_of_the_seals(trail: Connection, carol: User, auditor: Client) -> None:
    text = auditor.get("/audit/").content.decode()
    assert_shows(text, "Not sealed yet", "120 not sealed yet")
    sealing.seal_due(NOW + timedelta(hours=1))
    verification.verify(actor=carol, now=lambda: NOW)
    text = auditor.get("/audit/").content.decode()
    assert_shows(text, "number 1", "Intact")


def test_a_verification_is_requested_and_shows_progress(trail: Connection, admin: Client, auditor: Client) -> None:
    sealing.seal_due(NOW + timedelta(hours=1))
    assert admin.post("/audit/verify/").status_code == 403
    url = auditor.post("/audit/verify/")["Location"]
    assert "The verification will start" in auditor.get(url).content.decode()
    verification.run_due(lambda: NOW)
    text = auditor.get(url).content.decode()
    assert_shows(text, "All rows match their seals", "120 events and token requests")
    assert "Verify audit trail" in auditor.get("/audit/seals/").content.decode()
    assert "Verify audit trail" not in admin.get("/audit/seals/").content.decode()


def test_seals_are_listed_with_their_contents(trail: Connection, auditor: Client, max_queries: Any) -> None:
    sealing.seal_due(NOW + timedelta(hours=1), batch=1)
    auditor.get("/audit/seals/")  # what the triggers should be is read once
    with max_queries(17):
        page = auditor.get("/audit/seals/")
    assert page.context["page"].shown == 50
    assert "Connection: token requested (1)" in page.content.decode()


def test_all_reports_are_listed_on_one_page(auditor: Client) -> None:
    for url, _, _ in auditor.get("/audit/questions/").context["questions"]:
        assert auditor.get(url).status_code == 200, url


def test_who_created_which_connection_including_deleted_ones(bob: User, auditor: Client) -> None:
    gone, here = factories.make_connection(owner=bob, name="Gone"), factories.make_connection(owner=bob, name="Here")
    for connection in (gone, here):
        audit.record(AuditAction.CONNECTION_CREATED, connection, actor=bob)
    gone.delete()
    text = auditor.get("/audit/questions/creators/").content.decode()
    assert_shows(text, "Gone", "removed", f'href="/connections/{here.pk}/"')
    rows = auditor.get("/audit/questions/creators/", {"q": "here"}).context["rows"]
    assert [(event.actor, connection) for event, connection in rows] == [(bob, here)]


def test_who_fetched_tokens_from_where_even_of_deleted_ones(trail: Connection, bob: User, auditor: Client) -> None:
    other, _ = factories.make_key(bob, name="Stolen")
    api_keys.record_token_request(other, trail, address="203.0.113.9", now=NOW)
    pk = trail.pk
    trail.delete()
    for text in ("invo", str(pk)):
        rows = auditor.get("/audit/questions/fetches/", {"q": text}).context["rows"]
        assert {(row.key_name, row.address, row.times) for row in rows} == {
            ("Key of bob", "10.1.1.1", 60),
            ("Stolen", "203.0.113.9", 1),
        }
    assert auditor.get("/audit/questions/fetches/", {"q": "else"}).context["rows"] == []


def test_two_addresses_in_one_minute_are_separate_rows(bob: User) -> None:
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    for address in ("10.0.0.1", "203.0.113.9", "10.0.0.1"):
        api_keys.record_token_request(key, connection, address=address, now=NOW)
    assert set(TokenFetch.objects.values_list("address", "count")) == {("10.0.0.1", 2), ("203.0.113.9", 1)}


def test_what_changed_between_two_days(trail: Connection, auditor: Client, alice: User) -> None:
    audit.record(AuditAction.TENANT_CHANGED, trail.app_registration.tenant, actor=alice, at=NOW - timedelta(days=3))
    days = {"date_from": "2026-11-25", "date_to": "2026-11-25"}
    answer = auditor.get("/audit/questions/changes/", days)
    assert [(action, times) for action, times, _ in answer.context["kinds"]] == [("connection.checked", 60)]
    assert [(row["name"], row["times"]) for row in answer.context["rows"]] == [("Invoices", 60)]
    wider = auditor.get("/audit/questions/changes/", {"date_from": "2026-11-01", "date_to": "2026-11-30"})
    assert ("tenant.changed", 1) in [(action, times) for action, times, _ in wider.context["kinds"]]
    assert (
        "Swap the dates"
        in auditor.get(
            "/audit/questions/changes/", {"date_from": "2026-11-02", "date_to": "2026-11-01"}
        ).content.decode()
    )


def test_which_connections_hold_a_permission_now(bob: User, auditor: Client) -> None:
    factories.make_connection(owner=bob, name="Reads", granted_scopes="Mail.Read openid")
    factories.make_connection(owner=bob, name="Writes", granted_scopes="Mail.ReadWrite openid")
    factories.make_connection(owner=bob, name="Off", granted_scopes="Mail.Read", status=Connection.Status.DISABLED)
    assert auditor.get("/audit/questions/scopes/").context["held"] == {"Mail.Read": 1, "Mail.ReadWrite": 1, "openid": 2}
    page = auditor.get("/audit/questions/scopes/", {"scope": "Mail.Read"}).context["page"]
    assert [connection.name for connection in page.items] == ["Reads"]
