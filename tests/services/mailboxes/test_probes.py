"""What probes leave behind: what is lacking, incidents, proof that an application works, what test messages tell."""

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
from tests.services.mailboxes.test_mailboxes import FULL, SALES, connected

State = MailboxAccess.State
Status = Connection.Status
SUPPORT = "support@contoso.example"
SENDING = ("Mail.Read.Shared", "Mail.Send.Shared")


def robots(sandbox: Control, *roles: str, **overrides: Any) -> Connection:
    """An app-only connection of "Contoso Robots" as an IT admin makes it; Entra grants these roles."""
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
    """After its token was renewed by the sweep, whatever its schedule."""
    Connection.objects.filter(pk=connection.pk).update(refresh_after=timezone.now())
    scheduler.sweep(now=timezone.now())
    return Connection.objects.get(pk=connection.pk)


def open_incidents() -> list[str]:
    return list(Incident.objects.filter(closed_at=None).values_list("kind", flat=True))


# --- What is lacking ------------------------------------------------------------------------------


def test_the_lack_is_stored_beside_its_sentences_and_goes_when_it_is_mended(sandbox: Control, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    row = mailboxes.attach_address(connection, address=SALES, actor=bob)
    probes.probe(connection, actor=bob, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.UNREACHABLE, "full_access")
    sandbox.set_mailbox(address=SALES, inbox_members=[factories.ADA])
    probes.probe(connection, actor=bob, now=timezone.now())
    row.refresh_from_db()
    assert row.lack == "folder_only"
    # Another lack is news, though the state is the same.
    assert AuditEvent.objects.filter(action="connection.mailbox_probed").count() == 2
    sandbox.set_mailbox(address=SALES, members=[factories.ADA])
    probes.probe(connection, actor=bob, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack, row.code, row.cause, row.action) == (State.REACHABLE, "", "", "", "")


def test_a_corrected_address_forgets_what_was_lacking(alice: User) -> None:
    mailbox = factories.make_mailbox()
    row = factories.make_mailbox_access(factories.make_connection(), mailbox, state=State.UNREACHABLE, lack="not_found")
    mailboxes.change(mailbox, address="help@contoso.example", display_name="", actor=alice)
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.UNPROBED, "")


@pytest.mark.parametrize(
    ("chosen", "granted", "words"),
    [
        (["calendar.shared"], "Calendars.Read", "Calendars.Read.Shared is not granted yet"),
        (["calendar.shared"], "Calendars.Read.Shared", ""),
        (["shared_mailbox.send"], "Mail.Send", "Mail.Send.Shared is not granted yet"),
    ],
)
def test_the_missing_permission_is_the_one_for_what_it_wants(
    db: None, chosen: list[str], granted: str, words: str
) -> None:
    sentence = mailboxes.missing_permission(factories.make_connection(capabilities=chosen, granted_scopes=granted))
    assert bool(sentence) == bool(words)
    assert words in sentence


# --- Incidents ------------------------------------------------------------------------------------


def test_what_a_person_tries_for_the_first_time_is_an_incident_only_when_the_routine_finds_it_so(
    sandbox: Control, bob: User
) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    row = mailboxes.attach_address(connection, address=SALES, actor=bob)
    probes.probe(connection, actor=bob, now=timezone.now())
    probes.probe(connection, actor=bob, now=timezone.now())
    assert open_incidents() == []
    MailboxAccess.objects.filter(pk=row.pk).update(probe_after=timezone.now())
    assert probes.probe_due(now=timezone.now()) == 1
    incident = Incident.objects.get()
    assert (incident.kind, incident.mailbox, incident.key) == (
        "mailbox",
        row.mailbox,
        f"mailbox:{row.mailbox_id}:full_access",
    )
    assert "Full Access" in incident.action
    assert probes.probe_due(now=timezone.now() + timedelta(days=2)) == 1
    assert Incident.objects.count() == 1


