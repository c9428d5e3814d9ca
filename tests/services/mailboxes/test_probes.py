"""Results of probes: missing access, incidents, applications without roles, test messages."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, Connection, Incident, MailboxAccess, User
from connections.services.connections import app_only, connections
from connections.services.mailboxes import mailboxes, probes
from connections.services.policy import permission_drift
from connections.services.tokens import apply_results, scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.mailboxes.test_mailboxes import FULL, SALES, attached, connected, probed

State = MailboxAccess.State
Status = Connection.Status
SUPPORT = "support@contoso.example"
SENDING = ("Mail.Read.Shared", "Mail.Send.Shared")


def robots(sandbox: Control, *roles: str, **overrides: Any) -> Connection:
    """Create an IT admin's app-only connection, with these roles granted in Entra."""
    entra_grants(sandbox, *roles)
    app = factories.make_app_registration(
        name="Robots",
        client_id=factories.ROBOTS_CLIENT_ID,
        secret=factories.ROBOTS_CLIENT_SECRET,
        allows_delegated=False,
    )
    mailbox = factories.make_mailbox()
    values: dict[str, Any] = {"name": "Robot", "chosen": ["mail.read"], "shared_mailboxes": [mailbox]}
    return app_only.connect(app, **(values | overrides), now=timezone.now())


def entra_grants(sandbox: Control, *roles: str) -> None:
    sandbox.withdraw_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO)
    if roles:
        sandbox.grant_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO, roles=list(roles))


def exchange_grants(sandbox: Control, *addresses: str, role: str = "Mail.Read") -> None:
    sandbox.set_app(seed.ROBOTS_APP, exchange_role=role, exchange_mailboxes=list(addresses))


def refreshed(connection: Connection) -> Connection:
    """Refresh the connection, whether it was due or not, and return it."""
    Connection.objects.filter(pk=connection.pk).update(refresh_after=timezone.now())
    scheduler.sweep(now=timezone.now())
    return Connection.objects.get(pk=connection.pk)


def open_incidents() -> list[str]:
    return list(Incident.objects.filter(closed_at=None).values_list("kind", flat=True))


def test_missing_access_is_stored_and_cleared_when_it_is_fixed(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob, SALES)
    probed(row, actor=bob)
    assert (row.state, row.lack) == (State.UNREACHABLE, "full_access")
    sandbox.set_mailbox(address=SALES, inbox_members=[factories.ADA])
    probed(row, actor=bob)
    assert row.lack == "folder_only"
    # A different reason is audited even if the state is the same.
    assert AuditEvent.objects.filter(action="connection.mailbox_probed").count() == 2
    sandbox.set_mailbox(address=SALES, members=[factories.ADA])
    probed(row, actor=bob)
    assert (row.state, row.lack, row.code, row.cause, row.action) == (State.REACHABLE, "", "", "", "")


def test_a_persons_first_failed_probe_is_an_incident_only_after_a_scheduled_probe(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob, SALES)
    probed(probed(row, actor=bob), actor=bob)
    assert open_incidents() == []
    MailboxAccess.objects.filter(pk=row.pk).update(probe_after=timezone.now())
    assert probes.probe_due(now=timezone.now()) == 1
    incident = Incident.objects.get()
    assert (incident.kind, incident.mailbox) == ("mailbox", row.mailbox)
    assert incident.key == f"mailbox:{row.mailbox_id}:full_access"
    assert "Full Access" in incident.action
    assert probes.probe_due(now=timezone.now() + timedelta(days=2)) == 1
    assert Incident.objects.count() == 1


def test_lost_access_is_an_incident_at_once_and_resolved_automatically(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob)
    probed(row, actor=bob)
    sandbox.set_mailbox(address=SUPPORT, members=[])
    probed(row, actor=bob)
    assert open_incidents() == ["mailbox"]
    sandbox.weather(kind="unavailable", where="graph")
    probed(row, actor=bob)
    assert open_incidents() == ["mailbox"]
    sandbox.weather(kind="normal")
    sandbox.set_mailbox(address=SUPPORT, members=[factories.ADA])
    probed(row, actor=bob)
    assert open_incidents() == []


def test_detaching_a_mailbox_resolves_its_incident(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob, SALES)
    probed(row)
    assert open_incidents() == ["mailbox"]
    mailboxes.detach(row, actor=bob)
    assert open_incidents() == []


