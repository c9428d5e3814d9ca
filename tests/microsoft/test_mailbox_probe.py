"""Shared mailboxes probed at the sandbox's Graph."""

from typing import Any

import pytest

from connections.microsoft import clouds, mailbox_errors, mailbox_probe, token_endpoint
from connections.microsoft import http as microsoft_http
from connections.microsoft import mailbox_errors as lacks_module
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Who
from connections.microsoft.mailbox_errors import MissingAccess, Probe, Purpose, ReachState
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

SUPPORT, SALES = "support@contoso.example", "sales@contoso.example"
GUEST = "barbara_fabrikam.example#EXT#@contoso.example"


@pytest.fixture
def cloud(sandbox: Control) -> Cloud:
    return clouds.CLOUDS["sandbox"]


def app_only_token(cloud: Cloud) -> str:
    secret = token_endpoint.ClientSecret(seed.ROBOTS_SECRET)
    return token_endpoint.request_app_only_token(
        token_endpoint.Application(cloud, seed.CONTOSO, seed.ROBOTS_APP, secret)
    ).access_token


def delegated_token(sandbox: Control, cloud: Cloud, *scopes: str, upn: str = factories.ADA) -> str:
    wanted = [*scopes, "offline_access"]
    sandbox.withdraw_consent(client_id=seed.CONNECTIONS_APP, tenant=seed.CONTOSO)
    sandbox.grant_consent(client_id=seed.CONNECTIONS_APP, tenant=seed.CONTOSO, scopes=wanted, upn=upn)
    grant = sandbox.issue_grant(client_id=seed.CONNECTIONS_APP, upn=upn, scopes=wanted)
    application = token_endpoint.Application(
        cloud, seed.CONTOSO, seed.CONNECTIONS_APP, token_endpoint.ClientSecret(seed.CONNECTIONS_SECRET)
    )
    request = token_endpoint.refresh_request(application, grant["refresh_tokens"][0], wanted, None)
    return token_endpoint.request_token_or_raise(
        token_endpoint.read_answer(microsoft_http.client().send(request))
    ).access_token


def probe(cloud: Cloud, token: str, address: str, **more: Any) -> Probe:
    return mailbox_probe.probe_mailboxes(cloud, token, [address], **more)[address]


def test_a_member_with_the_shared_permission_reaches_the_mailbox(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read", "Mail.Read.Shared")
    assert probe(cloud, token, SUPPORT) == mailbox_errors.REACHABLE


# --- What is missing, each with a sentence of its own ---------------------------------------------


def lacks(probe: Probe, lack: MissingAccess, who: Who, cause: str, action: str) -> None:
    """The lack, who mends it, and the words by which people know it."""
    assert (probe.state, probe.lack, probe.who) == (ReachState.UNREACHABLE, lack, who)
    assert probe.code
    assert cause in probe.cause
    assert action in probe.action
    assert not {"{", "}"} & set(probe.cause + probe.action)


def test_without_the_shared_permission_it_is_named_and_the_owner_can_mend_it(sandbox: Control, cloud: Cloud) -> None:
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read"), SUPPORT)
    lacks(found, MissingAccess.SHARED_SCOPE, Who.OWNER, "Mail.Read.Shared", "“Read shared mailboxes”")


def test_an_account_that_is_no_member_needs_full_access(sandbox: Control, cloud: Cloud) -> None:
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read.Shared"), SALES)
    lacks(
        found,
        MissingAccess.FULL_ACCESS,
        Who.IT_ADMIN,
        "no access",
        "Exchange administrator must give the account Full Access",
    )


def test_an_inbox_shared_alone_is_not_the_whole_mailbox(sandbox: Control, cloud: Cloud) -> None:
    sandbox.set_mailbox(address=SALES, inbox_members=[factories.ADA])
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read.Shared"), SALES)
    lacks(found, MissingAccess.FOLDER_ONLY, Who.IT_ADMIN, "Only the inbox folder", "Full Access")


def test_a_guest_is_told_to_use_an_account_of_the_organisation(sandbox: Control, cloud: Cloud) -> None:
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read", "Mail.Read.Shared", upn=GUEST), SUPPORT)
    lacks(found, MissingAccess.GUEST, Who.OWNER, "is a guest", "account of the organisation itself")
    # A missing permission would not help a guest either.
    assert probe(cloud, delegated_token(sandbox, cloud, "Mail.Read", upn=GUEST), SUPPORT).lack is MissingAccess.GUEST


def test_a_policy_that_keeps_an_application_out(sandbox: Control, cloud: Cloud) -> None:
    token = app_only_token(cloud)
    assert probe(cloud, token, SALES) == mailbox_errors.REACHABLE
    sandbox.set_mailbox(address=SALES, app_scope=[])
    lacks(
        probe(cloud, token, SALES),
        MissingAccess.POLICY_SCOPE,
        Who.IT_ADMIN,
        "keeps this application away",
        "must add the",
    )


def without_roles(sandbox: Control, *roles: str) -> None:
    sandbox.withdraw_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO)
    sandbox.grant_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO, roles=list(roles))


