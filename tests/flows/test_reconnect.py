"""The owner signs in again, and the connection keeps its id."""

from urllib.parse import parse_qs, urlsplit

from django.utils import timezone

from connections.models import Approval, AuditEvent, Connection, Policy, User
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet
from tests.views.pages import assert_shows, text


def revoked(sandbox: Control) -> Connection:
    """Return a connection that a sweep has flagged because its session was revoked at Microsoft."""
    connection = factories.make_granted_connection(sandbox, refresh_after=timezone.now())
    sandbox.revoke_sessions(factories.ADA)
    scheduler.sweep(now=timezone.now())
    assert factories.reloaded(connection).status == "reconnect_needed"
    return connection


def test_reconnecting_keeps_the_id_and_clears_the_flag(person: Meet, bob: User, sandbox: Control) -> None:
    flagged = revoked(sandbox)
    member = person(bob)
    assert "Sign in again as ada@contoso.example" in member.get(f"/connections/{flagged.pk}/").content.decode()

    begun = member.post(f"/connections/{flagged.pk}/sign-in/")
    query = parse_qs(urlsplit(begun["Location"]).query)
    assert query["login_hint"] == [factories.ADA]
    assert "prompt" not in query, "after an administrator has consented, prompt=consent would stop people"
    member.connect(begun, factories.ADA)

    healed = Connection.objects.get()
    assert healed.pk == flagged.pk
    assert (healed.status, healed.status_code, healed.status_cause) == ("active", "", "")
    assert healed.token_version > flagged.token_version
    assert AuditEvent.objects.filter(action="connection.reconnected").count() == 1
    assert scheduler.check_now(healed, actor=bob, now=timezone.now()).status == "active"


def test_another_account_is_refused_with_a_clear_choice(person: Meet, bob: User, sandbox: Control) -> None:
    flagged = revoked(sandbox)
    member = person(bob)
    answer = member.connect(member.post(f"/connections/{flagged.pk}/sign-in/"), "grace@contoso.example")

    page = answer.content.decode()
    assert "You signed in as grace@contoso.example" in page
    assert "belongs to ada@contoso.example" in page
    after = Connection.objects.get()
    assert (after.status, after.account_username) == ("reconnect_needed", factories.ADA)
    assert after.refresh_token == flagged.refresh_token
    assert "Back to connection" in page
    failed = AuditEvent.objects.get(action="connection.sign_in_failed")
    assert (failed.actor, failed.changes["code"]) == (bob, "wrong_account")


def test_a_cancelled_reconnect_keeps_the_cause_that_was_shown(person: Meet, bob: User, sandbox: Control) -> None:
    flagged = revoked(sandbox)
    member = person(bob)
    member.follow_to_microsoft(member.post(f"/connections/{flagged.pk}/sign-in/"))
    member.microsoft.submit("cancel", why="sign-in")
    member.return_to_portal()

    after = Connection.objects.get()
    assert (after.status, after.status_code) == ("reconnect_needed", flagged.status_code)
    assert after.sign_in_started_at is None


def test_an_active_connection_survives_a_failed_attempt(person: Meet, bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    member = person(bob)
    member.connect(member.post(f"/connections/{connection.pk}/sign-in/"), "grace@contoso.example")
    assert Connection.objects.get().status == "active"
    assert scheduler.check_now(connection, actor=bob, now=timezone.now()).status == "active"


def test_only_the_owner_can_reconnect(
    person: Meet, alice: User, carol: User, dave: User, connection: Connection
) -> None:
    assert person(dave).post(f"/connections/{connection.pk}/sign-in/").status_code == 404
    assert person(alice).post(f"/connections/{connection.pk}/sign-in/").status_code == 403
    assert person(carol).post(f"/connections/{connection.pk}/sign-in/").status_code == 403


def test_added_capabilities_are_requested_at_the_next_sign_in(person: Meet, bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    member = person(bob)
    member.post(f"/connections/{connection.pk}/edit/", name="Invoices", chosen=["mail.read", "calendar.events"])

    connection.refresh_from_db()
    assert scheduler.check_now(connection, actor=bob, now=timezone.now()).status == "active", "the old grant goes on"
    page = member.get(f"/connections/{connection.pk}/").content.decode()
    assert "Sign in to grant missing permissions" in page
    member.connect(member.post(f"/connections/{connection.pk}/sign-in/"), factories.ADA)
    assert Connection.objects.get().granted >= {"Mail.Read", "Calendars.Read"}


def test_a_new_account_of_the_same_name_is_held_until_an_it_admin_confirms_it(
    person: Meet, alice: User, bob: User, sandbox: Control
) -> None:
    flagged = revoked(sandbox)
    sandbox.set_person(factories.ADA, deleted=True, new_upn="ada.deleted@contoso.example")
    sandbox.set_person("grace@contoso.example", new_upn=factories.ADA, password="sandbox-ada")
    member, admin = person(bob), person(alice)
    page = member.connect(member.post(f"/connections/{flagged.pk}/sign-in/"), factories.ADA).content.decode()
    assert "new account with the same name" in page
    assert "account_replaced" in page
    assert "New account awaits confirmation" in member.get(f"/connections/{flagged.pk}/").content.decode()

    request = Approval.objects.get()
    assert "new Microsoft account with the same name" in admin.get(f"/approvals/{request.pk}/").content.decode()
    assert admin.post(f"/approvals/{request.pk}/approve/").status_code == 302
    member.microsoft.session.cookies.clear()
    member.connect(member.post(f"/connections/{flagged.pk}/sign-in/"), factories.ADA)

    after = Connection.objects.get()
    assert (after.pk, after.status, after.account_oid) == (flagged.pk, "active", request.account_oid)


def test_changed_permissions_are_shown_and_granted_in_one_click(person: Meet, bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    member = person(bob)
    form = {"name": "Invoices", "chosen": ["mail.send", "directory.groups"], "preview": "1"}
    page = text(member.post(f"/connections/{connection.pk}/edit/", **form))
    assert_shows(page, "Added", "Mail: send. You can consent yourself.", "Group member: read")
    assert_shows(page, "Needs admin consent.", "Removed", '<code class="value">Mail.Read</code>', "Save and sign in")
    assert factories.reloaded(connection).capabilities == ["mail.read"]

    form = {"name": "Invoices", "chosen": ["mail.send"], "sign_in": "1"}
    answer = member.connect(member.post(f"/connections/{connection.pk}/edit/", **form), factories.ADA)
    assert answer["Location"] == f"/connections/{connection.pk}/"
    connection = factories.reloaded(connection)
    assert (connection.capabilities, connection.status) == (["mail.send"], "active")
    assert "Mail.Send" in connection.granted


def test_a_change_that_waits_for_approval_starts_no_sign_in(person: Meet, bob: User, sandbox: Control) -> None:
    Policy.objects.create(rules={"capabilities": {"mail.send": "approval"}})
    connection = factories.make_granted_connection(sandbox)
    form = {"name": "Invoices", "chosen": ["mail.read", "mail.send"], "sign_in": "1", "reason": "To answer."}
    answer = person(bob).post(f"/connections/{connection.pk}/edit/", **form)
    assert answer["Location"] == f"/connections/{connection.pk}/"
    assert factories.reloaded(connection).sign_in_started_at is None
