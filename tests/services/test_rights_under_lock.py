"""Permissions are checked at the moment of the change, not when the page was loaded."""

from collections.abc import Callable

import pytest
from django.utils import timezone

from connections.errors import NotAllowed
from connections.models import Approval, AuditEvent, Connection, Share, User
from connections.services.connections import connections, sign_in_links
from connections.services.consent import requests
from connections.services.people import ownership_transfer
from connections.services.policy import approvals
from connections.services.sharing import shares
from tests import factories
from tests.services.governance.test_policy import rule, start

NOW = timezone.now()
Act = Callable[[Connection, User], object]


def end_share(connection: Connection, actor: User) -> None:
    share = Share.objects.get(connection=connection)
    share.connection = connection
    shares.end_share(share, actor=actor, now=NOW)


ACTS: dict[str, Act] = {
    "share": lambda connection, actor: shares.share(
        connection, person=factories.make_person("una"), level="manage", until=None, actor=actor, now=NOW
    ),
    "end share": end_share,
    "change": lambda connection, actor: connections.change(
        connection, name="Mine", chosen=["mail.read"], extra_scopes=(), actor=actor
    ),
    "disable": lambda connection, actor: connections.disable(connection, actor=actor, now=NOW),
    "enable": lambda connection, actor: connections.enable(connection, actor=actor, now=NOW),
    "remove": lambda connection, actor: connections.remove(connection, actor=actor, now=NOW),
    "approval": lambda connection, actor: approvals.request_missing(connection, reason="Yes.", actor=actor, now=NOW),
    "consent": lambda connection, actor: requests.request_consent(connection, reason="Yes.", actor=actor, now=NOW),
    "sign-in link": lambda connection, actor: sign_in_links.create(connection, actor=actor, now=NOW),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_the_previous_owner_can_do_nothing_after_a_transfer(
    act: Act, bob: User, dave: User, connection: Connection
) -> None:
    shares.share(connection, person=factories.make_person("max"), level="use", until=None, actor=bob, now=NOW)
    stale = Connection.objects.select_related("owner").get(pk=connection.pk)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=bob, now=NOW)
    before = AuditEvent.objects.count()
    with pytest.raises(NotAllowed):
        act(stale, bob)
    assert stale.name == "Invoices"
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize("answer", ["approve", "decline"])
def test_an_it_admin_who_has_become_the_owner_cannot_decide_the_approval(answer: str, alice: User, bob: User) -> None:
    rule(permissions={"Mail.Send": "approval"})
    connection = start(bob, chosen=["mail.send"], reason="To answer customers.")
    stale = Approval.objects.select_related("connection__owner").get()
    ownership_transfer.transfer(connection, alice, keep_grant=True, actor=bob, now=NOW)
    with pytest.raises(NotAllowed, match="approve your own request"):
        getattr(approvals, answer)(stale, reason="Fine.", actor=alice, now=NOW)
    assert Approval.objects.get().is_waiting


def test_the_previous_owner_cannot_withdraw_the_approval_request(bob: User, dave: User) -> None:
    rule(permissions={"Mail.Send": "approval"})
    connection = start(bob, chosen=["mail.send"], reason="To answer customers.")
    stale = Approval.objects.select_related("connection__owner").get()
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        approvals.withdraw(stale, actor=bob, now=NOW)
    assert Approval.objects.get().is_waiting


def test_an_it_admin_who_was_the_owner_disables_as_an_it_admin(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=alice)
    stale = Connection.objects.select_related("owner").get(pk=connection.pk)
    ownership_transfer.transfer(connection, bob, keep_grant=True, actor=alice, now=NOW)
    connections.disable(stale, actor=alice, now=NOW)
    assert factories.reloaded(connection).disabled_by_admin