def test_an_application_without_roles_is_active_if_it_reaches_a_mailbox(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    connection = robots(sandbox, actor=alice)
    assert (connection.status, connection.granted_scopes) == (Status.ACTIVE, "")
    assert apply_results.reaches_mailbox(connection.pk)
    assert connection.mailbox_accesses.get().state == State.REACHABLE
    assert open_incidents() == []
    again = refreshed(connection)
    assert (again.status, again.token_version) == (Status.ACTIVE, connection.token_version + 1)
    assert not AuditEvent.objects.filter(action="connection.flagged").exists()


def test_an_application_without_roles_is_flagged_until_it_reaches_a_mailbox(sandbox: Control, alice: User) -> None:
    connection = robots(sandbox, actor=alice)
    assert (connection.status, connection.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert connection.mailbox_accesses.get().lack == "app_role"
    assert "give it access to the attached mailboxes in Exchange" in connection.status_action
    exchange_grants(sandbox, SUPPORT)
    # Every refresh makes the connection's mailboxes due for a probe.
    assert refreshed(connection).status == Status.CONSENT_NEEDED
    assert probes.probe_due(now=timezone.now()) == 1
    connection.refresh_from_db()
    assert (connection.status, connection.status_code, connection.status_cause) == (Status.ACTIVE, "", "")
    assert open_incidents() == []
    assert AuditEvent.objects.filter(action="connection.healed").count() == 1


def test_an_application_without_roles_is_flagged_when_it_loses_its_last_mailbox(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    connection = robots(sandbox, actor=alice)
    exchange_grants(sandbox)
    assert refreshed(connection).status == Status.ACTIVE
    assert probes.probe_due(now=timezone.now()) == 1
    connection.refresh_from_db()
    assert (connection.status, connection.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert sorted(open_incidents()) == ["consent", "mailbox"]


def test_an_outage_of_graph_neither_flags_nor_restores_it(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    connection = robots(sandbox, actor=alice)
    sandbox.weather(kind="unavailable", where="graph")
    probes.probe(connection, actor=None, now=timezone.now())
    assert connection.mailbox_accesses.get().state == State.UNKNOWN
    assert refreshed(connection).status == Status.ACTIVE

    Connection.objects.filter(pk=connection.pk).update(status=Status.CONSENT_NEEDED, status_code="no-roles")
    connection.refresh_from_db()
    probes.probe(connection, actor=None, now=timezone.now())
    assert refreshed(connection).status == Status.CONSENT_NEEDED


def test_with_a_role_in_the_token_it_is_active_without_a_mailbox(sandbox: Control, alice: User) -> None:
    connection = robots(sandbox, "User.Read.All", actor=alice)
    connections.probe_mailboxes(connection, actor=alice, now=timezone.now())
    assert connection.mailbox_accesses.get().state == State.UNREACHABLE
    assert connection.status == Status.ACTIVE
    assert refreshed(connection).status == Status.ACTIVE


def test_without_roles_and_mailboxes_it_is_flagged(sandbox: Control, alice: User) -> None:
    connection = robots(sandbox, actor=alice, shared_mailboxes=[])
    assert (connection.status, connection.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert not apply_results.reaches_mailbox(connection.pk)


def test_only_a_connection_flagged_for_missing_roles_can_be_probed() -> None:
    flags = {"status": Status.CONSENT_NEEDED, "status_code": "no-roles"}
    waiting = factories.make_app_only_connection(name="A", **flags)
    other = factories.make_app_only_connection(name="B", **(flags | {"status_code": "AADSTS65001"}))
    assert probes.can_be_probed(waiting)
    assert not probes.can_be_probed(other)
    for connection in (waiting, other):
        row = factories.make_mailbox_access(
            connection, factories.make_mailbox(address=f"{connection.name}@x.example"), probe_after=timezone.now()
        )
        claimed = probes._claim(timezone.now(), 10)
        assert list(claimed.values()) == ([[row]] if connection == waiting else [])


def test_an_old_answer_does_not_restore_a_connection_renewed_since(sandbox: Control, alice: User) -> None:
    connection = robots(sandbox, actor=alice)
    apply_results.restore(connection.pk, now=timezone.now(), version=connection.token_version - 1)
    assert factories.reloaded(connection).status == Status.CONSENT_NEEDED


def test_a_mailbox_is_probed_through_all_connections_one_may_check(sandbox: Control, bob: User, dave: User) -> None:
    own = connected(sandbox, *FULL, owner=bob)
    mailbox = factories.make_mailbox()
    row = factories.make_mailbox_access(own, mailbox)
    app = own.app_registration
    dead = factories.make_connection(owner=bob, name="Dead", app_registration=app, status=Status.RECONNECT_NEEDED)
    theirs = factories.make_connection(owner=dave, name="Theirs", app_registration=app)
    for other in (dead, theirs):
        factories.make_mailbox_access(other, mailbox)
    probed, left = probes.probe_mailbox(mailbox, actor=bob, now=timezone.now())
    assert ([access.pk for access in probed], left) == ([row.pk], 0)
    assert probed[0].state == State.REACHABLE


def test_a_stranger_cannot_probe_a_mailbox(bob: User, carol: User, dave: User) -> None:
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(factories.make_connection(owner=bob), mailbox)
    for stranger in (carol, dave):
        with pytest.raises(NotAllowed):
            probes.probe_mailbox(mailbox, actor=stranger, now=timezone.now())


def test_the_scheduled_probe_does_the_rest(sandbox: Control, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    first = connected(sandbox, *FULL, owner=bob, name="First")
    second = connected(sandbox, *FULL, owner=bob, name="Second", app_registration=first.app_registration)
    mailbox = factories.make_mailbox()
    later = timezone.now() + timedelta(days=1)
    for connection in (first, second):
        factories.make_mailbox_access(connection, mailbox, probe_after=later)
    now = timezone.now()
    probed, left = probes.probe_mailbox(mailbox, actor=bob, now=now)
    assert (len(probed), left) == (1, 1)
    assert probes.probe_due(now=now) == 1
    assert set(mailbox.accesses.values_list("state", flat=True)) == {State.REACHABLE}


def sender(sandbox: Control, bob: User, *chosen: str) -> MailboxAccess:
    connection = connected(sandbox, *SENDING, owner=bob, capabilities=list(chosen))
    return probed(mailboxes.attach_address(connection, address=SUPPORT, actor=bob), actor=bob)


def test_a_denied_test_message_is_kept_when_the_mailbox_can_be_read(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read", "shared_mailbox.send")
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    assert probes.send_test_message(row, actor=bob, now=timezone.now()).lack == "send_as"
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")
    assert "Send As" in row.action
    # Probing again only reads: it does not test sending.
    probed(row)
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")
    sandbox.set_mailbox(address=SUPPORT, senders=[factories.ADA])
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probed(row)
    assert (row.state, row.lack, row.cause, row.code) == (State.REACHABLE, "", "", "sent")
    tested = AuditEvent.objects.filter(action="connection.sending_tested").order_by("pk")
    outcomes = [(event.outcome, event.changes["code"]) for event in tested]
    assert outcomes == [("failed", "ErrorSendAsDenied"), ("done", "sent")]


def test_the_test_message_decides_for_a_connection_that_only_sends(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.send")
    assert (row.state, row.code) == (State.UNKNOWN, "not-tested")
    assert row.probe_after is not None
    assert row.probe_after - timezone.now() > timedelta(hours=20)
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probed(row)
    assert (row.state, row.code, row.cause) == (State.REACHABLE, "sent", "")
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probed(row)
    assert (row.state, row.lack) == (State.UNREACHABLE, "send_as")
    # Once the connection may also read, reading decides whether the mailbox is reachable.
    Connection.objects.filter(pk=row.connection_id).update(capabilities=["shared_mailbox.read", "shared_mailbox.send"])
    probed(row)
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")


def test_an_outage_during_a_test_message_changes_nothing(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read", "shared_mailbox.send")
    sandbox.weather(kind="unavailable", where="graph")
    assert probes.send_test_message(row, actor=bob, now=timezone.now()).state == "unknown"
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "")


def test_a_test_message_needs_the_right_and_the_permission_to_send(sandbox: Control, alice: User, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read")
    with pytest.raises(NotAllowed):
        probes.send_test_message(row, actor=alice, now=timezone.now())
    with pytest.raises(InvalidInput):
        probes.send_test_message(row, actor=bob, now=timezone.now())
    assert sandbox.state()["sent"] == []


def test_a_test_message_restores_an_application_that_only_sends(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT, role="Mail.Send")
    connection = robots(sandbox, actor=alice, chosen=["mail.send"])
    assert connection.status == Status.CONSENT_NEEDED
    probes.send_test_message(connection.mailbox_accesses.get(), actor=alice, now=timezone.now())
    assert factories.reloaded(connection).status == Status.ACTIVE
    assert refreshed(connection).status == Status.ACTIVE


def test_what_exchange_grants_is_not_missing(sandbox: Control, alice: User, django_assert_num_queries: Any) -> None:
    exchange_grants(sandbox, SUPPORT)
    reached = robots(sandbox, actor=alice, chosen=["mail.read", "mail.send", "files.read"])
    app = reached.app_registration
    unreached = factories.make_app_only_connection(name="Unreached", app_registration=app, granted_scopes="")
    factories.make_mailbox_access(unreached, factories.make_mailbox(address=SALES), state=State.UNREACHABLE)
    with_role = factories.make_app_only_connection(name="With role", app_registration=app)
    info = factories.make_mailbox(address="info@contoso.example")
    factories.make_mailbox_access(with_role, info, state=State.REACHABLE)
    delegated = factories.make_connection(name="Person", app_registration=app)
    rows = [Connection.objects.get(pk=connection.pk) for connection in (reached, unreached, with_role, delegated)]
    list(map(str, (connection.app_registration for connection in rows)))
    with django_assert_num_queries(1):
        kept = probes.granted_by_exchange(rows)
    assert kept == {reached.pk: ("Mail.Read", "Mail.Send")}
    assert permission_drift.find_drift(rows[0]).missing == ("Files.Read.All", "Mail.Read", "Mail.Send")
    assert permission_drift.find_drift(rows[0], elsewhere=kept[reached.pk]).missing == ("Files.Read.All",)
    with django_assert_num_queries(0):
        assert probes.granted_by_exchange([rows[3]]) == {}
