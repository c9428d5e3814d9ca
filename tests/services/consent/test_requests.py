"""Consent requests are created once, decided once, and verified only by tokens."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, Connection, ConsentLink, ConsentRequest, Share, User
from connections.services.connections import connections
from connections.services.consent import admin_consent, request_status, requests
from connections.services.consent.requests import DecidedMeanwhile
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once
from tests.records import subjects
from tests.services.consent.test_admin_consent import CANCELLED, came_back, query, robots

State = ConsentRequest.State


def now() -> datetime:
    return timezone.now()


def make_pending(**overrides: Any) -> Connection:
    """Create a connection of bob's that nobody has signed in for yet, because Microsoft requires admin consent."""
    values: dict[str, Any] = {
        "status": Connection.Status.PENDING,
        "status_code": "AADSTS90094",
        "connected_at": None,
        "granted_scopes": "",
        "capabilities": ["mail.read", "directory.profiles"],
    }
    return factories.make_connection(**(values | overrides))


def ask(connection: Connection, by: User | None = None, reason: str = "Invoices arrive there.") -> ConsentRequest:
    return requests.request_consent(connection, reason=reason, actor=by or connection.owner, now=now())


def approve(request: ConsentRequest, by: User) -> str:
    _, url = requests.approve(request, actor=by, now=now())
    request.refresh_from_db()
    return url


def approved(by: User, **overrides: Any) -> tuple[ConsentRequest, str]:
    request = ask(make_pending(**overrides))
    return request, approve(request, by)


def callback(url: str, by: User | None, **answer: str) -> ConsentLink:
    return admin_consent.record_callback(came_back(url, **answer), actor=by, now=now())


def state(request: ConsentRequest) -> str:
    return factories.reloaded(request).state


def events(verb: str) -> int:
    return AuditEvent.objects.filter(action=f"consent_request.{verb}").count()


def test_a_request_covers_the_missing_permissions_and_is_emailed_to_the_it_admins_once(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob, capabilities=["mail.read", "directory.profiles"])
    first = ask(connection)
    assert first.permission_names == ("User.Read.All",)
    assert (first.state, first.requester, first.connection_name) == (State.ASKED, bob, "Invoices")
    assert ask(connection, reason="Please!") == first
    assert subjects("alice@example.org") == ["Bob Member requests consent: Invoices"]
    assert events("asked") == 1


def test_a_request_covers_all_permissions_if_none_was_granted_or_consent_was_withdrawn(bob: User) -> None:
    assert ask(make_pending()).permission_names == ("Mail.Read", "User.Read.All")
    connection = factories.make_connection(owner=bob, name="Other", status=Connection.Status.CONSENT_NEEDED)
    assert ask(connection).permission_names == ("Mail.Read",)


def test_other_permissions_replace_the_request(bob: User) -> None:
    connection = make_pending(capabilities=["mail.read"])
    first = ask(connection)
    Connection.objects.filter(pk=connection.pk).update(capabilities=["mail.read", "mail.send"])
    assert ask(Connection.objects.get(pk=connection.pk)).permission_names == ("Mail.Read", "Mail.Send")
    assert state(first) == State.WITHDRAWN
    assert "other permissions" in first.answer


@pytest.mark.django_db(transaction=True)
def test_simultaneous_requests_for_a_connection_become_one(bob: User) -> None:
    connection = make_pending()
    assert len(set(at_once(*[lambda: ask(Connection.objects.get(pk=connection.pk)).pk] * 4))) == 1
    assert ConsentRequest.objects.count() == 1
    assert events("asked") == 1


def test_only_people_who_may_sign_in_for_it_request_consent(alice: User, bob: User, carol: User, dave: User) -> None:
    connection = make_pending()
    Share.objects.create(connection=connection, person=dave, created_by=bob)
    for person in (alice, carol, dave):
        with pytest.raises(NotAllowed):
            ask(connection, by=person)
    Share.objects.update(level=Share.Level.MANAGE)
    assert ask(connection, by=User.objects.get(pk=dave.pk)).requester == dave


@pytest.mark.parametrize("reason", ["", "   ", "x" * 2001])
def test_a_reason_is_needed(bob: User, reason: str) -> None:
    with pytest.raises(InvalidInput):
        ask(make_pending(), reason=reason)
    assert not ConsentRequest.objects.exists()


def test_consent_is_not_requested_for_a_removed_connection(bob: User) -> None:
    connection = make_pending()
    Connection.objects.all().delete()
    with pytest.raises(InvalidInput):
        ask(connection)