@pytest.mark.parametrize("roles", [("User.Read.All",), ()])
def test_an_application_without_mail_read_is_told_which_role_is_missing(
    sandbox: Control, cloud: Cloud, roles: tuple[str, ...]
) -> None:
    without_roles(sandbox, *roles)
    found = probe(cloud, app_only_token(cloud), SUPPORT)
    lacks(
        found,
        MissingAccess.APP_ROLE,
        Who.IT_ADMIN,
        "Mail.Read is not granted in Entra",
        "let the application into this",
    )


def test_what_exchange_grants_is_seen_although_no_token_shows_it(sandbox: Control, cloud: Cloud) -> None:
    without_roles(sandbox)
    sandbox.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=[SUPPORT])
    token = app_only_token(cloud)
    assert token_endpoint.roles(token) == ()
    found = mailbox_probe.probe_mailboxes(cloud, token, [SALES, SUPPORT])
    assert found[SUPPORT] == mailbox_errors.REACHABLE
    # It reaches another one without the role: so Exchange keeps a list, and this mailbox is not on it.
    assert found[SALES].lack is MissingAccess.POLICY_SCOPE
    assert probe(cloud, token, SALES).lack is MissingAccess.APP_ROLE
    assert probe(cloud, token, SALES, reaches_others=True).lack is MissingAccess.POLICY_SCOPE


def test_addresses_without_a_mailbox_are_told_apart_by_the_directory(sandbox: Control, cloud: Cloud) -> None:
    sandbox.add_person("maria@contoso.example", "Maria Mitchell", licensed=False)
    asked = ["nobody@contoso.example", "maria@contoso.example", "barbara@fabrikam.example"]
    found = mailbox_probe.probe_mailboxes(cloud, app_only_token(cloud), asked)
    lacks(
        found[asked[0]],
        MissingAccess.NOT_FOUND,
        Who.OWNER,
        f"no mailbox {asked[0]} in this directory",
        "check the address",
    )
    lacks(found[asked[1]], MissingAccess.NO_LICENCE, Who.IT_ADMIN, "without a licence", "assign a licence")
    lacks(found[asked[2]], MissingAccess.GUEST_MAILBOX, Who.OWNER, "account of a guest", "attach another address")


def test_without_the_right_to_look_it_up_the_sentence_leaves_it_open(sandbox: Control, cloud: Cloud) -> None:
    without_roles(sandbox, "Mail.Read")
    token = app_only_token(cloud)
    lacks(
        probe(cloud, token, "donald@contoso.example"), MissingAccess.NO_MAILBOX, Who.IT_ADMIN, "no mailbox", "check the"
    )
    assert probe(cloud, token, "barbara@fabrikam.example").lack is MissingAccess.NO_MAILBOX


def test_a_directory_that_does_not_answer_the_look_up_changes_nothing(
    sandbox: Control, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_probe, "_by_address", lambda address: "users?$filter=nonsense")
    assert probe(cloud, app_only_token(cloud), "donald@contoso.example").lack is MissingAccess.NO_MAILBOX


def test_every_lack_has_sentences_and_somebody_who_can_mend_it() -> None:
    assert set(lacks_module.ENTRIES) == set(MissingAccess)
    for lack in MissingAccess:
        found = lacks_module.missing_access(lack, "code", SUPPORT)
        lacks(found, lack, mailbox_errors.who_can_fix(lack.value), ".", " must ")
        assert len(lack.value) <= 30
    assert mailbox_errors.who_can_fix("") is Who.IT_ADMIN
    assert mailbox_errors.who_can_fix("gone_in_this_version") is Who.IT_ADMIN


# --- What is tested for whom ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "delegated", "expected"),
    [
        (("Mail.Read.Shared",), True, lacks_module.MAIL),
        (("Mail.ReadWrite.Shared", "Calendars.Read.Shared"), True, lacks_module.MAIL),
        (("Mail.Read", "Calendars.Read.Shared"), True, lacks_module.CALENDAR),
        (("Mail.Read", "Mail.Send.Shared"), True, lacks_module.SEND),
        (("Mail.Read",), True, lacks_module.MAIL),
        ((), True, lacks_module.MAIL),
        (("Mail.ReadWrite", "User.Read.All"), False, lacks_module.MAIL),
        (("Calendars.ReadWrite", "User.Read.All"), False, lacks_module.CALENDAR),
        (("Mail.Send", "User.Read.All"), False, lacks_module.SEND),
    ],
)
def test_what_a_connection_wants_decides_what_is_tested(
    wanted: tuple[str, ...], delegated: bool, expected: Purpose
) -> None:
    assert mailbox_errors.purpose_of(wanted, delegated=delegated) is expected


