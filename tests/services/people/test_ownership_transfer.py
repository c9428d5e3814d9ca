"""Ownership changes at once, nothing is orphaned, and only the new owner may change the account."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections as databases
from django.utils import timezone

from connections.access import permissions, querysets
from connections.errors import AlreadyExists, InvalidInput, NotAllowed, NothingToCheck, WrongAccount, WrongTenant
from connections.microsoft import token_endpoint
from connections.microsoft.account_claims import Account
from connections.models import AccessPeriod, AuditEvent, Connection, Delivery, HandOver, Incident, Share, User
from connections.services.connections import connections, sign_in
from connections.services.incidents import incidents
from connections.services.people import accounts, ownership_transfer
from connections.services.sharing import shares
from connections.services.tokens import scheduler
from connections.services.tokens.store import RenewedToken, store_renewed
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

NOW = timezone.now()
GRACE = Account(factories.DIRECTORY_ID, seed.fixed_id("grace@contoso.example"), "grace@contoso.example", "Grace Hopper")


ADA = Account(factories.DIRECTORY_ID, factories.ADA_ID, factories.ADA, "Ada")


def answer(**overrides: Any) -> token_endpoint.TokenSet:
    values: dict[str, Any] = {
        "access_token": "eyJ0.new",
        "refresh_token": "1.ANewRefreshToken",
        "expires_in": 3600,
        "granted": ("Mail.Read",),
    }
    return token_endpoint.TokenSet(**(values | overrides))


def give(connection: Connection, to: User, by: User, *, keep: bool = True, **more: Any) -> HandOver:
    return ownership_transfer.transfer(connection, to, keep_grant=keep, actor=by, now=NOW, **more)


def sign_in_as(actor: User, connection: Connection, account: Account = GRACE) -> None:
    sign_in.complete(reload(connection), actor=actor, answer=answer(), account=account, now=NOW)


def share_to_manage(connection: Connection) -> User:
    manager = factories.make_person("max")
    shares.share(connection, person=manager, level="manage", until=None, actor=connection.owner, now=NOW)
    return manager


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk"))


def reload(connection: Connection) -> Connection:
    return Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)


def test_the_new_owner_owns_at_once_and_the_old_grant_is_kept(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    hand_over = give(connection, dave, alice)
    after = reload(connection)
    assert (after.owner, after.status, after.refresh_token) == (dave, "active", connection.refresh_token)
    assert after.refresh_after is not None
    assert (hand_over.completed_at, hand_over.keeps_grant, hand_over.account_before) == (None, True, factories.ADA)
    assert permissions.can_fetch_token(dave, after)
    assert not querysets.visible_connections(bob).exists()
    assert [task.connection for task in ownership_transfer.tasks_of(dave)] == [after]
    event = events("connection.handed_over")[0]
    assert (event.actor, event.owner_id) == (alice, bob.pk)
    assert event.changes["owner_id"] == [bob.pk, dave.pk]
    assert event.changes["grant"] == "kept until the new owner signs in"


def test_a_transfer_updates_the_access_history_and_cancels_a_sign_in(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob, sign_in_started_at=NOW)
    give(connection, dave, alice)
    assert reload(connection).sign_in_started_at is None
    (period,) = AccessPeriod.objects.filter(kind=AccessPeriod.Kind.OWNER, ended_at=None)
    assert (period.person_id, period.started_at, period.started_by_id) == (dave.pk, NOW, alice.pk)


def test_a_transfer_without_the_grant_deletes_the_tokens_and_says_why(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob, previous_refresh_token="1.AnOlderOne")
    give(connection, dave, alice, keep=False)
    after: Any = reload(connection)
    assert (after.refresh_token, after.previous_refresh_token, after.access_token) == (None, None, None)
    assert (after.status, after.status_code, after.status_who) == ("reconnect_needed", "handed_over", "owner")
    assert "Ownership was transferred from Bob Member" in after.status_cause
    assert after.refresh_after is None
    with pytest.raises(NothingToCheck, match="Ownership was transferred"):
        scheduler.check_now(after, actor=dave, now=NOW)


def test_a_refresh_in_progress_does_not_restore_deleted_tokens(alice: User, dave: User, connection: Connection) -> None:
    slow = RenewedToken(connection.pk, connection.identity, connection.token_version, answer(), None)
    give(connection, dave, alice, keep=False)
    assert store_renewed([slow], now=NOW) == {}
    assert reload(connection).refresh_token is None


def test_the_new_owner_is_asked_until_they_have_signed_in(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    give(connection, dave, alice)
    incident = Incident.objects.get(kind="hand_over")
    assert (incident.title, incident.assignee, incident.who) == ("Sign in for Invoices", dave, "owner")
    assert Delivery.objects.filter(incident=incident, email=dave.email).count() == 1
    assert not Delivery.objects.filter(incident=incident, email=bob.email).exists()

    sign_in_as(dave, connection)
    incident.refresh_from_db()
    assert incident.closed_at is not None
    assert ownership_transfer.tasks_of(dave) == []
    assert HandOver.objects.get().completed_at == NOW


def test_a_refresh_of_the_old_grant_does_not_complete_the_transfer(
    alice: User, dave: User, connection: Connection
) -> None:
    give(connection, dave, alice)
    incidents.connections_recovered([connection.pk], now=NOW)
    assert Incident.objects.get(kind="hand_over").is_open


def test_signing_in_with_another_account_is_recorded(alice: User, dave: User, connection: Connection) -> None:
    give(connection, dave, alice)
    sign_in_as(dave, connection)
    after = reload(connection)
    assert (after.pk, after.account_username, after.status) == (connection.pk, GRACE.username, "active")
    assert after.refresh_token == "1.ANewRefreshToken"
    change = [factories.ADA, GRACE.username]
    assert events("connection.hand_over_completed")[0].changes["account"] == change
    assert events("connection.reconnected")[0].changes["account_username"] == change


def test_an_app_only_connection_needs_no_sign_in(alice: User, dave: User) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    hand_over = give(connection, dave, alice, keep=False)
    after = reload(connection)
    assert (after.owner, after.status, after.access_token) == (dave, "active", connection.access_token)
    assert hand_over.completed_at == NOW
    assert not Incident.objects.exists()
    assert "grant" not in events("connection.handed_over")[0].changes


def test_members_transfer_an_app_only_connection_to_it_admins_only(alice: User, bob: User, dave: User) -> None:
    """The connection reaches the whole tenant, so the actor or the new owner must be allowed to create one."""
    connection = factories.make_app_only_connection(owner=bob)
    with pytest.raises(InvalidInput, match="whole tenant"):
        give(connection, dave, bob)
    assert reload(connection).owner == bob
    give(connection, alice, bob)
    assert reload(connection).owner == alice


def test_a_connection_cannot_be_shared_with_its_new_owner(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    give(Connection.objects.get(), dave, bob)
    with pytest.raises(InvalidInput, match="already owns this connection"):
        shares.share(connection, person=dave, level="use", until=None, actor=alice, now=NOW)
    assert not connection.shares.exists()


def test_shares_stay_except_that_of_the_new_owner(
    alice: User, bob: User, dave: User, carol: User, connection: Connection
) -> None:
    for person in (dave, carol):
        shares.share(connection, person=person, level="use", until=None, actor=bob, now=NOW)
    give(connection, dave, alice)
    assert [share.person for share in Share.objects.active()] == [carol]
    assert events("connection.unshared")[0].changes["level"] == ["use", None]


@pytest.mark.parametrize(
    ("status", "code", "kept"),
    [
        ("reconnect_needed", "AADSTS50173", False),
        ("blocked", "AADSTS50057", False),
        ("blocked", "AADSTS500341", False),
        # A Microsoft policy or a missing consent says nothing about the grant.
        ("blocked", "AADSTS53003", True),
        ("consent_needed", "AADSTS65001", True),
    ],
)
def test_an_unusable_grant_is_not_kept(bob: User, dave: User, status: str, code: str, kept: bool) -> None:
    connection: Any = factories.make_connection(owner=bob, status=status, status_code=code)
    hand_over = give(connection, dave, bob, keep=True)
    after: Any = reload(connection)
    assert hand_over.keeps_grant is kept
    assert after.refresh_token == (connection.refresh_token if kept else None)
    assert (after.status, after.status_code) == ((status, code) if kept else ("reconnect_needed", "handed_over"))


def test_a_connection_that_was_never_connected_stays_pending(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(
        owner=bob, status="pending", connected_at=None, refresh_token=None, access_token=None, account_oid=""
    )
    Connection.objects.update(connected_at=None)
    give(connection, dave, alice)
    assert reload(connection).status == "pending"
    sign_in_as(dave, connection)
    assert reload(connection).status == "active"


def test_only_the_owner_and_it_admins_transfer_ownership(
    alice: User, bob: User, carol: User, dave: User, connection: Connection
) -> None:
    eve, manager = factories.make_person("eve"), share_to_manage(connection)
    for person in (carol, eve, manager):
        with pytest.raises(NotAllowed):
            give(connection, dave, person)
    give(connection, dave, bob)
    give(reload(connection), eve, alice)
    assert reload(connection).owner == eve


def test_a_person_who_cannot_own_connections_does_not_get_one(
    alice: User, bob: User, carol: User, connection: Connection
) -> None:
    disabled = factories.make_person("eve", is_active=False)
    leaving = factories.make_person("leo", left_at=NOW)
    for person in (carol, disabled, leaving, bob):
        with pytest.raises(InvalidInput) as refused:
            give(connection, person, alice)
        assert refused.value.field == "new_owner"
    assert reload(connection).owner == bob
    assert not HandOver.objects.exists()


def test_an_auditor_who_is_an_it_admin_too_may_own(alice: User, bob: User) -> None:
    both = factories.make_person("eve")
    accounts.set_roles(both, admin=True, auditor=True, actor=alice)
    give(factories.make_connection(owner=bob), both, alice)


def test_a_name_that_is_taken_can_be_changed_during_the_transfer(
    alice: User, dave: User, connection: Connection
) -> None:
    factories.make_connection(owner=dave)
    with pytest.raises(AlreadyExists) as refused:
        give(connection, dave, alice)
    assert refused.value.field == "new_name"
    give(connection, dave, alice, new_name="Invoices of Bob")
    assert reload(connection).name == "Invoices of Bob"
    assert events("connection.handed_over")[0].changes["name"] == ["Invoices", "Invoices of Bob"]


def test_repeating_a_transfer_changes_nothing(alice: User, dave: User, connection: Connection) -> None:
    assert give(connection, dave, alice) == give(connection, dave, alice)
    assert len(events("connection.handed_over")) == 1


def test_the_second_of_two_it_admins_learns_the_new_owner(alice: User, dave: User, connection: Connection) -> None:
    seen_by_the_second = reload(connection)
    give(connection, dave, alice)
    with pytest.raises(InvalidInput, match="was transferred to Dave Stranger"):
        give(seen_by_the_second, factories.make_person("eve"), alice)
    assert reload(connection).owner == dave


def test_a_removed_connection_cannot_be_transferred(alice: User, bob: User, dave: User, connection: Connection) -> None:
    seen = reload(connection)
    connections.remove(reload(connection), actor=bob, now=NOW)
    with pytest.raises(InvalidInput, match="removed"):
        give(seen, dave, alice)


def test_a_pending_transfer_is_superseded_by_another_one(alice: User, dave: User, connection: Connection) -> None:
    eve = factories.make_person("eve")
    first = give(connection, dave, alice)
    second = give(reload(connection), eve, alice)
    first.refresh_from_db()
    assert (first.superseded_at, first.completed_at) == (NOW, None)
    assert ownership_transfer.pending_transfer(connection) == second
    assert [incident.assignee for incident in Incident.objects.filter(closed_at=None)] == [eve]
    with pytest.raises(NotAllowed):
        sign_in_as(dave, connection)


@pytest.mark.django_db(transaction=True)
def test_only_one_of_two_simultaneous_transfers_succeeds(alice: User, dave: User, connection: Connection) -> None:
    eve = factories.make_person("eve")
    seen = [(reload(connection), dave), (reload(connection), eve)]
    outcomes: list[str] = []

    def press(connection: Connection, to: User) -> None:
        try:
            give(connection, to, alice)
            outcomes.append("done")
        except InvalidInput:
            outcomes.append("refused")
        finally:
            databases.close_all()

    threads = [threading.Thread(target=press, args=arguments) for arguments in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(outcomes) == ["done", "refused"]
    assert HandOver.objects.count() == 1
    assert HandOver.objects.get().to_owner == reload(connection).owner


def test_another_account_is_refused_without_a_transfer(bob: User, connection: Connection) -> None:
    with pytest.raises(WrongAccount):
        sign_in_as(bob, connection)


def test_only_the_new_owner_may_change_the_account_and_only_once(
    alice: User, dave: User, connection: Connection
) -> None:
    manager = share_to_manage(connection)
    give(connection, dave, alice)
    with pytest.raises(WrongAccount):
        sign_in_as(manager, connection)
    sign_in_as(dave, connection)
    with pytest.raises(WrongAccount):
        sign_in_as(dave, connection, ADA)


def test_an_account_of_another_directory_is_refused_for_a_multitenant_app(alice: User, bob: User, dave: User) -> None:
    tenant = factories.make_tenant(name="Everybody", directory_id="organizations", tid="")
    app = factories.make_app_registration(tenant=tenant)
    connection = factories.make_connection(owner=bob, app_registration=app)
    give(connection, dave, alice)
    stranger = Account(seed.FABRIKAM, GRACE.oid, "grace@fabrikam.example", "Grace")
    with pytest.raises(WrongTenant):
        sign_in_as(dave, connection, stranger)


def test_a_managers_sign_in_with_the_old_account_does_not_complete_it(
    alice: User, dave: User, connection: Connection
) -> None:
    manager = share_to_manage(connection)
    give(connection, dave, alice)
    sign_in_as(manager, connection, ADA)
    assert len(ownership_transfer.tasks_of(dave)) == 1


def test_the_sign_in_after_a_transfer_offers_all_accounts(
    sandbox: Control, alice: User, dave: User, connection: Connection
) -> None:
    assert sign_in.sign_in_client(connection).extra == {"login_hint": factories.ADA}
    give(connection, dave, alice)
    assert sign_in.sign_in_client(reload(connection)).extra == {"prompt": "select_account"}


def test_only_an_it_admin_enables_a_connection_that_an_it_admin_disabled(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    connections.disable(connection, actor=alice, now=NOW)
    after = reload(connection)
    assert (after.disabled_by, after.disabled_by_admin) == (alice, True)
    with pytest.raises(NotAllowed, match="IT admin"):
        connections.enable(reload(connection), actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        give(reload(connection), dave, bob)
    with pytest.raises(NotAllowed):
        sign_in.begin(reload(connection), actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        sign_in_as(bob, connection, ADA)
    assert reload(connection).status == "disabled"
    connections.enable(reload(connection), actor=alice, now=NOW)
    after = reload(connection)
    assert (after.status, after.disabled_by, after.disabled_by_admin) == ("active", None, False)


def test_the_owner_enables_a_connection_they_disabled(alice: User, bob: User, connection: Connection) -> None:
    for person in (bob, alice):
        connections.disable(reload(connection), actor=bob, now=NOW)
        assert not reload(connection).disabled_by_admin
        connections.enable(reload(connection), actor=person, now=NOW)
        assert reload(connection).status == "active"


def test_the_new_owner_of_a_disabled_connection_is_asked_once_it_is_enabled(
    alice: User, dave: User, connection: Connection
) -> None:
    connections.disable(connection, actor=alice, now=NOW)
    give(reload(connection), dave, alice, keep=False)
    after: Any = reload(connection)
    assert (after.status, after.owner, after.refresh_token) == ("disabled", dave, None)
    assert not Incident.objects.exists()
    connections.enable(reload(connection), actor=alice, now=NOW + timedelta(hours=1))
    assert (reload(connection).status, reload(connection).status_code) == ("reconnect_needed", "handed_over")
    assert Incident.objects.get().assignee == dave
    connections.disable(reload(connection), actor=dave, now=NOW)
    assert not Incident.objects.filter(closed_at=None).exists()
