"""Token requests listed with events, saved views, seals, verifications, and reports for auditors."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from connections import audit
from connections.models import AuditEvent, AuditView, Connection, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import sealing, verification
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
SignIn = Callable[[User], Client]


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


def test_events_and_hand_outs_are_one_list_in_pages_both_ways(
    trail: Connection, carol: User, signed_in: SignIn
) -> None:
    client = signed_in(carol)
    forth = walk(client, "next")
    entries = [entry for page in forth for entry in page.items]
    assert [len(page.items) for page in forth] == [50, 50, 20]
    assert [entry.at for entry in entries] == sorted((entry.at for entry in entries), reverse=True)
    assert sum(isinstance(entry, AuditEvent) for entry in entries) == 60
    assert len({entry.fetch.pk for entry in entries if not isinstance(entry, AuditEvent)}) == 60
    back = walk(client, "previous", forth[1].next_url)
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
    trail: Connection, carol: User, signed_in: SignIn, filters: dict[str, str], events: int, fetches: int
) -> None:
    client = signed_in(carol)
    total = client.get("/audit/", filters).context["page"].total
    assert total == str(events + fetches)


@pytest.mark.parametrize("key", ["x", "W10", "WzEsMiwzXQ", "WyIyMDI2LTExLTI1IiwxLDFd", "//8"])
def test_an_invalid_key_gives_the_first_page(trail: Connection, carol: User, signed_in: SignIn, key: str) -> None:
    assert signed_in(carol).get("/audit/", {"after": key}).context["page"].previous_url == ""


def test_a_filter_is_saved_opened_and_forgotten_by_its_owner_alone(alice: User, carol: User, signed_in: SignIn) -> None:
    mine = signed_in(carol)
    answer = mine.post(
        "/audit/views/add/", {"name": "Failed sign-ins", "query": "action=account.signed_in&outcome=failed"}
    )
    assert answer["Location"] == "/audit/?action=account.signed_in&outcome=failed"
    view = AuditView.objects.get()
    assert "Failed sign-ins" in mine.get("/audit/").content.decode()
    assert "Failed sign-ins" not in signed_in(alice).get("/audit/").content.decode()
    assert signed_in(alice).post(f"/audit/views/{view.pk}/remove/").status_code == 404
    twice = mine.post("/audit/views/add/", {"name": "Failed sign-ins", "query": ""}, follow=True)
    assert "already have a view" in twice.content.decode()
    for nothing in ("", "x" * 121):
        assert mine.post("/audit/views/add/", {"name": nothing}).status_code == 302
    mine.post(f"/audit/views/{view.pk}/remove/")
    assert not AuditView.objects.exists()


def test_a_saved_view_cannot_redirect_elsewhere(carol: User, signed_in: SignIn) -> None:
    answer = signed_in(carol).post("/audit/views/add/", {"name": "x", "query": "//evil.example/\r\nX: y"})
    assert answer["Location"].startswith("/audit/?")
    assert "\n" not in answer["Location"]


def test_the_page_shows_the_state_of_the_seals(trail: Connection, carol: User, signed_in: SignIn) -> None:
    client = signed_in(carol)
    text = client.get("/audit/").content.decode()
    assert "Nothing sealed yet" in text
    assert "120 not sealed yet" in text
    sealing.seal_due(NOW + timedelta(hours=1))
    verification.verify(actor=carol, now=lambda: NOW)
    text = client.get("/audit/").content.decode()
    assert "number 1" in text
    assert "Intact" in text


def test_a_verification_is_requested_and_its_page_shows_progress(
    trail: Connection, alice: User, carol: User, signed_in: SignIn
) -> None:
    client = signed_in(carol)
    sealing.seal_due(NOW + timedelta(hours=1))
    assert signed_in(alice).post("/audit/verify/").status_code == 403
    url = client.post("/audit/verify/")["Location"]
    assert "A worker takes it up" in client.get(url).content.decode()
    verification.run_due(lambda: NOW)
    text = client.get(url).content.decode()
    assert "Every row fits its seal" in text
    assert "120 events and token hand-outs" in text
    assert "Verify the whole trail" in client.get("/audit/seals/").content.decode()
    assert "Verify the whole trail" not in signed_in(alice).get("/audit/seals/").content.decode()


def test_seals_are_listed_with_their_contents(
    trail: Connection, carol: User, signed_in: SignIn, django_assert_max_num_queries: Any
) -> None:
    sealing.seal_due(NOW + timedelta(hours=1), batch=1)
    client = signed_in(carol)
    with django_assert_max_num_queries(14):
        page = client.get("/audit/seals/")
    assert page.context["page"].shown == 50
    assert "Connection: token fetched (1)" in page.content.decode()


def test_all_reports_are_listed_on_one_page(carol: User, signed_in: SignIn) -> None:
    client = signed_in(carol)
    for url, _, _ in client.get("/audit/questions/").context["questions"]:
        assert client.get(url).status_code == 200, url


def test_who_created_which_connection_including_deleted_ones(bob: User, carol: User, signed_in: SignIn) -> None:
    gone, here = factories.make_connection(owner=bob, name="Gone"), factories.make_connection(owner=bob, name="Here")
    for connection in (gone, here):
        audit.record(AuditAction.CONNECTION_CREATED, connection, actor=bob)
    gone.delete()
    client = signed_in(carol)
    text = client.get("/audit/questions/creators/").content.decode()
    assert "Gone" in text
    assert "removed" in text
    assert f'href="/connections/{here.pk}/"' in text
    rows = client.get("/audit/questions/creators/", {"q": "here"}).context["rows"]
    assert [(event.actor, connection) for event, connection in rows] == [(bob, here)]


def test_who_fetched_tokens_and_from_where_including_deleted_connections(
    trail: Connection, bob: User, carol: User, signed_in: SignIn
) -> None:
    other, _ = factories.make_key(bob, name="Stolen")
    api_keys.record_token_request(other, trail, address="203.0.113.9", now=NOW)
    pk = trail.pk
    trail.delete()
    for text in ("invo", str(pk)):
        rows = signed_in(carol).get("/audit/questions/fetches/", {"q": text}).context["rows"]
        assert {(row.key_name, row.address, row.times) for row in rows} == {
            ("Key of bob", "10.1.1.1", 60),
            ("Stolen", "203.0.113.9", 1),
        }
    assert signed_in(carol).get("/audit/questions/fetches/", {"q": "else"}).context["rows"] == []


def test_two_addresses_in_one_minute_are_separate_rows(bob: User) -> None:
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    for address in ("10.0.0.1", "203.0.113.9", "10.0.0.1"):
        api_keys.record_token_request(key, connection, address=address, now=NOW)
    assert set(TokenFetch.objects.values_list("address", "count")) == {("10.0.0.1", 2), ("203.0.113.9", 1)}


def test_what_changed_between_two_days(trail: Connection, carol: User, alice: User, signed_in: SignIn) -> None:
    audit.record(AuditAction.TENANT_CHANGED, trail.app_registration.tenant, actor=alice, at=NOW - timedelta(days=3))
    client = signed_in(carol)
    days = {"date_from": "2026-11-25", "date_to": "2026-11-25"}
    answer = client.get("/audit/questions/changes/", days)
    assert [(action, times) for action, times, _ in answer.context["kinds"]] == [("connection.checked", 60)]
    assert [(row["name"], row["times"]) for row in answer.context["rows"]] == [("Invoices", 60)]
    wider = client.get("/audit/questions/changes/", {"date_from": "2026-11-01", "date_to": "2026-11-30"})
    assert ("tenant.changed", 1) in [(action, times) for action, times, _ in wider.context["kinds"]]
    assert (
        "Swap them"
        in client.get(
            "/audit/questions/changes/", {"date_from": "2026-11-02", "date_to": "2026-11-01"}
        ).content.decode()
    )


def test_which_connections_hold_a_permission_now(bob: User, carol: User, signed_in: SignIn) -> None:
    factories.make_connection(owner=bob, name="Reads", granted_scopes="Mail.Read openid")
    factories.make_connection(owner=bob, name="Writes", granted_scopes="Mail.ReadWrite openid")
    factories.make_connection(owner=bob, name="Off", granted_scopes="Mail.Read", status=Connection.Status.DISABLED)
    client = signed_in(carol)
    assert client.get("/audit/questions/scopes/").context["held"] == {"Mail.Read": 1, "Mail.ReadWrite": 1, "openid": 2}
    page = client.get("/audit/questions/scopes/", {"scope": "Mail.Read"}).context["page"]
    assert [connection.name for connection in page.items] == ["Reads"]
