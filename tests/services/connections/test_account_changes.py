"""An account that was deleted and made anew under the same name: owner and IT admin confirm it together."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import AccountReplaced, NotAllowed, WrongAccount, WrongTenant
from connections.microsoft import token_endpoint
from connections.microsoft.account_claims import Account
from connections.models import Approval, AuditEvent, Connection, Delivery, User
from connections.services.connections import sign_in
from connections.services.policy import approvals
from connections.services.sharing import shares
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
NEW_ID = "0ada0ada-0000-4000-8000-000000000002"
AGAIN = Account(factories.DIRECTORY_ID, NEW_ID, factories.ADA.upper(), "Ada Lovelace")


def sign_in_as(actor: User, connection: Connection, account: Account = AGAIN) -> None:
    answer = token_endpoint.TokenSet("eyJ0.new", 3600, ("Mail.Read",), refresh_token="1.ANewRefreshToken")
    sign_in.complete(reload(connection), actor=actor, answer=answer, account=account, now=NOW)


def reload(connection: Connection) -> Any:
    return Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)


def held(bob: User) -> Connection:
    """Return bob's connection after he signed in with the new account."""
    connection = factories.make_connection(owner=bob)
    with pytest.raises(AccountReplaced):
        sign_in_as(bob, connection)
    return connection


def test_a_new_account_of_the_same_name_is_told_and_held(alice: User, bob: User, connection: Connection) -> None:
    with pytest.raises(AccountReplaced, match="new account with the same name") as caught:
        sign_in_as(bob, connection)
    assert (caught.value.code, caught.value.who) == ("account_replaced", "it_admin")
    after = reload(connection)
    assert (after.account_oid, after.refresh_token) == (factories.ADA_ID, connection.refresh_token)
    request = Approval.objects.get()
    assert (request.account_oid, request.requested_by, request.permissions) == (NEW_ID, bob, [])
    assert NEW_ID in " ".join(request.reasons)
    assert Delivery.objects.filter(email=alice.email).exists()
    with pytest.raises(AccountReplaced):
        sign_in_as(bob, connection)
    assert Approval.objects.count() == 1, "asked once"


def test_after_an_it_admin_confirmed_it_the_connection_keeps_id_shares_and_history(alice: User, bob: User) -> None:
    connection = held(bob)
    una = factories.make_person("una")
    shares.share(connection, person=una, level="use", until=None, actor=bob, now=NOW)
    approvals.approve(Approval.objects.get(), actor=alice, now=NOW)
    sign_in_as(bob, connection)

    after = reload(connection)
    assert (after.pk, after.account_oid, after.status) == (connection.pk, NEW_ID, "active")
    assert after.shares.active(NOW).filter(person=una).exists()
    event = AuditEvent.objects.get(action="connection.reconnected")
    assert event.changes["account_oid"] == [factories.ADA_ID, NEW_ID]
    approved = AuditEvent.objects.get(action="approval.approved")
    assert approved.actor == alice


def test_neither_of_them_alone_can_do_it(alice: User, bob: User) -> None:
    connection = held(bob)
    request = Approval.objects.get()
    with pytest.raises(NotAllowed):
        approvals.approve(request, actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        sign_in_as(alice, connection)
    own = factories.make_connection(owner=alice, name="Own")
    with pytest.raises(AccountReplaced):
        sign_in_as(alice, own)
    with pytest.raises(NotAllowed):
        approvals.approve(Approval.objects.get(connection=own), actor=alice, now=NOW)


def test_a_confirmation_is_good_for_that_account_only(alice: User, bob: User) -> None:
    connection = held(bob)
    approvals.approve(Approval.objects.get(), actor=alice, now=NOW)
    third = Account(factories.DIRECTORY_ID, "0ada0ada-0000-4000-8000-000000000003", factories.ADA, "Ada")
    with pytest.raises(AccountReplaced):
        sign_in_as(bob, connection, third)
    other = factories.make_connection(owner=bob, name="Other")
    with pytest.raises(AccountReplaced):
        sign_in_as(bob, other)


def test_what_was_declined_is_told_and_not_asked_again(alice: User, bob: User) -> None:
    connection = held(bob)
    approvals.decline(Approval.objects.get(), reason="That is another Ada.", actor=alice, now=NOW)
    with pytest.raises(AccountReplaced, match=r"That is another Ada\."):
        sign_in_as(bob, connection)
    assert Approval.objects.count() == 1


@pytest.mark.parametrize(
    "account",
    [
        Account(factories.DIRECTORY_ID, NEW_ID, "grace@contoso.example", "Grace"),
        Account("0" * 36, NEW_ID, factories.ADA, "Ada"),
        Account(factories.DIRECTORY_ID, NEW_ID, "", "Ada"),
    ],
    ids=["another name", "another directory", "no name"],
)
def test_any_other_account_is_refused_as_before(bob: User, account: Account, connection: Connection) -> None:
    with pytest.raises((WrongAccount, WrongTenant)) as caught:
        sign_in_as(bob, connection, account)
    assert not isinstance(caught.value, AccountReplaced)
    assert not Approval.objects.exists()


def test_a_confirmed_account_approves_no_permission(alice: User, bob: User) -> None:
    connection = held(bob)
    approvals.approve(Approval.objects.get(), actor=alice, now=NOW)
    assert approvals.latest_request(connection, state="approved") is None


def test_starting_the_sign_in_again_does_not_withdraw_the_request(bob: User) -> None:
    connection = held(bob)
    sign_in.begin(reload(connection), actor=bob, now=NOW + timedelta(minutes=1))
    assert Approval.objects.get().is_waiting
