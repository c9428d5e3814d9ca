"""Take back what was just done: the button posts to the page of the opposite change, with its rights and events."""

import re
from typing import Any

import pytest
from django.test import Client

from connections import undo
from connections.models import AuditEvent, Connection, Share, Team, TeamMember, User
from tests import factories

_FORM = re.compile(r'<form class="ms-auto" method="post" action="([^"]+)" data-vanish.*?</form>', re.DOTALL)
_FIELD = re.compile(r'<input type="hidden" name="(?!csrf)([^"]+)" value="([^"]+)">')


def press_undo(client: Client, answer: Any) -> Any:
    """Post the form in the message."""
    form = _FORM.search(answer.content.decode())
    assert form is not None
    fields: dict[str, list[str]] = {}
    for name, value in _FIELD.findall(form[0]):
        fields.setdefault(name, []).append(value)
    return client.post(form[1], fields, follow=True)


@pytest.fixture
def invoices(bob: User) -> Connection:
    return factories.make_connection()


def share(client: Client, connection: Connection, whom: str, others: str = "") -> Any:
    form = {"whom": whom, "others": others, "level": "use", "understood": "on"}
    return client.post(f"/connections/{connection.pk}/shares/add/", form, follow=True)


def test_a_share_with_several_is_undone_at_once(member: Client, invoices: Connection, dave: User) -> None:
    factories.make_person("una")
    Team.objects.create(name="Finance")
    answer = press_undo(member, share(member, invoices, "dave", "una\nfinance"))
    assert "can no longer use Invoices." in answer.content.decode()
    assert not Share.objects.filter(ended_at=None).exists()
    assert AuditEvent.objects.filter(action="connection.unshared").count() == 3


def test_a_change_of_an_older_share_offers_no_end(member: Client, invoices: Connection, dave: User) -> None:
    share(member, invoices, "dave")
    form = {"whom": "dave", "level": "manage", "understood": "on"}
    session = member.session
    session.pop("undo")
    session.save()
    answer = member.post(f"/connections/{invoices.pk}/shares/add/", form, follow=True)
    assert _FORM.search(answer.content.decode()) is None


def test_disabling_is_undone(member: Client, invoices: Connection) -> None:
    answer = press_undo(member, member.post(f"/connections/{invoices.pk}/disable/", follow=True))
    assert "is enabled" in answer.content.decode()
    invoices.refresh_from_db()
    assert invoices.status == "active"
    actions = AuditEvent.objects.filter(target_type="Connection").values_list("action", flat=True)
    assert {"connection.disabled", "connection.enabled"} <= set(actions)


def test_detaching_a_mailbox_is_undone(member: Client, invoices: Connection) -> None:
    mailbox = factories.make_mailbox()
    access = factories.make_mailbox_access(invoices, mailbox)
    Connection.objects.filter(pk=invoices.pk).update(status="reconnect_needed")  # is not tested at once
    answer = member.post(f"/connections/{invoices.pk}/mailboxes/{access.pk}/detach/", follow=True)
    assert not invoices.mailbox_accesses.exists()
    press_undo(member, answer)
    assert invoices.mailbox_accesses.get().mailbox == mailbox


def test_removing_a_team_member_is_undone(admin: Client, dave: User) -> None:
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=dave)
    answer = admin.post(f"/teams/{team.pk}/members/{dave.pk}/remove/", follow=True)
    assert not team.members.exists()
    answer = press_undo(admin, answer)
    assert "Dave Stranger was added to Finance." in answer.content.decode()
    assert team.members.get() == dave


def test_it_is_offered_for_ten_seconds(member: Client, invoices: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "SECONDS", 0)
    answer = member.post(f"/connections/{invoices.pk}/disable/", follow=True)
    assert "is disabled" in answer.content.decode()
    assert _FORM.search(answer.content.decode()) is None


def test_shares_of_other_connections_are_not_ended_along(member: Client, invoices: Connection, dave: User) -> None:
    other = factories.make_connection(name="Other", owner=factories.make_person("una"))
    foreign = Share.objects.create(connection=other, person=dave, created_by=other.owner)
    own = Share.objects.create(connection=invoices, person=dave, created_by=invoices.owner)
    path = f"/connections/{invoices.pk}/shares/{own.pk}/end/"
    assert member.post(path, {"also": [str(foreign.pk)]}).status_code == 404
    assert Share.objects.filter(ended_at=None).count() == 2
    assert member.post(path, {"also": ["9" * 18]}).status_code == 404
    assert member.post(path, {"also": ["x"]}).status_code == 302