def test_approving_creates_one_link_for_equal_requests(sandbox: Control, alice: User, bob: User, dave: User) -> None:
    own, theirs = ask(make_pending()), ask(make_pending(owner=dave, name="Theirs"))
    other = ask(make_pending(name="Other", capabilities=["mail.read"]))
    url = approve(own, alice)
    scopes = {name.rpartition("/")[2] for name in query(url)["scope"].split()}
    assert scopes == {"Mail.Read", "User.Read.All", "openid", "profile", "offline_access"}
    assert (state(own), state(theirs), state(other)) == (State.APPROVED, State.APPROVED, State.ASKED)
    assert own.link_id == theirs.link_id
    assert (own.decided_by, own.decided_by_name) == (alice, "Alice Admin")
    assert subjects("bob@example.org") == ["Approved: consent for Invoices"]
    assert subjects("dave@example.org") == ["Approved: consent for Theirs"]


def test_approving_again_returns_the_same_link_and_emails_nobody(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice)
    assert approve(request, factories.make_person("root", is_superuser=True)) == url
    assert request.decided_by == alice
    assert (events("approved"), len(subjects("bob@example.org"))) == (1, 1)


def test_a_later_equal_request_joins_the_link(sandbox: Control, alice: User, bob: User, dave: User) -> None:
    first = ask(make_pending())
    approve(first, alice)
    later = ask(make_pending(owner=dave, name="Later"))
    assert (later.state, later.link_id, later.decided_by) == (State.APPROVED, first.link_id, alice)
    assert len(subjects("alice@example.org")) == 1


def test_a_request_whose_link_has_expired_awaits_a_decision_again(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice)
    assert not requests.awaiting_decision(now()).exists()
    ConsentLink.objects.update(requested_at=now() - timedelta(days=8))
    assert list(requests.awaiting_decision(now())) == [request]
    assert approve(request, alice) != url
    assert not requests.awaiting_decision(now()).exists()


def test_only_it_admins_decide(bob: User, carol: User) -> None:
    request = ask(make_pending())
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            requests.approve(request, actor=person, now=now())
        with pytest.raises(NotAllowed):
            requests.decline(request, reason="No", actor=person, seen="asked", now=now())
    assert state(request) == State.ASKED


def test_a_request_of_a_disabled_requester_is_approved_without_email(sandbox: Control, alice: User, bob: User) -> None:
    request = ask(make_pending())
    User.objects.filter(pk=bob.pk).update(is_active=False)
    approve(request, alice)
    assert subjects("bob@example.org") == []
    assert request.state == State.APPROVED


def test_declining_twice_emails_the_reason_once(alice: User, bob: User) -> None:
    request = ask(make_pending())
    for _ in range(2):
        requests.decline(request, reason=" Use the archive. ", actor=alice, seen="asked", now=now())
    assert (state(request), request.answer) == (State.DECLINED, "Use the archive.")
    assert request.closed_at is not None
    assert subjects("bob@example.org") == ["Declined: consent for Invoices"]
    assert events("declined") == 1
    again = ask(Connection.objects.get())
    assert (again != request, again.state) == (True, State.ASKED)


def test_other_requests_for_the_same_are_declined_only_on_demand(alice: User, bob: User, dave: User) -> None:
    first, second = ask(make_pending()), ask(make_pending(owner=dave, name="Theirs"))
    requests.decline(first, reason="No", actor=alice, seen="asked", now=now())
    assert state(second) == State.ASKED
    third = ask(Connection.objects.get(owner=bob))
    requests.decline(third, reason="No", and_same=True, actor=alice, seen="asked", now=now())
    assert state(second) == State.DECLINED


def test_the_decision_of_another_it_admin_is_not_overwritten(sandbox: Control, alice: User, bob: User) -> None:
    request, _ = approved(alice)
    with pytest.raises(DecidedMeanwhile, match="Alice Admin"):
        requests.decline(request, reason="No", actor=alice, seen="asked", now=now())
    assert state(request) == State.APPROVED
    requests.decline(request, reason="No", actor=alice, seen="approved", now=now())
    with pytest.raises(DecidedMeanwhile):
        requests.approve(request, actor=alice, now=now())
    assert state(request) == State.DECLINED


def test_only_the_requester_withdraws(alice: User, bob: User) -> None:
    request = ask(make_pending())
    with pytest.raises(NotAllowed):
        requests.withdraw(request, actor=alice, now=now())
    for _ in range(2):
        requests.withdraw(request, actor=bob, now=now())
    assert (state(request), events("withdrawn")) == (State.WITHDRAWN, 1)
    with pytest.raises(DecidedMeanwhile):
        requests.approve(request, actor=alice, now=now())


