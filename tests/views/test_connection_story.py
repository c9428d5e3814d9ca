"""The page of a connection tells one story: every reader of every state and type reads nothing that contradicts it."""

import itertools
import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections import effective_status
from connections.effective_status import EffectiveStatus
from connections.models import AppRegistration, Connection, Share, TokenFetch, User
from connections.services.api_keys import token_requests
from connections.services.operations import daily_figures
from tests import factories, full_dataset
from tests.views.pages import SignIn, assert_hides, assert_shows, text

Status = Connection.Status
UNCONNECTED: dict[str, Any] = {"connected_at": None, "refresh_token": None, "access_token": None}
STATES: dict[EffectiveStatus, dict[str, Any]] = {
    EffectiveStatus.ACTIVE: {"status": Status.ACTIVE},
    EffectiveStatus.APP_REJECTED: {"status": Status.ACTIVE},
    EffectiveStatus.RECONNECT_NEEDED: {"status": Status.RECONNECT_NEEDED, "status_code": "AADSTS50173"},
    EffectiveStatus.ACCOUNT_GONE: {"status": Status.RECONNECT_NEEDED, "status_code": "AADSTS50057"},
    EffectiveStatus.CONSENT_NEEDED: {"status": Status.CONSENT_NEEDED, "status_code": "AADSTS65001"},
    EffectiveStatus.BLOCKED: {"status": Status.BLOCKED, "status_code": "AADSTS53003"},
    EffectiveStatus.AWAITING_CONSENT: {"status": Status.PENDING, **UNCONNECTED},
    EffectiveStatus.AWAITING_APPROVAL: {"status": Status.PENDING, "status_code": "approval_needed", **UNCONNECTED},
    EffectiveStatus.APPROVAL_REQUIRED: {"status": Status.PENDING, "status_code": "approval_needed", **UNCONNECTED},
    EffectiveStatus.PENDING: {"status": Status.PENDING, **UNCONNECTED},
    EffectiveStatus.DISABLED: {"status": Status.DISABLED, "status_code": "disabled"},
}
# What only a working connection may say, and what only somebody's sign-in can solve.
ALL_WELL = ("granted exactly", "granted no more", 'state-ok">', "No upcoming expirations")
SIGN_IN = ("needs to sign in", "You need to sign in", "Sign in again as", "Sign in to Microsoft", "Sign in to grant")
OTHERS_ACT = (EffectiveStatus.APP_REJECTED, EffectiveStatus.AWAITING_CONSENT, EffectiveStatus.AWAITING_APPROVAL)
READERS = ("bob", "max", "una", "alice", "carol")


@pytest.fixture
def readers(alice: User, bob: User, carol: User) -> dict[str, User]:
    return {"alice": alice, "bob": bob, "carol": carol} | {name: factories.make_person(name) for name in ("max", "una")}


def make(owner: User, kind: str, state: EffectiveStatus) -> Connection:
    maker = factories.make_connection if kind == "delegated" else factories.make_app_only_connection
    values = {name: value for name, value in STATES[state].items() if kind == "delegated" or name != "refresh_token"}
    connection = maker(owner=owner, **values)
    if state == EffectiveStatus.APP_REJECTED:
        AppRegistration.objects.update(rejected_at=timezone.now(), rejected_cause="Its client secret has expired.")
    if state == EffectiveStatus.AWAITING_CONSENT:
        factories.make_consent_request(connection)
    if state == EffectiveStatus.AWAITING_APPROVAL:
        full_dataset.make_approval(connection)
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(connection, mailbox, state="reachable", probed_at=timezone.now())
    for name, level in (("una", "use"), ("max", "manage")):
        Share.objects.create(connection=connection, person=User.objects.get(username=name), level=level)
    return connection


# An app-only connection has no account.
CASES = [
    case
    for case in itertools.product(("delegated", "app_only"), STATES)
    if case != ("app_only", EffectiveStatus.ACCOUNT_GONE)
]


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_no_sentence_contradicts_the_state(
    readers: dict[str, User], signed_in: SignIn, kind: str, state: EffectiveStatus
) -> None:
    story = make(readers["bob"], kind, state)
    connection = Connection.objects.select_related("app_registration", "app_consent").get(pk=story.pk)
    assert effective_status.of(connection) == state
    for name in READERS:
        page = text(signed_in(readers[name]).get(f"/connections/{connection.pk}/")).partition("<main")[2]
        word = state.label
        if kind == "app_only":
            word = {"pending": "Not connected yet", "reconnect_needed": "Access rejected"}.get(state, word)
        assert_shows(page, f"</svg>{word}</span>")
        others = [other.label for other in EffectiveStatus if other not in (state, EffectiveStatus.ACTIVE)]
        # A request has a badge of its own that says the same of the request.
        assert_hides(page, *(f"</svg>{label}</span>" for label in others))
        if state != EffectiveStatus.ACTIVE:
            assert_hides(page, *ALL_WELL)
        if state in OTHERS_ACT:
            assert_hides(page, *SIGN_IN)
            assert "Your action is required" not in page
            assert "Assigned to: IT admins" in page
        if kind == "app_only":
            assert not re.findall(r"[^.>]*\bsign(?:s|ed)?[ -]?in\b[^.<]*", page, re.IGNORECASE)
        else:
            assert_hides(page, "App-only", "app-only connection", "Connect now")


def test_who_may_only_use_it_sees_how_and_nobody_elses_keys(readers: dict[str, User], signed_in: SignIn) -> None:
    connection = make(readers["bob"], "delegated", EffectiveStatus.ACTIVE)
    now = timezone.now()
    for name in ("bob", "una"):
        key, _ = factories.make_key(readers[name])
        request = token_requests.TokenRequest(
            key.pk, key.name, name, connection.pk, connection.name, f"10.0.0.{len(name)}"
        )
        token_requests.record([request], now=now - timedelta(minutes=1))
    assert TokenFetch.objects.count() == 2
    daily_figures.update(now=now)
    path = f"/connections/{connection.pk}/"
    pages = {name: text(signed_in(readers[name]).get(path)).partition("<main")[2] for name in READERS}
    assert_shows(
        pages["una"], "Use this connection", f"/api/v1/connections/{connection.pk}/token", "Key of una", "10.0.0.3"
    )
    assert_hides(pages["una"], "Key of bob", "Token requests by key")
    for name in ("bob", "max", "alice", "carol"):
        assert_shows(pages[name], "Key of una", "Key of bob", "Token requests by key", 'class="tone-key-1"')
    assert "Use this connection" not in pages["carol"]
    assert "Use this connection" in pages["bob"]


def test_mailboxes_are_offered_only_where_permissions_reach_one(bob: User, signed_in: SignIn) -> None:
    mail = factories.make_connection(owner=bob)
    teams = factories.make_connection(
        owner=bob, name="Chat", capabilities=["teams.channel_read"], granted_scopes="Channel.ReadBasic.All"
    )
    assert "Attach mailbox" in text(signed_in(bob).get(f"/connections/{mail.pk}/"))
    assert_hides(text(signed_in(bob).get(f"/connections/{teams.pk}/")), "Attach mailbox", "Shared mailboxes</h2>")


def test_its_life_is_on_a_line_and_in_a_list(bob: User, signed_in: SignIn) -> None:
    connection = factories.make_connection(owner=bob, created_at=timezone.now() - timedelta(days=40))
    page = text(signed_in(bob).get(f"/connections/{connection.pk}/"))
    assert_shows(page, "Life of the connection", "Created", "1 month ago")