def test_a_calendar_is_tested_by_its_events(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Calendars.Read.Shared")
    assert probe(cloud, token, SUPPORT, purpose=lacks_module.CALENDAR) == mailbox_errors.REACHABLE
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", upn="alan@contoso.example")
    found = probe(cloud, token, SALES, purpose=lacks_module.CALENDAR)
    lacks(found, MissingAccess.SHARED_SCOPE, Who.OWNER, "Calendars.Read.Shared", "shared calendars")


def test_a_connection_that_only_sends_is_not_tested_and_nobody_is_asked(sandbox: Control, cloud: Cloud) -> None:
    sandbox.clear_calls()
    found = probe(cloud, "token", SUPPORT, purpose=mailbox_errors.SEND)
    assert (found.state, found.code, found.lack) == (ReachState.UNKNOWN, "not-tested", None)
    assert sandbox.calls()["total"] == 0


# --- Sending --------------------------------------------------------------------------------------


def test_a_test_message_shows_whether_one_may_send(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", "Mail.Send.Shared")
    assert mailbox_probe.send_test(cloud, token, SUPPORT) == mailbox_errors.REACHABLE
    assert sandbox.state()["sent"][-1]["to"] == [SUPPORT]
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    lacks(
        mailbox_probe.send_test(cloud, token, SUPPORT),
        MissingAccess.SEND_AS,
        Who.IT_ADMIN,
        "may not send as",
        "Send As",
    )
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", upn="robot@contoso.example")
    found = mailbox_probe.send_test(cloud, token, SUPPORT)
    lacks(found, MissingAccess.SHARED_SCOPE, Who.OWNER, "Mail.Send.Shared", "“Send from a shared mailbox”")
    lacks(
        mailbox_probe.send_test(cloud, app_only_token(cloud), SUPPORT),
        MissingAccess.APP_ROLE,
        Who.IT_ADMIN,
        "Mail.Send",
        "must",
    )
    sandbox.weather(kind="unavailable", where="graph")
    assert mailbox_probe.send_test(cloud, token, SUPPORT).state is ReachState.UNKNOWN


# --- Many, and bad days ---------------------------------------------------------------------------


def test_many_mailboxes_come_back_in_the_order_asked_each_once(sandbox: Control, cloud: Cloud) -> None:
    asked = [f"nobody{number}@contoso.example" for number in range(11)] + [SUPPORT, SALES, SUPPORT]
    found = mailbox_probe.probe_mailboxes(cloud, app_only_token(cloud), asked)
    assert list(found) == asked[:-1]
    assert [address for address in found if found[address] == mailbox_errors.REACHABLE] == [SUPPORT, SALES]


def test_what_was_granted_may_be_told_where_the_token_is_opaque(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared")
    found = probe(cloud, token, SALES, granted=["Mail.Read"], delegated=True)
    assert "Mail.Read.Shared" in found.cause


@pytest.mark.parametrize("kind", ["unavailable", "error", "throttle", "broken_json", "empty_504", "refuse"])
def test_a_bad_day_at_microsoft_is_unknown_never_unreachable(sandbox: Control, cloud: Cloud, kind: str) -> None:
    token = app_only_token(cloud)
    sandbox.weather(kind=kind, where="graph")
    found = probe(cloud, token, SUPPORT)
    assert found.state is ReachState.UNKNOWN
    assert found.cause


def test_a_rejected_token_is_unknown(cloud: Cloud) -> None:
    assert probe(cloud, "eyJ.not-a.token", SUPPORT).state is ReachState.UNKNOWN


def test_nobody_listening_is_unknown(sandbox: Control) -> None:
    nowhere = Cloud("nowhere", "Nowhere", "http://127.0.0.1:9", "http://127.0.0.1:9", "", "")
    assert probe(nowhere, "token", SUPPORT).state is ReachState.UNKNOWN


@pytest.mark.parametrize("address", ["a?b#ext#@contoso.example", "o'brien@contoso.example"])
def test_addresses_are_quoted_wherever_they_stand(sandbox: Control, cloud: Cloud, address: str) -> None:
    sandbox.set_mailbox(address=address, deleted=False)
    assert probe(cloud, app_only_token(cloud), address) == mailbox_errors.REACHABLE
    sandbox.set_mailbox(address=address, app_scope=[])
    assert probe(cloud, app_only_token(cloud), address).lack is MissingAccess.POLICY_SCOPE
    sandbox.set_mailbox(address=address, deleted=True)
    assert probe(cloud, app_only_token(cloud), address).lack is MissingAccess.NOT_FOUND
