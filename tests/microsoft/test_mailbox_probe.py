"""Shared mailboxes are tested against the sandbox's Graph."""

from typing import Any

import pytest

from connections.microsoft import clouds, mailbox_errors, mailbox_probe, token_endpoint
from connections.microsoft import http as microsoft_http
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Who
from connections.microsoft.mailbox_errors import (
    CALENDAR,
    MAIL,
    REACHABLE,
    SEND,
    MissingAccess,
    Probe,
    Purpose,
    ReachState,
)
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

SUPPORT, SALES = "support@contoso.example", "sales@contoso.example"
GUEST = "barbara_fabrikam.example#EXT#@contoso.example"
DONALD = "donald@contoso.example"  # an account without a licence


@pytest.fixture
def cloud(sandbox: Control) -> Cloud:
    return clouds.CLOUDS["sandbox"]


def app_only_token(cloud: Cloud) -> str:
    secret = token_endpoint.ClientSecret(seed.ROBOTS_SECRET)
    application = token_endpoint.Application(cloud, seed.CONTOSO, seed.ROBOTS_APP, secret)
    return token_endpoint.request_app_only_token(application).access_token


def delegated_token(sandbox: Control, cloud: Cloud, *scopes: str, upn: str = factories.ADA) -> str:
    requested = [*scopes, "offline_access"]
    sandbox.withdraw_consent(client_id=seed.CONNECTIONS_APP, tenant=seed.CONTOSO)
    sandbox.grant_consent(client_id=seed.CONNECTIONS_APP, tenant=seed.CONTOSO, scopes=requested, upn=upn)
    grant = sandbox.issue_grant(client_id=seed.CONNECTIONS_APP, upn=upn, scopes=requested)
    secret = token_endpoint.ClientSecret(seed.CONNECTIONS_SECRET)
    application = token_endpoint.Application(cloud, seed.CONTOSO, seed.CONNECTIONS_APP, secret)
    request = token_endpoint.refresh_request(application, grant["refresh_tokens"][0], requested, None)
    answer = token_endpoint.read_answer(microsoft_http.client().send(request))
    return token_endpoint.request_token_or_raise(answer).access_token


def probe(cloud: Cloud, token: str, address: str, **options: Any) -> Probe:
    return mailbox_probe.probe_mailboxes(cloud, token, [address], **options)[address]


def assert_lacks(outcome: Probe, lack: MissingAccess, who: Who, cause: str, action: str) -> None:
    """Check the outcome; ``cause`` and ``action`` are parts of its sentences."""
    assert (outcome.state, outcome.lack, outcome.who) == (ReachState.UNREACHABLE, lack, who)
    assert outcome.code
    assert cause in outcome.cause
    assert action in outcome.action
    assert not {"{", "}"} & set(outcome.cause + outcome.action)


def test_a_member_with_the_shared_permission_reaches_the_mailbox(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read", "Mail.Read.Shared")
    assert probe(cloud, token, SUPPORT) == REACHABLE


def test_it_names_a_missing_shared_permission_which_the_owner_can_add(sandbox: Control, cloud: Cloud) -> None:
    outcome = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read"), SUPPORT)
    assert_lacks(outcome, MissingAccess.SHARED_SCOPE, Who.OWNER, "Mail.Read.Shared", "“Read shared mailboxes”")


def test_an_account_that_is_no_member_needs_full_access(sandbox: Control, cloud: Cloud) -> None:
    outcome = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read.Shared"), SALES)
    action = "Exchange administrator needs to give the account Full Access"
    assert_lacks(outcome, MissingAccess.FULL_ACCESS, Who.IT_ADMIN, "no access", action)


def test_an_inbox_shared_alone_is_not_the_whole_mailbox(sandbox: Control, cloud: Cloud) -> None:
    sandbox.set_mailbox(address=SALES, inbox_members=[factories.ADA])
    outcome = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read.Shared"), SALES)
    assert_lacks(outcome, MissingAccess.FOLDER_ONLY, Who.IT_ADMIN, "Only the inbox folder", "Full Access")


def test_a_guest_must_use_an_account_of_the_organisation(sandbox: Control, cloud: Cloud) -> None:
    outcome = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read", "Mail.Read.Shared", upn=GUEST), SUPPORT)
    assert_lacks(outcome, MissingAccess.GUEST, Who.OWNER, "is a guest", "one of the organisation's own accounts")
    # Granting the missing permission would not help a guest either.
    assert probe(cloud, delegated_token(sandbox, cloud, "Mail.Read", upn=GUEST), SUPPORT).lack is MissingAccess.GUEST


def test_an_exchange_policy_can_exclude_an_application(sandbox: Control, cloud: Cloud) -> None:
    token = app_only_token(cloud)
    assert probe(cloud, token, SALES) == REACHABLE
    sandbox.set_mailbox(address=SALES, app_scope=[])
    cause, action = "blocks this application", "needs to add the"
    assert_lacks(probe(cloud, token, SALES), MissingAccess.POLICY_SCOPE, Who.IT_ADMIN, cause, action)


def set_roles(sandbox: Control, *roles: str) -> None:
    sandbox.withdraw_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO)
    sandbox.grant_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO, roles=list(roles))


