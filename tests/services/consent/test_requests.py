"""Consent requests: asked once, decided once, and verified by tokens alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, Connection, ConsentLink, ConsentRequest, Delivery, Share, User
from connections.services.connections import connections
from connections.services.consent import admin_consent, request_status, requests
from connections.services.consent.requests import DecidedMeanwhile
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

State = ConsentRequest.State
GONE = "AADSTS65004: The resource owner or authorization server denied the request."


def now() -> datetime:
    return timezone.now()


def stopped(**overrides: Any) -> Connection:
    """A connection of bob's that Microsoft has sent away: nobody has signed in yet."""
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


def told(address: str) -> list[str]:
    return list(Delivery.objects.filter(email=address).order_by("pk").values_list("subject", flat=True))


def query(url: str) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(url).query).items()}


def came_back(url: str, by: User | None, **answer: str) -> ConsentLink:
    said = answer or {"admin_consent": "True", "tenant": factories.DIRECTORY_ID}
    return admin_consent.record_callback(urlencode({**said, "state": query(url)["state"]}), actor=by, now=now())


def state(request: ConsentRequest) -> str:
    request.refresh_from_db()
    return request.state


def events(verb: str) -> int:
    return AuditEvent.objects.filter(action=f"consent_request.{verb}").count()


# --- Asking ---------------------------------------------------------------------------------------


def test_it_asks_for_exactly_what_is_not_granted_and_tells_the_it_admins_once(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob, capabilities=["mail.read", "directory.profiles"])
    first = ask(connection)
    assert first.permission_names == ("User.Read.All",)
    assert (first.state, first.requester, first.connection_name) == (State.ASKED, bob, "Invoices")
    assert ask(connection, reason="Please!") == first
    assert told("alice@example.org") == ["Bob Member asks for consent: Invoices"]
    assert events("asked") == 1


def test_where_nothing_was_granted_it_asks_for_everything_the_connection_needs(bob: User) -> None:
    assert ask(stopped()).permission_names == ("Mail.Read", "User.Read.All")


def test_withdrawn_consent_is_asked_for_anew_although_the_last_token_showed_it(bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.CONSENT_NEEDED)
    assert ask(connection).permission_names == ("Mail.Read",)


def test_other_permissions_replace_the_request(bob: User) -> None:
    connection = stopped(capabilities=["mail.read"])
    first = ask(connection)
    Connection.objects.filter(pk=connection.pk).update(capabilities=["mail.read", "mail.send"])
    second = ask(Connection.objects.get(pk=connection.pk))
    assert second.permission_names == ("Mail.Read", "Mail.Send")
    assert state(first) == State.WITHDRAWN
    assert "other permissions" in first.answer


@pytest.mark.django_db(transaction=True)
def test_of_several_that_ask_at_once_all_get_the_same_request(bob: User) -> None:
    connection = stopped()
    together = threading.Barrier(4)

    def ask_together(_: int) -> int:
        try:
            together.wait(timeout=20)
            return ask(Connection.objects.get(pk=connection.pk)).pk
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask_together, range(4)))) == 1
    assert ConsentRequest.objects.count() == 1
    assert events("asked") == 1


def test_only_who_may_sign_in_for_it_asks(alice: User, bob: User, carol: User, dave: User) -> None:
    connection = stopped()
    Share.objects.create(connection=connection, person=dave, created_by=bob)
    for person in (alice, carol, dave):
        with pytest.raises(NotAllowed):
            ask(connection, by=person)
    Share.objects.update(level=Share.Level.MANAGE)
    assert ask(connection, by=User.objects.get(pk=dave.pk)).requester == dave


@pytest.mark.parametrize("reason", ["", "   ", "x" * 2001])
def test_a_reason_is_needed(bob: User, reason: str) -> None:
    with pytest.raises(InvalidInput):
        ask(stopped(), reason=reason)
    assert not ConsentRequest.objects.exists()


def test_a_connection_removed_meanwhile_is_not_asked_for(bob: User) -> None:
    connection = stopped()
    Connection.objects.all().delete()
    with pytest.raises(InvalidInput):
        ask(connection)


# --- Approving ------------------------------------------------------------------------------------


def test_one_link_asks_for_exactly_the_permissions_and_answers_all_who_wait_for_them(
    sandbox: Control, alice: User, bob: User, dave: User
) -> None:
    mine, theirs = ask(stopped()), ask(stopped(owner=dave, name="Theirs"))
    other = ask(stopped(name="Other", capabilities=["mail.read"]))
    url = approve(mine, alice)
    scopes = {name.rpartition("/")[2] for name in query(url)["scope"].split()}
    assert scopes == {"Mail.Read", "User.Read.All", "openid", "profile", "offline_access"}
    assert (state(mine), state(theirs), state(other)) == (State.APPROVED, State.APPROVED, State.ASKED)
    assert mine.link_id == theirs.link_id
    assert (mine.decided_by, mine.decided_by_name) == (alice, "Alice Admin")
    assert told("bob@example.org") == ["Approved: consent for Invoices"]
    assert told("dave@example.org") == ["Approved: consent for Theirs"]


