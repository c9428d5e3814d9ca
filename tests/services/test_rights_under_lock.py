"""Rights are those of the moment in which something changes, not those of the moment in which a page was read."""

from __future__ import annotations

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

pytestmark = pytest.mark.django_db

NOW = timezone.now()
Act = Callable[[Connection, User], object]


def share(connection: Connection, actor: User) -> object:
    una = factories.make_person("una")
    return shares.share(connection, person=una, level="manage", until=None, actor=actor, now=NOW)


def unshare(connection: Connection, actor: User) -> object:
    share = Share.objects.get(connection=connection)
    share.connection = connection
    return shares.end_share(share, actor=actor, now=NOW)


def change(connection: Connection, actor: User) -> object:
    return connections.change(connection, name="Mine", chosen=["mail.read"], extra_scopes=(), actor=actor)


def disable(connection: Connection, actor: User) -> object:
    return connections.disable(connection, actor=actor, now=NOW)


def enable(connection: Connection, actor: User) -> object:
    return connections.enable(connection, actor=actor, now=NOW)


def remove(connection: Connection, actor: User) -> object:
    return connections.remove(connection, actor=actor, now=NOW)


def ask_for_approval(connection: Connection, actor: User) -> object:
    return approvals.request_missing(connection, reason="Please.", actor=actor, now=NOW)


def ask_for_consent(connection: Connection, actor: User) -> object:
    return requests.request_consent(connection, reason="Please.", actor=actor, now=NOW)


def make_a_link(connection: Connection, actor: User) -> object:
    return sign_in_links.create(connection, actor=actor, now=NOW)


@pytest.mark.parametrize(
    "act",
    [share, unshare, change, disable, enable, remove, ask_for_approval, ask_for_consent, make_a_link],
    ids=lambda act: act.__name__,
)
def test_whoever_has_just_handed_it_over_does_nothing_more_with_it(act: Act, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    shares.share(connection, person=factories.make_person("max"), level="use", until=None, actor=bob, now=NOW)
    as_the_page_read_it = Connection.objects.select_related("owner").get(pk=connection.pk)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=bob, now=NOW)
    before = AuditEvent.objects.count()
    with pytest.raises(NotAllowed):
        act(as_the_page_read_it, bob)
    assert as_the_page_read_it.name == "Invoices"
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize("answer", ["approve", "decline"])
def test_an_it_admin_who_has_just_got_it_does_not_answer_for_it(answer: str, alice: User, bob: User) -> None:
    rule(permissions={"Mail.Send": "approval"})
    made = start(bob, chosen=["mail.send"], reason="To answer customers.")
    as_the_page_read_it = Approval.objects.select_related("connection__owner").get()
    ownership_transfer.transfer(made, alice, keep_grant=True, actor=bob, now=NOW)
    with pytest.raises(NotAllowed, match="cannot give it"):
        getattr(approvals, answer)(as_the_page_read_it, reason="Fine.", actor=alice, now=NOW)
    assert Approval.objects.get().is_waiting


def test_who_has_just_handed_it_over_does_not_take_its_request_back(bob: User, dave: User) -> None:
    rule(permissions={"Mail.Send": "approval"})
    made = start(bob, chosen=["mail.send"], reason="To answer customers.")
    as_the_page_read_it = Approval.objects.select_related("connection__owner").get()
    ownership_transfer.transfer(made, dave, keep_grant=True, actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        approvals.withdraw(as_the_page_read_it, actor=bob, now=NOW)
    assert Approval.objects.get().is_waiting


def test_switching_off_what_one_has_just_handed_over_is_an_it_admins_act(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=alice)
    as_the_page_read_it = Connection.objects.select_related("owner").get(pk=connection.pk)
    ownership_transfer.transfer(connection, bob, keep_grant=True, actor=alice, now=NOW)
    disable(as_the_page_read_it, alice)
    connection.refresh_from_db()
    assert connection.disabled_by_admin