@pytest.mark.parametrize("roles", [("User.Read.All",), ()])
def test_it_names_the_role_that_an_application_lacks(sandbox: Control, cloud: Cloud, roles: tuple[str, ...]) -> None:
    set_roles(sandbox, *roles)
    outcome = probe(cloud, app_only_token(cloud), SUPPORT)
    cause, action = "Mail.Read isn't granted in Entra", "give the application access to this"
    assert_lacks(outcome, MissingAccess.APP_ROLE, Who.IT_ADMIN, cause, action)


def test_access_granted_by_exchange_works_although_the_token_has_no_role(sandbox: Control, cloud: Cloud) -> None:
    set_roles(sandbox)
    sandbox.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=[SUPPORT])
    token = app_only_token(cloud)
    assert token_endpoint.roles(token) == ()
    outcomes = mailbox_probe.probe_mailboxes(cloud, token, [SALES, SUPPORT])
    assert outcomes[SUPPORT] == REACHABLE
    # The app reaches another mailbox without having the role, so Exchange limits it to a list without this mailbox.
    assert outcomes[SALES].lack is MissingAccess.POLICY_SCOPE
    assert probe(cloud, token, SALES).lack is MissingAccess.APP_ROLE
    assert probe(cloud, token, SALES, reaches_others=True).lack is MissingAccess.POLICY_SCOPE


def test_the_directory_explains_addresses_without_a_mailbox(sandbox: Control, cloud: Cloud) -> None:
    nobody, maria, barbara = "nobody@contoso.example", "maria@contoso.example", "barbara@fabrikam.example"
    sandbox.add_person(maria, "Maria Mitchell", licensed=False)
    outcomes = mailbox_probe.probe_mailboxes(cloud, app_only_token(cloud), [nobody, maria, barbara])
    cause = f"no mailbox {nobody} in this directory"
    assert_lacks(outcomes[nobody], MissingAccess.NOT_FOUND, Who.OWNER, cause, "check the address")
    assert_lacks(
        outcomes[maria], MissingAccess.NO_LICENCE, Who.IT_ADMIN, "has no Exchange Online licence", "assign a licence"
    )
    assert_lacks(outcomes[barbara], MissingAccess.GUEST_MAILBOX, Who.OWNER, "is a guest account", "another address")


def test_without_permission_to_look_it_up_the_sentence_is_general(sandbox: Control, cloud: Cloud) -> None:
    set_roles(sandbox, "Mail.Read")
    token = app_only_token(cloud)
    outcome = probe(cloud, token, DONALD)
    assert_lacks(outcome, MissingAccess.NO_MAILBOX, Who.IT_ADMIN, "no working mailbox", "check the")
    assert probe(cloud, token, "barbara@fabrikam.example").lack is MissingAccess.NO_MAILBOX


def test_a_failing_look_up_changes_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_probe, "_by_address", lambda address: "users?$filter=nonsense")
    assert probe(cloud, app_only_token(cloud), DONALD).lack is MissingAccess.NO_MAILBOX


def test_every_lack_has_sentences_and_a_person_who_can_fix_it() -> None:
    assert set(mailbox_errors.ENTRIES) == set(MissingAccess)
    for lack in MissingAccess:
        outcome = mailbox_errors.missing_access(lack, "code", SUPPORT)
        assert_lacks(outcome, lack, mailbox_errors.who_can_fix(lack.value), ".", " needs to ")
        assert len(lack.value) <= 30
    assert mailbox_errors.who_can_fix("") is Who.IT_ADMIN
    assert mailbox_errors.who_can_fix("gone_in_this_version") is Who.IT_ADMIN


@pytest.mark.parametrize(
    ("permissions", "delegated", "expected"),
    [
        (("Mail.Read.Shared",), True, MAIL),
        (("Mail.ReadWrite.Shared", "Calendars.Read.Shared"), True, MAIL),
        (("Mail.Read", "Calendars.Read.Shared"), True, CALENDAR),
        (("Calendars.ReadWrite.Shared",), True, CALENDAR),
        (("Mail.Read", "Mail.Send.Shared"), True, SEND),
        (("Mail.Read",), True, MAIL),
        ((), True, MAIL),
        (("Mail.ReadWrite", "User.Read.All"), False, MAIL),
        (("Calendars.ReadWrite", "User.Read.All"), False, CALENDAR),
        (("Mail.Send", "User.Read.All"), False, SEND),
    ],
)
def test_permissions_decide_what_is_tested(permissions: tuple[str, ...], delegated: bool, expected: Purpose) -> None:
    assert mailbox_errors.purpose_of(permissions, delegated=delegated) is expected