def test_a_mailbox_that_was_taken_away_is_an_incident_at_once_and_closes_by_itself(sandbox: Control, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    mailboxes.attach_address(connection, address=SUPPORT, actor=bob)
    probes.probe(connection, actor=bob, now=timezone.now())
    sandbox.set_mailbox(address=SUPPORT, members=[])
    probes.probe(connection, actor=bob, now=timezone.now())
    assert open_incidents() == ["mailbox"]
    sandbox.weather(kind="unavailable", where="graph")
    probes.probe(connection, actor=bob, now=timezone.now())
    assert open_incidents() == ["mailbox"]
    sandbox.weather(kind="normal")
    sandbox.set_mailbox(address=SUPPORT, members=[factories.ADA])
    probes.probe(connection, actor=bob, now=timezone.now())
    assert open_incidents() == []


def test_a_mailbox_that_nobody_wants_any_more_is_no_incident(sandbox: Control, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    row = mailboxes.attach_address(connection, address=SALES, actor=bob)
    probes.probe(connection, actor=None, now=timezone.now())
    assert open_incidents() == ["mailbox"]
    mailboxes.detach(row, actor=bob)
    assert open_incidents() == []


# --- Applications whose rights Exchange keeps -----------------------------------------------------


def test_an_application_without_roles_is_well_if_exchange_lets_it_into_a_mailbox(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    made = robots(sandbox, actor=alice)
    assert (made.status, made.granted_scopes) == (Status.ACTIVE, "")
    assert apply_results.reaches_mailbox(made.pk)
    assert made.mailbox_accesses.get().state == State.REACHABLE
    assert open_incidents() == []
    again = refreshed(made)
    assert (again.status, again.token_version) == (Status.ACTIVE, made.token_version + 1)
    assert not AuditEvent.objects.filter(action="connection.flagged").exists()


def test_one_that_reaches_nothing_is_flagged_and_heals_when_exchange_lets_it_in(sandbox: Control, alice: User) -> None:
    made = robots(sandbox, actor=alice)
    assert (made.status, made.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert made.mailbox_accesses.get().lack == "app_role"
    assert "let Exchange admit it" in made.status_action
    exchange_grants(sandbox, SUPPORT)
    # Every renewal makes its mailboxes due, because nothing else can tell.
    assert refreshed(made).status == Status.CONSENT_NEEDED
    assert probes.probe_due(now=timezone.now()) == 1
    made.refresh_from_db()
    assert (made.status, made.status_code, made.status_cause) == (Status.ACTIVE, "", "")
    assert open_incidents() == []
    assert AuditEvent.objects.filter(action="connection.healed").count() == 1


def test_it_is_flagged_again_when_exchange_takes_the_last_mailbox_away(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    made = robots(sandbox, actor=alice)
    exchange_grants(sandbox)
    assert refreshed(made).status == Status.ACTIVE
    assert probes.probe_due(now=timezone.now()) == 1
    made.refresh_from_db()
    assert (made.status, made.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert sorted(open_incidents()) == ["consent", "mailbox"]


def test_an_outage_of_graph_neither_flags_nor_heals_it(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT)
    made = robots(sandbox, actor=alice)
    sandbox.weather(kind="unavailable", where="graph")
    probes.probe(made, actor=None, now=timezone.now())
    assert made.mailbox_accesses.get().state == State.UNKNOWN
    assert refreshed(made).status == Status.ACTIVE

    Connection.objects.filter(pk=made.pk).update(status=Status.CONSENT_NEEDED, status_code="no-roles")
    made.refresh_from_db()
    probes.probe(made, actor=None, now=timezone.now())
    assert refreshed(made).status == Status.CONSENT_NEEDED


def test_a_role_in_the_token_needs_no_proof(sandbox: Control, alice: User) -> None:
    made = robots(sandbox, "User.Read.All", actor=alice)
    connections.probe_mailboxes(made, actor=alice, now=timezone.now())
    assert made.mailbox_accesses.get().state == State.UNREACHABLE
    assert made.status == Status.ACTIVE
    assert refreshed(made).status == Status.ACTIVE


def test_without_any_mailbox_nothing_can_be_proved(sandbox: Control, alice: User) -> None:
    made = robots(sandbox, actor=alice, shared_mailboxes=[])
    assert (made.status, made.status_code) == (Status.CONSENT_NEEDED, "no-roles")
    assert not apply_results.reaches_mailbox(made.pk)


def test_only_that_flag_waits_for_proof(db: None) -> None:
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


def test_an_old_answer_does_not_settle_a_connection_that_has_been_renewed_since(sandbox: Control, alice: User) -> None:
    made = robots(sandbox, actor=alice)
    apply_results.restore(made.pk, now=timezone.now(), version=made.token_version - 1)
    made.refresh_from_db()
    assert made.status == Status.CONSENT_NEEDED


# --- One mailbox through all its connections ------------------------------------------------------


def test_a_mailbox_is_tested_through_every_connection_one_may_check(
    sandbox: Control, alice: User, bob: User, dave: User
) -> None:
    mine = connected(sandbox, *FULL, owner=bob)
    mailbox = factories.make_mailbox()
    row = factories.make_mailbox_access(mine, mailbox)
    app = mine.app_registration
    dead = factories.make_connection(owner=bob, name="Dead", app_registration=app, status=Status.RECONNECT_NEEDED)
    theirs = factories.make_connection(owner=dave, name="Theirs", app_registration=app)
    for other in (dead, theirs):
        factories.make_mailbox_access(other, mailbox)
    done, left = probes.probe_mailbox(mailbox, actor=bob, now=timezone.now())
    assert ([one.pk for one in done], left) == ([row.pk], 0)
    assert done[0].state == State.REACHABLE


def test_who_may_check_none_of_its_connections_tests_no_mailbox(bob: User, carol: User, dave: User) -> None:
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(factories.make_connection(owner=bob), mailbox)
    for stranger in (carol, dave):
        with pytest.raises(NotAllowed):
            probes.probe_mailbox(mailbox, actor=stranger, now=timezone.now())


def test_beyond_a_handful_the_routine_does_the_rest(
    sandbox: Control, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    first = connected(sandbox, *FULL, owner=bob, name="First")
    second = connected(sandbox, *FULL, owner=bob, name="Second", app_registration=first.app_registration)
    mailbox = factories.make_mailbox()
    later = timezone.now() + timedelta(days=1)
    for connection in (first, second):
        factories.make_mailbox_access(connection, mailbox, probe_after=later)
    now = timezone.now()
    done, left = probes.probe_mailbox(mailbox, actor=bob, now=now)
    assert (len(done), left) == (1, 1)
    assert probes.probe_due(now=now) == 1
    assert set(mailbox.accesses.values_list("state", flat=True)) == {State.REACHABLE}


# --- Sending --------------------------------------------------------------------------------------


def sender(sandbox: Control, bob: User, *chosen: str) -> MailboxAccess:
    connection = connected(sandbox, *SENDING, owner=bob, capabilities=list(chosen))
    row = mailboxes.attach_address(connection, address=SUPPORT, actor=bob)
    probes.probe(connection, actor=bob, now=timezone.now())
    row.refresh_from_db()
    return row


def test_a_denied_test_message_is_remembered_beside_what_can_be_read(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read", "shared_mailbox.send")
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    assert probes.send_test_message(row, actor=bob, now=timezone.now()).lack == "send_as"
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")
    assert "Send As" in row.action
    # Reading it again says nothing about sending.
    probes.probe(row.connection, actor=None, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")
    sandbox.set_mailbox(address=SUPPORT, senders=[factories.ADA])
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probes.probe(row.connection, actor=None, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack, row.cause, row.code) == (State.REACHABLE, "", "", "sent")
    tested = AuditEvent.objects.filter(action="connection.sending_tested").order_by("pk")
    assert [(event.outcome, event.changes["code"]) for event in tested] == [
        ("failed", "ErrorSendAsDenied"),
        ("done", "sent"),
    ]


def test_for_a_connection_that_only_sends_the_test_message_decides(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.send")
    assert (row.state, row.code) == (State.UNKNOWN, "not-tested")
    assert row.probe_after is not None
    assert row.probe_after - timezone.now() > timedelta(hours=20)
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probes.probe(row.connection, actor=None, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.code, row.cause) == (State.REACHABLE, "sent", "")
    sandbox.set_mailbox(address=SUPPORT, senders=[])
    probes.send_test_message(row, actor=bob, now=timezone.now())
    probes.probe(row.connection, actor=None, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.UNREACHABLE, "send_as")
    # Once it also reads, reading tells whether the mailbox is reached.
    Connection.objects.filter(pk=row.connection_id).update(capabilities=["shared_mailbox.read", "shared_mailbox.send"])
    connection = Connection.objects.get(pk=row.connection_id)
    probes.probe(connection, actor=None, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "send_as")


def test_an_outage_during_a_test_message_tells_nothing(sandbox: Control, bob: User) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read", "shared_mailbox.send")
    sandbox.weather(kind="unavailable", where="graph")
    assert probes.send_test_message(row, actor=bob, now=timezone.now()).state == "unknown"
    row.refresh_from_db()
    assert (row.state, row.lack) == (State.REACHABLE, "")


def test_only_who_may_change_the_connection_sends_and_only_if_it_is_to_send(
    sandbox: Control, alice: User, bob: User
) -> None:
    row = sender(sandbox, bob, "shared_mailbox.read")
    with pytest.raises(NotAllowed):
        probes.send_test_message(row, actor=alice, now=timezone.now())
    with pytest.raises(InvalidInput):
        probes.send_test_message(row, actor=bob, now=timezone.now())
    assert sandbox.state()["sent"] == []


def test_a_test_message_proves_an_application_that_only_sends(sandbox: Control, alice: User) -> None:
    exchange_grants(sandbox, SUPPORT, role="Mail.Send")
    made = robots(sandbox, actor=alice, chosen=["mail.send"])
    assert made.status == Status.CONSENT_NEEDED
    probes.send_test_message(made.mailbox_accesses.get(), actor=alice, now=timezone.now())
    made.refresh_from_db()
    assert made.status == Status.ACTIVE
    assert refreshed(made).status == Status.ACTIVE


# --- What only Exchange grants --------------------------------------------------------------------


def test_what_exchange_must_be_granting_is_missing_nowhere(
    sandbox: Control, alice: User, django_assert_num_queries: Any
) -> None:
    exchange_grants(sandbox, SUPPORT)
    made = robots(sandbox, actor=alice, chosen=["mail.read", "mail.send", "files.read"])
    app = made.app_registration
    unreached = factories.make_app_only_connection(name="Unreached", app_registration=app, granted_scopes="")
    factories.make_mailbox_access(unreached, factories.make_mailbox(address=SALES), state=State.UNREACHABLE)
    with_role = factories.make_app_only_connection(name="With role", app_registration=app)
    factories.make_mailbox_access(
        with_role, factories.make_mailbox(address="info@contoso.example"), state=State.REACHABLE
    )
    delegated = factories.make_connection(name="Person", app_registration=app)
    found = [Connection.objects.get(pk=one.pk) for one in (made, unreached, with_role, delegated)]
    list(map(str, (one.app_registration for one in found)))
    with django_assert_num_queries(1):
        kept = probes.granted_by_exchange(found)
    assert kept == {made.pk: ("Mail.Read", "Mail.Send")}
    assert permission_drift.find_drift(found[0]).missing == (
        "Files.Read.All",
        "Mail.Read",
        "Mail.Send",
        "User.Read.All",
    )
    assert permission_drift.find_drift(found[0], elsewhere=kept[made.pk]).missing == ("Files.Read.All", "User.Read.All")
    with django_assert_num_queries(0):
        assert probes.granted_by_exchange([found[3]]) == {}
