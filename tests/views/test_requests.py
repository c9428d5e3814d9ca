"""The inbox of requests: what each person finds there, how it is filtered and paged, and what waits for whom."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.access import permissions
from connections.models import Approval, ChangeRequest, Connection, User
from connections.services.connections import request_inbox
from portal.sandbox.client import Control
from tests import factories, full_dataset
from tests.views.pages import assert_hides, assert_shows, text


@pytest.fixture
def requests(alice: User, bob: User, dave: User) -> None:
    """One request of each kind: bob asks for consent and an approval, dave wants bob's connection shared."""
    factories.make_consent_request(factories.make_connection(owner=bob, name="Asked"))
    full_dataset.make_approval(factories.make_connection(owner=bob, name="Waits"))
    full_dataset.make_change_request(factories.make_connection(owner=bob, name="Shared"), dave)


def listed(user: User, query: str = "") -> set[str]:
    page = text(factories.signed_in(user).get(f"/requests/{query}"))
    return {name for name in ("Asked", "Waits", "Sharing Shared") if f">{name}" in page}


@pytest.mark.usefixtures("requests")
def test_each_person_finds_what_they_may_see_and_decide(alice: User, bob: User, carol: User, dave: User) -> None:
    everything = {"Asked", "Waits", "Sharing Shared"}
    assert [listed(user) for user in (alice, bob, carol)] == [everything] * 3
    assert listed(dave) == {"Sharing Shared"}
    assert listed(alice, "?show=to_decide") == everything
    assert listed(bob, "?show=to_decide") == {"Sharing Shared"}
    assert listed(bob, "?show=mine") == {"Asked", "Waits"}
    assert not listed(carol, "?show=to_decide")
    assert not listed(dave, "?show=to_decide")
    assert listed(alice, "?kind=approval") == {"Waits"}
    assert listed(alice, "?q=shar") == {"Sharing Shared"}
    assert "No results found" in text(factories.signed_in(alice).get("/requests/?q=nobody"))
    assert "No requests" in text(factories.signed_in(factories.make_person("eve")).get("/requests/"))


@pytest.mark.usefixtures("requests")
def test_decided_requests_leave_the_list_to_decide(alice: User) -> None:
    Approval.objects.update(state="declined", decided_at=timezone.now())
    assert listed(alice, "?show=to_decide") == {"Asked", "Sharing Shared"} == listed(alice, "?show=open")
    assert listed(alice, "?show=decided") == {"Waits"}


@pytest.mark.usefixtures("requests")
def test_the_navigation_counts_what_the_reader_can_decide_and_no_more_than_twenty(alice: User, bob: User) -> None:
    def waiting(user: User) -> str:
        page = text(factories.signed_in(user).get("/teams/"))
        part = page.partition('href="/requests/"')[2].partition("</li>")[0]
        return part.partition('nav-count">')[2].partition("<")[0]

    assert (waiting(alice), waiting(bob)) == ("3", "1")
    for number in range(20):
        full_dataset.make_approval(factories.make_connection(owner=bob, name=f"Inbox {number}"))
    assert waiting(alice) == "20+"


def test_nobody_is_offered_to_decide_their_own_request(alice: User, bob: User) -> None:
    """The list and permissions.can_decide agree about people; see request_inbox.to_decide about service accounts."""
    own = factories.make_connection(owner=alice, name="Mine")
    full_dataset.make_approval(own)
    theirs = factories.make_connection(owner=bob, name="Theirs")
    full_dataset.make_approval(theirs, state="withdrawn", decided_at=timezone.now(), requested_by=alice)
    full_dataset.make_approval(theirs)
    robot = factories.make_service_account(responsible=alice)
    full_dataset.make_approval(factories.make_connection(owner=robot, name="Robots"))
    full_dataset.make_approval(factories.make_connection(owner=bob, name="Others"))
    shown = request_inbox.to_decide(alice, timezone.now())[request_inbox.APPROVAL]
    allowed = [row for row in Approval.objects.filter(state="waiting") if permissions.can_decide(alice, row)]
    assert [row.connection_name for row in shown] == [row.connection_name for row in allowed] == ["Others"]


def test_pages_follow_each_other_without_gaps_across_kinds(admin: Client, bob: User, dave: User) -> None:
    """Also when requests of several kinds were made at the same moment."""
    now = timezone.now()
    for number in range(60):
        connection = factories.make_connection(owner=bob, name=f"Number {number}")
        moment = now - timedelta(minutes=number // 20)
        factories.make_consent_request(connection, asked_at=moment)
        full_dataset.make_approval(connection, requested_at=moment)
    ChangeRequest.objects.bulk_create(
        ChangeRequest(
            kind="share", title=f"Change {number}", proposal={}, path="/", requested_by=dave,
            requested_by_name="Dave", requested_at=now,
        )
        for number in range(10)
    )  # fmt: skip
    seen, url = [], "/requests/"
    while url:
        page = admin.get(url).context["page"]
        seen.append([(entry.kind, entry.request.pk) for entry in page.items])
        url = f"/requests/{page.next_url}" if page.next_url else ""
    assert [len(items) for items in seen] == [50, 50, 30]
    assert len({key for items in seen for key in items}) == 130
    back = admin.get(f"/requests/{page.previous_url}").context["page"]
    assert [(entry.kind, entry.request.pk) for entry in back.items] == seen[1]
    assert admin.get("/requests/?after=nonsense").context["page"].shown == 50


def test_the_number_of_queries_does_not_follow_the_number_of_requests(admin: Client, bob: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(database) as captured:
            admin.get("/requests/")
        return len(captured)

    def make(count: int) -> None:
        for number in range(count):
            connection = factories.make_connection(owner=bob, name=f"Flow {Connection.objects.count()} {number}")
            factories.make_consent_request(connection)
            full_dataset.make_approval(connection)

    make(2)
    few = queries()
    make(20)
    assert queries() == few


def test_old_addresses_lead_to_the_inbox(admin: Client) -> None:
    assert admin.get("/approvals/?after=x")["Location"] == "/requests/?kind=approval"
    assert admin.get("/change-requests/?q=a")["Location"] == "/requests/?q=a&kind=change"


@pytest.mark.usefixtures("requests")
def test_every_kind_is_answered_with_the_same_form(admin: Client, bob: User, sandbox: Control) -> None:
    """A reason is required to decline, and what was approved with a reason shows it to the requester."""
    rows: list[Any] = [*bob.consent_requests.all(), *bob.approvals.all(), *ChangeRequest.objects.all()]
    for row, path in zip(rows, ("requests", "approvals", "change-requests"), strict=True):
        page = text(admin.get(f"/{path}/{row.pk}/"))
        assert_shows(page, "Your decision", "The requester will see it. Required if you decline.", ">Decline<")
        refused = admin.post(f"/{path}/{row.pk}/decline/", {"reason": " ", "seen": "asked"})
        assert refused.status_code == 422
        assert "Enter a reason. The requester will see it." in text(refused)
    admin.post(f"/requests/{rows[0].pk}/approve/", {"reason": "Until the audit."})
    assert "Until the audit." in text(factories.signed_in(bob).get(f"/requests/{rows[0].pk}/"))
    assert_hides(text(factories.signed_in(bob).get(f"/approvals/{rows[1].pk}/")), ">Decline<")