def test_a_calendar_is_tested_by_its_events(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Calendars.Read.Shared")
    assert probe(cloud, token, SUPPORT, purpose=CALENDAR) == REACHABLE
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", upn="alan@contoso.example")
    outcome = probe(cloud, token, SALES, purpose=CALENDAR)
    assert_lacks(outcome, MissingAccess.SHARED_SCOPE, Who.OWNER, "Calendars.Read.Shared", "shared calendars")


@pytest.mark.parametrize("address", [SALES, "grace@contoso.example"])
def test_a_calendar_can_be_shared_without_the_mailbox(sandbox: Control, cloud: Cloud, address: str) -> None:
    token = delegated_token(sandbox, cloud, "Calendars.ReadWrite.Shared", "Mail.Read.Shared")
    outcome = probe(cloud, token, address, purpose=CALENDAR)
    assert_lacks(outcome, MissingAccess.CALENDAR, Who.OWNER, "isn't shared with the connected account", "share it")
    sandbox.share_calendar(address, factories.ADA)
    assert probe(cloud, token, address, purpose=CALENDAR) == REACHABLE
    assert probe(cloud, token, address).lack is MissingAccess.FULL_ACCESS
    sandbox.share_calendar(address)
    assert probe(cloud, token, address, purpose=CALENDAR).lack is MissingAccess.CALENDAR


def test_a_connection_that_only_sends_is_not_tested(sandbox: Control, cloud: Cloud) -> None:
    sandbox.clear_calls()
    outcome = probe(cloud, "token", SUPPORT, purpose=SEND)
    assert (outcome.state, outcome.code, outcome.lack) == (ReachState.UNKNOWN, "not-tested", None)
    assert sandbox.calls()["total"] == 0


def test_a_test_message_shows_whether_sending_works(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", "Mail.Send.Shared")
    assert mailbox_probe.send_test(cloud, token, SUPPORT) == REACHABLE
    assert sandbox.state()["sent"][-1]["to"] == [SUPPORT]
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    outcome = mailbox_probe.send_test(cloud, token, SUPPORT)
    assert_lacks(outcome, MissingAccess.SEND_AS, Who.IT_ADMIN, "isn't allowed to send as", "Send As")
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared", upn="robot@contoso.example")
    outcome = mailbox_probe.send_test(cloud, token, SUPPORT)
    assert_lacks(outcome, MissingAccess.SHARED_SCOPE, Who.OWNER, "Mail.Send.Shared", "“Send from a shared mailbox”")
    outcome = mailbox_probe.send_test(cloud, app_only_token(cloud), SUPPORT)
    assert_lacks(outcome, MissingAccess.APP_ROLE, Who.IT_ADMIN, "Mail.Send", "needs to")
    sandbox.weather(kind="unavailable", where="graph")
    assert mailbox_probe.send_test(cloud, token, SUPPORT).state is ReachState.UNKNOWN


def test_results_are_in_the_order_of_the_addresses_without_duplicates(cloud: Cloud) -> None:
    addresses = [f"nobody{number}@contoso.example" for number in range(11)] + [SUPPORT, SALES, SUPPORT]
    outcomes = mailbox_probe.probe_mailboxes(cloud, app_only_token(cloud), addresses)
    assert list(outcomes) == addresses[:-1]
    assert [address for address in outcomes if outcomes[address] == REACHABLE] == [SUPPORT, SALES]


def test_granted_permissions_can_be_given_for_an_opaque_token(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared")
    assert "Mail.Read.Shared" in probe(cloud, token, SALES, granted=["Mail.Read"], delegated=True).cause


@pytest.mark.parametrize("kind", ["unavailable", "error", "throttle", "broken_json", "empty_504", "refuse"])
def test_an_outage_of_microsoft_is_unknown_and_never_unreachable(sandbox: Control, cloud: Cloud, kind: str) -> None:
    token = app_only_token(cloud)
    sandbox.weather(kind=kind, where="graph")
    outcome = probe(cloud, token, SUPPORT)
    assert outcome.state is ReachState.UNKNOWN
    assert outcome.cause


def test_a_rejected_token_is_unknown(cloud: Cloud) -> None:
    assert probe(cloud, "eyJ.not-a.token", SUPPORT).state is ReachState.UNKNOWN


def test_a_refused_connection_is_unknown(sandbox: Control) -> None:
    nowhere = Cloud("nowhere", "Nowhere", "http://127.0.0.1:9", "http://127.0.0.1:9", "", "")
    assert probe(nowhere, "token", SUPPORT).state is ReachState.UNKNOWN


@pytest.mark.parametrize("address", ["a?b#ext#@contoso.example", "o'brien@contoso.example"])
def test_addresses_are_quoted_in_paths_and_filters(sandbox: Control, cloud: Cloud, address: str) -> None:
    sandbox.set_mailbox(address=address, deleted=False)
    assert probe(cloud, app_only_token(cloud), address) == REACHABLE
    sandbox.set_mailbox(address=address, app_scope=[])
    assert probe(cloud, app_only_token(cloud), address).lack is MissingAccess.POLICY_SCOPE
    sandbox.set_mailbox(address=address, deleted=True)
    assert probe(cloud, app_only_token(cloud), address).lack is MissingAccess.NOT_FOUND