def test_approving_again_hands_out_the_same_link_and_tells_nobody_again(
    sandbox: Control, alice: User, bob: User
) -> None:
    asked = ask(stopped())
    url = approve(asked, alice)
    assert approve(asked, factories.make_person("root", is_superuser=True)) == url
    assert asked.decided_by == alice
    assert (events("approved"), len(told("bob@example.org"))) == (1, 1)


def test_whoever_asks_while_the_link_is_out_joins_it(sandbox: Control, alice: User, bob: User, dave: User) -> None:
    first = ask(stopped())
    approve(first, alice)
    later = ask(stopped(owner=dave, name="Later"))
    assert (later.state, later.link_id, later.decided_by) == (State.APPROVED, first.link_id, alice)
    assert len(told("alice@example.org")) == 1


def test_a_link_that_has_run_out_waits_for_an_it_admin_again(sandbox: Control, alice: User, bob: User) -> None:
    asked = ask(stopped())
    url = approve(asked, alice)
    assert not requests.awaiting_decision(now()).exists()
    ConsentLink.objects.update(requested_at=now() - timedelta(days=8))
    assert list(requests.awaiting_decision(now())) == [asked]
    assert approve(asked, alice) != url
    assert not requests.awaiting_decision(now()).exists()


def test_only_it_admins_decide(bob: User, carol: User) -> None:
    asked = ask(stopped())
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            requests.approve(asked, actor=person, now=now())
        with pytest.raises(NotAllowed):
            requests.decline(asked, reason="No", actor=person, seen="asked", now=now())
    assert state(asked) == State.ASKED


def test_a_requester_who_has_left_is_not_written_to_but_can_be_decided_about(
    sandbox: Control, alice: User, bob: User
) -> None:
    asked = ask(stopped())
    User.objects.filter(pk=bob.pk).update(is_active=False)
    approve(asked, alice)
    assert told("bob@example.org") == []
    assert asked.state == State.APPROVED


# --- Declining and taking back --------------------------------------------------------------------


def test_declining_tells_the_reason_once(alice: User, bob: User) -> None:
    asked = ask(stopped())
    for _ in range(2):
        requests.decline(asked, reason=" Use the archive. ", actor=alice, seen="asked", now=now())
    assert (state(asked), asked.answer) == (State.DECLINED, "Use the archive.")
    assert asked.closed_at is not None
    assert told("bob@example.org") == ["Declined: consent for Invoices"]
    assert events("declined") == 1
    again = ask(Connection.objects.get())
    assert (again != asked, again.state) == (True, State.ASKED)


def test_the_others_are_answered_alike_only_if_wanted(alice: User, bob: User, dave: User) -> None:
    first, second = ask(stopped()), ask(stopped(owner=dave, name="Theirs"))
    requests.decline(first, reason="No", actor=alice, seen="asked", now=now())
    assert state(second) == State.ASKED
    third = ask(Connection.objects.get(owner=bob))
    requests.decline(third, reason="No", and_same=True, actor=alice, seen="asked", now=now())
    assert state(second) == State.DECLINED


def test_what_another_it_admin_has_decided_meanwhile_stands(sandbox: Control, alice: User, bob: User) -> None:
    asked = ask(stopped())
    approve(asked, alice)
    with pytest.raises(DecidedMeanwhile, match="Alice Admin"):
        requests.decline(asked, reason="No", actor=alice, seen="asked", now=now())
    assert state(asked) == State.APPROVED
    requests.decline(asked, reason="No", actor=alice, seen="approved", now=now())
    with pytest.raises(DecidedMeanwhile):
        requests.approve(asked, actor=alice, now=now())
    assert state(asked) == State.DECLINED


def test_only_the_requester_takes_it_back(alice: User, bob: User) -> None:
    asked = ask(stopped())
    with pytest.raises(NotAllowed):
        requests.withdraw(asked, actor=alice, now=now())
    for _ in range(2):
        requests.withdraw(asked, actor=bob, now=now())
    assert (state(asked), events("withdrawn")) == (State.WITHDRAWN, 1)
    with pytest.raises(DecidedMeanwhile):
        requests.approve(asked, actor=alice, now=now())


def test_removing_the_connection_ends_the_request_and_keeps_its_story(alice: User, bob: User) -> None:
    connection = stopped()
    asked = ask(connection)
    connections.remove(connection, actor=bob, now=now())
    assert (state(asked), asked.answer) == (State.WITHDRAWN, "The connection was removed.")
    assert (asked.connection, asked.connection_name) == (None, "Invoices")
    assert not requests.awaiting_decision(now()).exists()