def test_removing_the_connection_closes_the_request_and_keeps_its_record(alice: User, bob: User) -> None:
    connection = make_pending()
    request = ask(connection)
    connections.remove(connection, actor=bob, now=now())
    assert (state(request), request.answer) == (State.WITHDRAWN, "The connection was removed.")
    assert (request.connection, request.connection_name) == (None, "Invoices")
    assert not requests.awaiting_decision(now()).exists()


def granted_to(request: ConsentRequest, scopes: str) -> None:
    Connection.objects.filter(pk=request.connection_id or 0).update(granted_scopes=scopes)
    request_status.tokens_received([request.connection_id or 0], now=now())


def test_a_request_is_verified_by_the_next_token_not_by_the_callback(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice)
    callback(url, alice)
    assert state(request) == State.GRANTED
    assert subjects("bob@example.org")[-1] == "Consent reported: Invoices"

    granted_to(request, "Mail.Read openid")
    assert (state(request), request.answer) == (
        State.GRANTED,
        "Microsoft's latest token is still missing User.Read.All.",
    )
    granted_to(request, "Mail.ReadWrite User.Read.All openid")
    assert (state(request), request.answer) == (State.VERIFIED, "")
    granted_to(request, "openid")
    assert state(request) == State.VERIFIED
    assert (events("granted"), events("verified")) == (1, 1)


def test_consent_granted_without_the_link_verifies_the_request(alice: User, bob: User) -> None:
    request = ask(make_pending())
    granted_to(request, "Mail.Read User.Read.All")
    assert state(request) == State.VERIFIED
    assert subjects("bob@example.org") == ["Completed: Invoices has the requested permissions"]


def test_the_link_is_verified_when_an_unknown_administrator_consents(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice)
    callback(url, None)
    assert state(request) == State.GRANTED
    granted_to(request, "Mail.Read User.Read.All")
    assert state(request) == State.VERIFIED
    assert request.link is not None
    assert request.link.state == ConsentLink.State.VERIFIED, "only an administrator can have granted User.Read.All"


def test_a_link_for_permissions_people_grant_themselves_stays_open(sandbox: Control, alice: User, bob: User) -> None:
    request, _ = approved(alice, capabilities=["mail.read"])
    granted_to(request, "Mail.Read")
    assert request.link is not None
    assert (state(request), request.link.state) == (State.VERIFIED, ConsentLink.State.OPEN)


def test_a_refusal_is_emailed_to_the_it_admin_who_can_approve_again(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice)
    callback(url, alice, admin_consent="True", error="consent_required", error_description=CANCELLED)
    assert state(request) == State.FAILED
    assert "cancelled" in request.answer
    assert subjects("alice@example.org")[-1] == "Consent failed: Invoices"
    assert list(requests.awaiting_decision(now())) == [request]
    assert approve(request, alice) != url
    assert (state(request), request.answer) == (State.APPROVED, "")


def test_application_roles_do_not_verify_delegated_consent(sandbox: Control, alice: User, bob: User) -> None:
    request, url = approved(alice, capabilities=["mail.read"])
    assert not admin_consent.verify(callback(url, alice), actor=None, now=now())
    assert admin_consent.verify_open(now=now()) == 0
    assert state(request) == State.GRANTED


def test_app_only_consent_is_requested_as_a_whole_and_verified_by_roles(sandbox: Control, alice: User) -> None:
    connection = factories.make_app_only_connection(
        app_registration=robots(), owner=alice, granted_scopes="", status=Connection.Status.CONSENT_NEEDED
    )
    request = ask(connection)
    assert request.permission_names == ("Mail.Read",)
    url = approve(request, alice)
    assert query(url)["scope"].endswith("/.default")
    link = callback(url, alice)
    assert state(request) == State.GRANTED
    assert admin_consent.verify(link, actor=None, now=now())
    assert state(request) == State.VERIFIED


def test_a_token_refresh_verifies_the_request(sandbox: Control, alice: User, bob: User) -> None:
    due: dict[str, Any] = {"status": Connection.Status.CONSENT_NEEDED, "refresh_after": now() - timedelta(seconds=1)}
    connection = factories.make_granted_connection(sandbox, owner=bob, **due)
    request = ask(connection)
    scheduler.sweep(now=now(), clock=timezone.now)
    assert factories.reloaded(connection).status == Connection.Status.ACTIVE
    assert state(request) == State.VERIFIED
