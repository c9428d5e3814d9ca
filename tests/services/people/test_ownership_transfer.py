"""Handing over: the new owner owns at once, nothing is orphaned, and only they may change the account."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections as databases
from django.utils import timezone

from connections.access import permissions, querysets
from connections.errors import AlreadyExists, InvalidInput, NotAllowed, NothingToCheck, WrongAccount, WrongTenant
from connections.microsoft import token_endpoint
from connections.models import AccessPeriod, AuditEvent, Connection, Delivery, HandOver, Incident, Share, User
from connections.services.connections import connections, sign_in
from connections.services.people import ownership_transfer
from connections.services.sharing import shares
from connections.services.tokens import scheduler
from connections.services.tokens.store import RenewedToken, store_renewed
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
GRACE = sign_in.Account(
    factories.DIRECTORY_ID, seed.fixed_id("grace@contoso.example"), "grace@contoso.example", "Grace Hopper"
)


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


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk"))


def again(connection: Connection) -> Connection:
    return Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)


# --- Works ----------------------------------------------------------------------------------------


def test_the_new_owner_owns_at_once_and_the_old_grant_goes_on(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    made = give(connection, dave, alice)
    after = again(connection)
    assert (after.owner, after.status, after.refresh_token) == (dave, "active", connection.refresh_token)
    assert after.refresh_after is not None
    assert (made.completed_at, made.keeps_grant, made.account_before) == (None, True, factories.ADA)
    assert permissions.can_fetch_token(dave, after)
    assert not querysets.visible_connections(bob).exists()
    assert [task.connection for task in ownership_transfer.tasks_of(dave)] == [after]
    event = events("connection.handed_over")[0]
    assert (event.actor, event.owner_id) == (alice, bob.pk)
    assert event.changes["owner_id"] == [bob.pk, dave.pk]
    assert event.changes["grant"] == "kept until the new owner signs in"


def test_the_access_history_and_a_sign_in_that_was_under_way_follow_the_owner(
    alice: User, bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob, sign_in_started_at=NOW)
    give(connection, dave, alice)
    assert again(connection).sign_in_started_at is None
    (period,) = AccessPeriod.objects.filter(kind=AccessPeriod.Kind.OWNER, ended_at=None)
    assert (period.person_id, period.started_at, period.started_by_id) == (dave.pk, NOW, alice.pk)


def test_cutting_deletes_the_tokens_and_says_why_in_the_right_words(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob, previous_refresh_token="1.AnOlderOne")
    give(connection, dave, alice, keep=False)
    after = again(connection)
    assert (after.refresh_token, after.previous_refresh_token, after.access_token) == (None, None, None)
    assert (after.status, after.status_code, after.status_who) == ("reconnect_needed", "handed_over", "owner")
    assert "handed over from Bob Member" in after.status_cause
    assert after.refresh_after is None
    with pytest.raises(NothingToCheck, match="handed over"):
        scheduler.check_now(after, actor=dave, now=NOW)


def test_a_refresh_on_its_way_does_not_bring_a_cut_grant_back(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    slow = RenewedToken(connection.pk, connection.token_version, answer(), None)
    give(connection, dave, alice, keep=False)
    assert store_renewed([slow], now=NOW) == set()
    assert again(connection).refresh_token is None


def test_the_new_owner_is_asked_until_they_have_signed_in(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    give(connection, dave, alice)
    incident = Incident.objects.get(kind="hand_over")
    assert (incident.title, incident.assignee, incident.who) == ("Sign in for Invoices", dave, "owner")
    assert Delivery.objects.filter(incident=incident, email=dave.email).count() == 1
    assert not Delivery.objects.filter(email=bob.email).exists()

    sign_in.complete(again(connection), actor=dave, answer=answer(), account=GRACE, now=NOW)
    incident.refresh_from_db()
    assert incident.closed_at is not None
    assert ownership_transfer.tasks_of(dave) == []
    assert HandOver.objects.get().completed_at == NOW


def test_a_renewal_of_the_old_grant_does_not_end_the_task(alice: User, bob: User, dave: User) -> None:
    from connections.services.incidents import incidents

    connection = factories.make_connection(owner=bob)
    give(connection, dave, alice)
    incidents.connections_recovered([connection.pk], now=NOW)
    assert Incident.objects.get(kind="hand_over").is_open


def test_signing_in_with_another_account_is_on_record(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    give(connection, dave, alice)
    sign_in.complete(again(connection), actor=dave, answer=answer(), account=GRACE, now=NOW)
    after = again(connection)
    assert (after.pk, after.account_username, after.status) == (connection.pk, GRACE.username, "active")
    assert after.refresh_token == "1.ANewRefreshToken"
    done = events("connection.hand_over_completed")[0]
    assert done.changes["account"] == [factories.ADA, GRACE.username]
    assert events("connection.reconnected")[0].changes["account_username"] == [factories.ADA, GRACE.username]


def test_an_app_only_connection_needs_no_sign_in(alice: User, dave: User) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    made = give(connection, dave, alice, keep=False)
    after = again(connection)
    assert (after.owner, after.status, after.access_token) == (dave, "active", connection.access_token)
    assert made.completed_at == NOW
    assert not Incident.objects.exists()
    assert "grant" not in events("connection.handed_over")[0].changes


def test_members_give_an_app_only_connection_to_it_admins_alone(alice: User, bob: User, dave: User) -> None:
    """It reaches the whole tenant: whoever gets it is chosen by somebody who may make one."""
    connection = factories.make_app_only_connection(owner=bob)
    with pytest.raises(InvalidInput, match="whole tenant"):
        give(connection, dave, bob)
    assert again(connection).owner == bob
    give(connection, alice, bob)
    assert again(connection).owner == alice


def test_it_is_not_shared_with_whom_it_has_just_been_handed_over_to(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    give(Connection.objects.get(), dave, bob)
    with pytest.raises(InvalidInput, match="owns this connection already"):
        shares.share(connection, person=dave, level="use", until=None, actor=alice, now=NOW)
    assert not connection.shares.exists()


def test_shares_stay_and_the_new_owners_own_one_ends(alice: User, bob: User, dave: User, carol: User) -> None:
    connection = factories.make_connection(owner=bob)
    for person in (dave, carol):
        shares.share(connection, person=person, level="use", until=None, actor=bob, now=NOW)
    give(connection, dave, alice)
    assert [share.person for share in Share.objects.active()] == [carol]
    assert events("connection.unshared")[0].changes["level"] == ["use", None]


# --- A grant that is not worth keeping ------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [("reconnect_needed", "AADSTS50173"), ("blocked", "AADSTS50057"), ("blocked", "AADSTS500341")],
)
def test_a_dead_grant_is_not_kept(alice: User, bob: User, dave: User, status: str, code: str) -> None:
    connection = factories.make_connection(owner=bob, status=status, status_code=code)
    made = give(connection, dave, alice, keep=True)
    after = again(connection)
    assert (made.keeps_grant, after.refresh_token, after.status_code) == (False, None, "handed_over")


@pytest.mark.parametrize(("status", "code"), [("blocked", "AADSTS53003"), ("consent_needed", "AADSTS65001")])
def test_a_grant_that_waits_for_a_policy_is_kept(alice: User, bob: User, dave: User, status: str, code: str) -> None:
    connection = factories.make_connection(owner=bob, status=status, status_code=code)
    give(connection, dave, alice, keep=True)
    assert again(connection).status == status
    assert again(connection).refresh_token == connection.refresh_token


def test_what_nobody_finished_stays_unfinished(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(
        owner=bob, status="pending", connected_at=None, refresh_token=None, access_token=None, account_oid=""
    )
    Connection.objects.update(connected_at=None)
    give(connection, dave, alice)
    assert again(connection).status == "pending"
    sign_in.complete(again(connection), actor=dave, answer=answer(), account=GRACE, now=NOW)
    assert again(connection).status == "active"


# --- Refused --------------------------------------------------------------------------------------


def test_only_the_owner_and_it_admins_hand_over(alice: User, bob: User, carol: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    eve, max_ = factories.make_person("eve"), factories.make_person("max")
    shares.share(connection, person=max_, level="manage", until=None, actor=bob, now=NOW)
    for person in (carol, eve, max_):
        with pytest.raises(NotAllowed):
            give(connection, dave, person)
    give(connection, dave, bob)
    give(again(connection), eve, alice)
    assert again(connection).owner == eve


def test_whoever_cannot_own_it_does_not_get_it(alice: User, bob: User, carol: User) -> None:
    connection = factories.make_connection(owner=bob)
    disabled = factories.make_person("eve", is_active=False)
    leaving = factories.make_person("leo", left_at=NOW)
    for person in (carol, disabled, leaving, bob):
        with pytest.raises(InvalidInput) as refused:
            give(connection, person, alice)
        assert refused.value.field == "new_owner"
    assert again(connection).owner == bob
    assert not HandOver.objects.exists()


def test_an_auditor_who_is_an_it_admin_too_may_own(alice: User, bob: User) -> None:
    from connections.services.people import accounts

    both = factories.make_person("eve")
    accounts.set_roles(both, admin=True, auditor=True, actor=alice)
    give(factories.make_connection(owner=bob), both, alice)


def test_a_name_that_is_taken_is_told_and_can_be_changed(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    factories.make_connection(owner=dave)
    with pytest.raises(AlreadyExists) as refused:
        give(connection, dave, alice)
    assert refused.value.field == "new_name"
    give(connection, dave, alice, new_name="Invoices of Bob")
    assert again(connection).name == "Invoices of Bob"
    assert events("connection.handed_over")[0].changes["name"] == ["Invoices", "Invoices of Bob"]


# --- Twice, at once, and on to somebody else ------------------------------------------------------


def test_doing_it_twice_changes_nothing(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    assert give(connection, dave, alice) == give(connection, dave, alice)
    assert len(events("connection.handed_over")) == 1


def test_the_second_of_two_admins_is_told_whose_it_is_now(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    seen_by_the_second = again(connection)
    give(connection, dave, alice)
    with pytest.raises(InvalidInput, match="belongs to Dave Stranger now"):
        give(seen_by_the_second, factories.make_person("eve"), alice)
    assert again(connection).owner == dave


def test_a_connection_removed_meanwhile_is_told(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    seen = again(connection)
    connections.remove(again(connection), actor=bob, now=NOW)
    with pytest.raises(InvalidInput, match="removed"):
        give(seen, dave, alice)


def test_an_unfinished_hand_over_goes_on_to_somebody_else(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    eve = factories.make_person("eve")
    first = give(connection, dave, alice)
    second = give(again(connection), eve, alice)
    first.refresh_from_db()
    assert (first.superseded_at, first.completed_at) == (NOW, None)
    assert ownership_transfer.pending_transfer(connection) == second
    assert [incident.assignee for incident in Incident.objects.filter(closed_at=None)] == [eve]
    with pytest.raises(NotAllowed):
        sign_in.complete(again(connection), actor=dave, answer=answer(), account=GRACE, now=NOW)


@pytest.mark.django_db(transaction=True)
def test_two_admins_at_the_same_moment_make_one_owner(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    eve = factories.make_person("eve")
    seen = [(again(connection), dave), (again(connection), eve)]
    ends: list[str] = []

    def press(connection: Connection, to: User) -> None:
        try:
            give(connection, to, alice)
            ends.append("done")
        except InvalidInput:
            ends.append("told")
        finally:
            databases.close_all()

    threads = [threading.Thread(target=press, args=one) for one in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(ends) == ["done", "told"]
    assert HandOver.objects.count() == 1
    assert HandOver.objects.get().to_owner == again(connection).owner


# --- Another account ------------------------------------------------------------------------------


def test_without_a_hand_over_another_account_is_refused(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    with pytest.raises(WrongAccount):
        sign_in.complete(connection, actor=bob, answer=answer(), account=GRACE, now=NOW)


def test_only_the_new_owner_may_change_the_account_and_only_once(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    manager = factories.make_person("max")
    shares.share(connection, person=manager, level="manage", until=None, actor=bob, now=NOW)
    give(connection, dave, alice)
    with pytest.raises(WrongAccount):
        sign_in.complete(again(connection), actor=manager, answer=answer(), account=GRACE, now=NOW)
    sign_in.complete(again(connection), actor=dave, answer=answer(), account=GRACE, now=NOW)
    ada = sign_in.Account(factories.DIRECTORY_ID, factories.ADA_ID, factories.ADA, "Ada")
    with pytest.raises(WrongAccount):
        sign_in.complete(again(connection), actor=dave, answer=answer(), account=ada, now=NOW)


def test_an_account_of_another_directory_is_refused_even_where_the_app_takes_all(
    alice: User, bob: User, dave: User
) -> None:
    tenant = factories.make_tenant(name="Everybody", directory_id="organizations", tid="")
    app = factories.make_app_registration(tenant=tenant)
    connection = factories.make_connection(owner=bob, app_registration=app)
    give(connection, dave, alice)
    stranger = sign_in.Account(seed.FABRIKAM, GRACE.oid, "grace@fabrikam.example", "Grace")
    with pytest.raises(WrongTenant):
        sign_in.complete(again(connection), actor=dave, answer=answer(), account=stranger, now=NOW)


def test_a_manager_who_renews_the_old_account_leaves_the_task_to_the_new_owner(
    alice: User, bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    manager = factories.make_person("max")
    shares.share(connection, person=manager, level="manage", until=None, actor=bob, now=NOW)
    give(connection, dave, alice)
    ada = sign_in.Account(factories.DIRECTORY_ID, factories.ADA_ID, factories.ADA, "Ada")
    sign_in.complete(again(connection), actor=manager, answer=answer(), account=ada, now=NOW)
    assert len(ownership_transfer.tasks_of(dave)) == 1


def test_the_sign_in_after_a_hand_over_lets_the_account_be_chosen(
    sandbox: Control, alice: User, bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    assert sign_in.sign_in_client(connection).extra == {"login_hint": factories.ADA}
    give(connection, dave, alice)
    assert sign_in.sign_in_client(again(connection)).extra == {"prompt": "select_account"}


# --- Disabled connections -------------------------------------------------------------------------


def test_what_an_it_admin_disabled_only_an_it_admin_brings_back(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    connections.disable(connection, actor=alice, now=NOW)
    found = again(connection)
    assert (found.disabled_by, found.disabled_by_admin) == (alice, True)
    with pytest.raises(NotAllowed, match="IT admin"):
        connections.enable(again(connection), actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        give(again(connection), dave, bob)
    with pytest.raises(NotAllowed):
        sign_in.begin(again(connection), actor=bob, now=NOW)
    ada = sign_in.Account(factories.DIRECTORY_ID, factories.ADA_ID, factories.ADA, "Ada")
    with pytest.raises(NotAllowed):
        sign_in.complete(again(connection), actor=bob, answer=answer(), account=ada, now=NOW)
    assert again(connection).status == "disabled"
    connections.enable(again(connection), actor=alice, now=NOW)
    found = again(connection)
    assert (found.status, found.disabled_by, found.disabled_by_admin) == ("active", None, False)


def test_what_its_owner_disabled_the_owner_brings_back(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    for person in (bob, alice):
        connections.disable(again(connection), actor=bob, now=NOW)
        assert not again(connection).disabled_by_admin
        connections.enable(again(connection), actor=person, now=NOW)
        assert again(connection).status == "active"


def test_a_disabled_connection_stays_so_and_its_task_begins_when_it_is_enabled(
    alice: User, bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    connections.disable(connection, actor=alice, now=NOW)
    give(again(connection), dave, alice, keep=False)
    found = again(connection)
    assert (found.status, found.owner, found.refresh_token) == ("disabled", dave, None)
    assert not Incident.objects.exists()
    connections.enable(again(connection), actor=alice, now=NOW + timedelta(hours=1))
    assert (again(connection).status, again(connection).status_code) == ("reconnect_needed", "handed_over")
    assert Incident.objects.get().assignee == dave
    connections.disable(again(connection), actor=dave, now=NOW)
    assert not Incident.objects.filter(closed_at=None).exists()