# --- What comes of it -----------------------------------------------------------------------------


def granted_to(request: ConsentRequest, scopes: str) -> None:
    Connection.objects.filter(pk=request.connection_id).update(granted_scopes=scopes)
    request_status.tokens_received([request.connection_id or 0], now=now())


def test_a_callback_is_not_believed_the_next_token_is(sandbox: Control, alice: User, bob: User) -> None:
    asked = ask(stopped())
    url = approve(asked, alice)
    came_back(url, alice)
    assert state(asked) == State.GRANTED
    assert told("bob@example.org")[-1] == "Consent is granted: Invoices"

    granted_to(asked, "Mail.Read openid")
    assert (state(asked), asked.answer) == (State.GRANTED, "Microsoft's newest token still lacks User.Read.All.")
    granted_to(asked, "Mail.ReadWrite User.Read.All openid")
    assert (state(asked), asked.answer) == (State.VERIFIED, "")
    granted_to(asked, "openid")
    assert state(asked) == State.VERIFIED
    assert (events("granted"), events("verified")) == (1, 1)


def test_consent_that_came_another_way_verifies_it_too(alice: User, bob: User) -> None:
    asked = ask(stopped())
    granted_to(asked, "Mail.Read User.Read.All")
    assert state(asked) == State.VERIFIED
    assert told("bob@example.org") == ["Done: Invoices has the permissions you asked for"]


def test_an_administrator_without_an_account_here_answers_the_link_all_the_same(
    sandbox: Control, alice: User, bob: User
) -> None:
    asked = ask(stopped())
    came_back(approve(asked, alice), None)
    assert state(asked) == State.APPROVED
    granted_to(asked, "Mail.Read User.Read.All")
    assert state(asked) == State.VERIFIED
    assert asked.link is not None
    assert asked.link.state == ConsentLink.State.VERIFIED, "only an administrator can have granted User.Read.All"


def test_a_link_for_what_people_may_grant_themselves_stays_open(sandbox: Control, alice: User, bob: User) -> None:
    asked = ask(stopped(capabilities=["mail.read"]))
    approve(asked, alice)
    granted_to(asked, "Mail.Read")
    assert asked.link is not None
    assert (state(asked), asked.link.state) == (State.VERIFIED, ConsentLink.State.OPEN)


def test_a_no_at_microsoft_goes_back_to_the_it_admin_who_can_try_again(
    sandbox: Control, alice: User, bob: User
) -> None:
    asked = ask(stopped())
    url = approve(asked, alice)
    came_back(url, alice, admin_consent="True", error="consent_required", error_description=GONE)
    assert state(asked) == State.FAILED
    assert "cancelled" in asked.answer
    assert told("alice@example.org")[-1] == "No consent for Invoices"
    assert list(requests.awaiting_decision(now())) == [asked]
    assert approve(asked, alice) != url
    assert (state(asked), asked.answer) == (State.APPROVED, "")


def test_the_roles_of_an_application_say_nothing_about_delegated_consent(
    sandbox: Control, alice: User, bob: User
) -> None:
    asked = ask(stopped(capabilities=["mail.read"]))
    url = approve(asked, alice)
    link = came_back(url, alice)
    assert not admin_consent.verify(link, actor=None, now=now())
    assert admin_consent.verify_open(now=now()) == 0
    assert state(asked) == State.GRANTED


def test_app_only_consent_is_asked_for_as_a_whole_and_verified_by_roles(sandbox: Control, alice: User) -> None:
    app = factories.make_app_registration(
        name="Contoso Robots",
        client_id=factories.ROBOTS_CLIENT_ID,
        secret=factories.ROBOTS_CLIENT_SECRET,
        allows_delegated=False,
        default_capabilities=["mail.read"],
    )
    connection = factories.make_app_only_connection(
        app_registration=app, owner=alice, granted_scopes="", status=Connection.Status.CONSENT_NEEDED
    )
    asked = ask(connection)
    assert asked.permission_names == ("Mail.Read", "User.Read.All")
    url = approve(asked, alice)
    assert query(url)["scope"].endswith("/.default")
    link = came_back(url, alice)
    assert state(asked) == State.GRANTED
    assert admin_consent.verify(link, actor=None, now=now())
    assert state(asked) == State.VERIFIED


def test_a_refresh_verifies_it_without_anybody_signing_in(sandbox: Control, alice: User, bob: User) -> None:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["offline_access", "Mail.Read"])
    connection = factories.make_connection(
        owner=bob,
        refresh_token=grant["refresh_tokens"][0],
        status=Connection.Status.CONSENT_NEEDED,
        refresh_after=now() - timedelta(seconds=1),
    )
    asked = ask(connection)
    scheduler.sweep(now=now(), clock=timezone.now)
    connection.refresh_from_db()
    assert connection.status == Connection.Status.ACTIVE
    assert state(asked) == State.VERIFIED
