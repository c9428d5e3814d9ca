"""Tokens of other resources: one account's tokens in another one's connection, and more than the policy allows."""

from datetime import timedelta

import pytest
from django.utils import timezone

from connections.errors import NotAllowed, PortalError
from connections.microsoft.account_claims import Account
from connections.microsoft.token_endpoint import TokenSet
from connections.models import Connection, ResourceToken, User
from connections.services.connections import connections, sign_in, sign_in_links
from connections.services.governance import policy
from connections.services.policy.rules import Effect, Rules
from connections.services.tokens import resource_tokens
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import Program, problem

ANSWER = TokenSet("access", 3600, ("exchange/IMAP.AccessAsUser.All",), refresh_token="1.of-the-former-account")


@pytest.fixture
def connection(bob: User, sandbox: Control) -> Connection:
    scopes = ["Mail.Read", "exchange/IMAP.AccessAsUser.All", "offline_access"]
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, scopes)
    connection = factories.make_connection(
        refresh_token=grant["refresh_tokens"][0],
        capabilities=["mail.read", "imap.access"],
        scopes="Mail.Read offline_access",
    )
    resource_tokens.arrange(connection, forget_tokens=False, now=timezone.now())
    return connection


@pytest.mark.parametrize("change", ["owner", "account"])
def test_a_late_step_never_puts_the_former_accounts_grant_into_a_new_ones(
    change: str, connection: Connection, bob: User, dave: User
) -> None:
    """Bob's second step returns from Microsoft after his connection has become dave's, with dave's account."""
    seen_by_bob = Connection.objects.get()
    account = Account(seen_by_bob.account_tid, seen_by_bob.account_oid, seen_by_bob.account_username, "Ada")
    values = {"owner": dave} if change == "owner" else {"account_oid": "0" * 36}
    Connection.objects.update(connected_at=timezone.now() + timedelta(seconds=1), **values)
    before = Connection.objects.get().refresh_token
    with pytest.raises(NotAllowed if change == "owner" else PortalError):
        sign_in.complete_resource(
            seen_by_bob, "exchange", actor=bob, answer=ANSWER, account=account, now=timezone.now()
        )
    assert Connection.objects.get().refresh_token == before
    assert ResourceToken.objects.get().access_token is None


def test_an_open_link_does_not_follow_to_another_address(bob: User, sandbox: Control) -> None:
    app, chosen = factories.make_app_registration(), ["sharepoint.read"]
    hosts = {"sharepoint": "contoso.sharepoint.com"}
    own = connections.start_delegated(app, name="Sites", chosen=chosen, hosts=hosts, actor=bob)
    _, token = sign_in_links.create(own, actor=bob, now=timezone.now())
    hosts = {"sharepoint": "contoso-my.sharepoint.com"}
    connections.change(own, name="Sites", chosen=chosen, extra_scopes=[], hosts=hosts, actor=bob)
    with pytest.raises(sign_in_links.LinkUnusable):
        sign_in_links.open_link(token, now=timezone.now())


def test_a_new_sign_in_brings_nothing_for_another_resource_that_the_policy_now_forbids(
    connection: Connection, bob: User, alice: User, sandbox: Control
) -> None:
    path = f"connections/{connection.pk}/token"
    assert Program(bob).get(path, resource="exchange").status_code == 200
    policy.change(None, Rules(permissions={"exchange/SMTP.*": Effect.FORBIDDEN}), actor=alice, now=timezone.now())
    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["exchange/SMTP.Send"])
    resource_tokens.arrange(connection, forget_tokens=True, now=timezone.now())
    assert problem(Program(bob).get(path, resource="exchange"))[0] == 409
    assert ResourceToken.objects.get().access_token is None
