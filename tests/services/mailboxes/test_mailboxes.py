"""Registering, attaching and probing shared mailboxes."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db import connection as database
from django.utils import timezone

from connections.errors import AlreadyExists, ConnectionUnusable, InUse, InvalidInput, NotAllowed
from connections.microsoft import mailbox_probe
from connections.models import AuditEvent, Connection, MailboxAccess, SharedMailbox, User
from connections.services.mailboxes import mailboxes, probes
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

State = MailboxAccess.State
SALES = "sales@contoso.example"
FULL = ("Mail.Read", "Mail.Read.Shared")


def connected(sandbox: Control, *scopes: str, **overrides: Any) -> Connection:
    """Create a delegated connection to Ada's account that really works in the sandbox."""
    wanted = [*scopes, "offline_access"]
    sandbox.grant_consent(
        client_id=factories.CLIENT_ID, tenant=factories.DIRECTORY_ID, scopes=wanted, upn=factories.ADA
    )
    grant = sandbox.issue_grant(client_id=factories.CLIENT_ID, upn=factories.ADA, scopes=wanted)
    values = {
        "refresh_token": grant["refresh_tokens"][0],
        "access_token": None,
        "expires_at": None,
        "scopes": " ".join(wanted),
        "granted_scopes": " ".join(scopes),
    }
    return factories.make_connection(**(values | overrides))


def attached(sandbox: Control, owner: User, address: str = "support@contoso.example") -> MailboxAccess:
    """Attach a mailbox to a working connection."""
    return mailboxes.attach_address(connected(sandbox, *FULL, owner=owner), address=address, actor=owner)


def probed(row: MailboxAccess, actor: User | None = None) -> MailboxAccess:
    """Probe the row's connection and return the updated row."""
    probes.probe(row.connection, actor=actor, now=timezone.now())
    return factories.reloaded(row)


def actions(verb: str) -> int:
    return AuditEvent.objects.filter(action=verb).count()


def test_the_domain_of_a_registered_mailbox_is_in_lower_case(bob: User) -> None:
    mailbox = mailboxes.register(
        factories.make_tenant(), address="Support@CONTOSO.example", display_name="Help", actor=bob
    )
    assert mailbox.address == "Support@contoso.example"
    event = AuditEvent.objects.get(action="mailbox.registered")
    assert (event.actor, event.target_name, event.changes) == (bob, "Support@contoso.example", {"tenant": "Contoso"})


def test_an_address_is_unique_per_tenant_ignoring_case(alice: User, bob: User) -> None:
    tenant = factories.make_tenant()
    factories.make_mailbox(tenant=tenant)
    with pytest.raises(AlreadyExists) as refused:
        mailboxes.register(tenant, address="SUPPORT@contoso.example", actor=bob)
    assert refused.value.field == "address"
    sales = factories.make_mailbox(address=SALES)
    with pytest.raises(AlreadyExists):
        mailboxes.change(sales, address="SUPPORT@contoso.example", display_name="", actor=alice)
    other = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    assert mailboxes.register(other, address="support@contoso.example", actor=bob).pk
    assert actions("mailbox.registered") == 1


def test_a_mailbox_registered_twice_is_stored_once(bob: User) -> None:
    tenant = factories.make_tenant()
    factories.make_mailbox(tenant=tenant)
    with pytest.raises(AlreadyExists):
        mailboxes.register(tenant, address="support@contoso.example", actor=bob)
    assert SharedMailbox.objects.count() == 1


def test_a_shared_endpoint_has_no_mailboxes(bob: User) -> None:
    common = factories.make_tenant(name="Everybody", directory_id="common", tid="")
    with pytest.raises(InvalidInput) as refused:
        mailboxes.register(common, address="x@contoso.example", actor=bob)
    assert refused.value.field == "tenant"


def test_a_changed_address_discards_probe_results(alice: User) -> None:
    mailbox = factories.make_mailbox()
    values = {"state": State.UNREACHABLE, "cause": "No such address.", "lack": "not_found"}
    row = factories.make_mailbox_access(factories.make_connection(), mailbox, **values)
    mailboxes.change(mailbox, address="help@contoso.example", display_name="Support", actor=alice)
    row.refresh_from_db()
    assert (row.state, row.cause, row.lack) == (State.UNPROBED, "", "")
    assert row.probe_after is not None
    changes = AuditEvent.objects.get(action="mailbox.changed").changes
    assert changes == {"address": ["support@contoso.example", "help@contoso.example"]}


def test_a_changed_name_keeps_probe_results_and_a_change_without_effect_is_not_audited(alice: User) -> None:
    mailbox = factories.make_mailbox()
    row = factories.make_mailbox_access(factories.make_connection(), mailbox, state=State.REACHABLE)
    mailboxes.change(mailbox, address="support@contoso.example", display_name="Help desk", actor=alice)
    mailboxes.change(mailbox, address="support@contoso.example", display_name="Help desk", actor=alice)
    assert factories.reloaded(row).state == State.REACHABLE
    assert actions("mailbox.changed") == 1


def test_members_change_only_what_they_registered(bob: User, dave: User) -> None:
    mailbox = factories.make_mailbox(created_by=bob)
    with pytest.raises(NotAllowed):
        mailboxes.change(mailbox, address="x@contoso.example", display_name="", actor=dave)
    with pytest.raises(NotAllowed):
        mailboxes.remove(mailbox, actor=dave)
    mailboxes.remove(mailbox, actor=bob)
    assert actions("mailbox.removed") == 1


def test_a_mailbox_in_use_is_not_removed_and_removing_twice_is_harmless(alice: User) -> None:
    mailbox = factories.make_mailbox()
    row = factories.make_mailbox_access(factories.make_connection(), mailbox)
    with pytest.raises(InUse, match="One connection still uses"):
        mailboxes.remove(mailbox, actor=alice)
    row.delete()
    again = SharedMailbox.objects.get(pk=mailbox.pk)
    mailboxes.remove(mailbox, actor=alice)
    mailboxes.remove(again, actor=alice)
    assert actions("mailbox.removed") == 1


def test_attaching_twice_is_harmless_and_a_probe_is_due_at_once(bob: User) -> None:
    connection, mailbox = factories.make_connection(owner=bob), factories.make_mailbox()
    first = mailboxes.attach(connection, mailbox, actor=bob)
    assert mailboxes.attach(connection, mailbox, actor=bob) == first
    assert first.probe_after is not None
    assert first.probe_after <= timezone.now()
    event = AuditEvent.objects.get(action="connection.mailbox_attached")
    assert (event.target_id, event.owner_id) == (str(connection.pk), bob.pk)


def test_neither_auditors_nor_strangers_register_attach_or_detach(bob: User, carol: User, dave: User) -> None:
    connection, mailbox = factories.make_connection(owner=bob), factories.make_mailbox()
    with pytest.raises(NotAllowed):
        mailboxes.register(mailbox.tenant, address="x@contoso.example", actor=carol)
    with pytest.raises(NotAllowed):
        mailboxes.attach_address(connection, address=SALES, actor=dave)
    with pytest.raises(NotAllowed):
        mailboxes.attach(connection, mailbox, actor=dave)
    row = factories.make_mailbox_access(connection, mailbox)
    with pytest.raises(NotAllowed):
        mailboxes.detach(row, actor=dave)
    assert MailboxAccess.objects.filter(pk=row.pk).exists()
    assert SharedMailbox.objects.get() == mailbox


def test_a_mailbox_of_another_directory_cannot_be_attached(bob: User) -> None:
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    mailbox = factories.make_mailbox(tenant=fabrikam, address="info@fabrikam.example")
    with pytest.raises(InvalidInput, match="Fabrikam"):
        mailboxes.attach(factories.make_connection(owner=bob), mailbox, actor=bob)


def test_with_a_shared_endpoint_the_directory_is_that_of_the_account(bob: User) -> None:
    connection = factories.make_connection(
        owner=bob, app_registration=factories.make_multitenant_app(directory_id="common")
    )
    with pytest.raises(InvalidInput, match="a tenant in this portal"):
        mailboxes.attach_address(connection, address="support@contoso.example", actor=bob)
    contoso = factories.make_tenant()
    assert mailboxes.attach_address(connection, address="support@contoso.example", actor=bob).mailbox.tenant == contoso
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    with pytest.raises(InvalidInput):
        mailboxes.attach(connection, factories.make_mailbox(tenant=fabrikam), actor=bob)


def test_a_known_address_is_attached_and_a_new_one_registered(bob: User) -> None:
    connection, mailbox = factories.make_connection(owner=bob), factories.make_mailbox()
    assert mailboxes.attach_address(connection, address="SUPPORT@contoso.example", actor=bob).mailbox == mailbox
    registered = mailboxes.attach_address(connection, address=SALES, actor=bob).mailbox
    assert (registered.address, registered.created_by) == (SALES, bob)


def test_detaching_twice_is_harmless(bob: User) -> None:
    row = factories.make_mailbox_access(factories.make_connection(owner=bob), factories.make_mailbox())
    again = MailboxAccess.objects.get(pk=row.pk)
    mailboxes.detach(row, actor=bob)
    mailboxes.detach(again, actor=bob)
    assert actions("connection.mailbox_detached") == 1
    assert SharedMailbox.objects.count() == 1


@pytest.mark.parametrize(
    ("chosen", "granted", "words"),
    [
        (["mail.read"], "Mail.Read", "Add the capability"),
        (["shared_mailbox.read"], "Mail.Read", "The next sign-in requests it"),
        (["mail.read"], "Mail.ReadWrite.Shared", ""),
        (["calendar.shared"], "Calendars.Read", "Calendars.Read.Shared isn't granted yet"),
        (["calendar.shared"], "Calendars.Read.Shared", ""),
        (["shared_mailbox.send"], "Mail.Send", "Mail.Send.Shared isn't granted yet"),
    ],
)
def test_the_sentence_names_the_missing_permission(chosen: list[str], granted: str, words: str) -> None:
    sentence = mailboxes.missing_permission(factories.make_connection(capabilities=chosen, granted_scopes=granted))
    assert bool(sentence) == bool(words)
    assert words in sentence
    assert mailboxes.missing_permission(factories.make_app_only_connection(granted_scopes="")) == ""


def test_a_probe_stores_its_results(sandbox: Control, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    support = mailboxes.attach_address(connection, address="support@contoso.example", actor=bob)
    sales = mailboxes.attach_address(connection, address=SALES, actor=bob)
    now = timezone.now()
    states = [row.state for row in probes.probe(connection, actor=bob, now=now)]
    assert states == [State.UNREACHABLE, State.REACHABLE]
    support.refresh_from_db()
    sales.refresh_from_db()
    assert (support.state, support.cause, support.probed_at) == (State.REACHABLE, "", now)
    assert "Full Access" in sales.action
    assert support.probe_after is not None
    assert timedelta(hours=20) < support.probe_after - now < timedelta(hours=27)
    events = AuditEvent.objects.filter(action="connection.mailbox_probed")
    assert {event.changes["mailbox"]: event.changes["state"] for event in events} == {
        "support@contoso.example": ["unprobed", "reachable"],
        SALES: ["unprobed", "unreachable"],
    }


def test_a_probe_is_audited_only_when_a_state_changes(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob, SALES)
    for _ in range(3):
        probed(row, actor=bob)
    assert actions("connection.mailbox_probed") == 1
    sandbox.set_mailbox(address=SALES, members=[factories.ADA])
    probed(row, actor=bob)
    assert row.state == State.REACHABLE
    assert actions("connection.mailbox_probed") == 2


def test_a_mailbox_is_unknown_after_an_outage_and_probed_again_soon(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob)
    now = timezone.now()
    sandbox.weather(kind="unavailable", where="graph")
    probes.probe(row.connection, actor=bob, now=now)
    assert factories.reloaded(row).state == State.UNKNOWN
    assert row.probe_after is not None
    assert row.probe_after - now < timedelta(minutes=20)
    assert row.connection.status == Connection.Status.ACTIVE


def test_only_the_given_mailbox_is_probed(sandbox: Control, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    support = mailboxes.attach_address(connection, address="support@contoso.example", actor=bob)
    sales = mailboxes.attach_address(connection, address=SALES, actor=bob)
    probes.probe(connection, actor=bob, now=timezone.now(), only=[support])
    assert factories.reloaded(sales).state == State.UNPROBED


def test_a_stranger_cannot_probe_and_an_unusable_connection_raises(sandbox: Control, bob: User, dave: User) -> None:
    connection = factories.make_connection(
        owner=bob, status=Connection.Status.RECONNECT_NEEDED, status_cause="Revoked."
    )
    factories.make_mailbox_access(connection, factories.make_mailbox())
    with pytest.raises(NotAllowed):
        probes.probe(connection, actor=dave, now=timezone.now())
    with pytest.raises(ConnectionUnusable):
        probes.probe(connection, actor=bob, now=timezone.now())


def test_without_mailboxes_microsoft_is_not_called(bob: User) -> None:
    dead = factories.make_connection(owner=bob, status=Connection.Status.RECONNECT_NEEDED)
    assert probes.probe(dead, actor=bob, now=timezone.now()) == []


def test_an_old_answer_is_dropped(sandbox: Control, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    row = attached(sandbox, bob)
    probe_mailboxes = mailbox_probe.probe_mailboxes

    def change_meanwhile(*args: Any, **kwargs: Any) -> Any:
        outcomes = probe_mailboxes(*args, **kwargs)
        mailboxes.change(row.mailbox, address=SALES, display_name="", actor=alice)
        return outcomes

    monkeypatch.setattr(mailbox_probe, "probe_mailboxes", change_meanwhile)
    probed(row, actor=bob)
    assert row.state == State.UNPROBED


def test_due_mailboxes_are_probed_once(sandbox: Control, bob: User) -> None:
    row = attached(sandbox, bob)
    now = timezone.now()
    assert probes.probe_due(now=now) == 1
    assert factories.reloaded(row).state == State.REACHABLE
    assert probes.probe_due(now=now + timedelta(hours=1)) == 0
    assert probes.probe_due(now=now + timedelta(hours=28)) == 1
    assert AuditEvent.objects.get(action="connection.mailbox_probed").actor is None


def test_mailboxes_of_inactive_connections_are_not_probed(bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.RECONNECT_NEEDED)
    factories.make_mailbox_access(connection, factories.make_mailbox(), probe_after=timezone.now())
    assert probes.probe_due(now=timezone.now()) == 0


def test_a_claimed_row_is_locked_until_the_lease_expires(bob: User) -> None:
    now, connection = timezone.now(), factories.make_connection(owner=bob)
    row = factories.make_mailbox_access(connection, factories.make_mailbox(), probe_after=now)
    (claimed,) = probes._claim(now, 10).values()
    assert claimed == [row]
    assert probes._claim(now, 10) == {}
    assert len(probes._claim(now + probes.LEASE, 10)) == 1


@pytest.mark.only_on("postgres")  # SQLite has one writer at a time, so two claims cannot overlap
@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_never_claim_the_same_row() -> None:
    now, mailbox = timezone.now(), factories.make_mailbox()
    first, second = (
        factories.make_mailbox_access(factories.make_connection(name=name), mailbox, probe_after=now)
        for name in ("A", "B")
    )
    locked, finished = threading.Event(), threading.Event()

    def other_worker() -> None:
        try:
            with transaction.atomic():
                MailboxAccess.objects.select_for_update().get(pk=first.pk)
                locked.set()
                finished.wait(10)
        finally:
            database.close()

    worker = threading.Thread(target=other_worker)
    worker.start()
    assert locked.wait(10)
    try:
        assert list(probes._claim(now, 10).values()) == [[second]]
    finally:
        finished.set()
        worker.join()


def test_one_connection_without_token_does_not_stop_the_others(sandbox: Control, bob: User) -> None:
    broken = connected(sandbox, *FULL, owner=bob, name="Broken", refresh_token="1.A-garbage")
    well = connected(sandbox, *FULL, owner=bob, name="Well", app_registration=broken.app_registration)
    mailbox = factories.make_mailbox()
    for connection in (broken, well):
        factories.make_mailbox_access(connection, mailbox, probe_after=timezone.now() - timedelta(seconds=1))
    assert probes.probe_due(now=timezone.now()) == 1
    assert well.mailbox_accesses.get().state == State.REACHABLE
    assert broken.mailbox_accesses.get().state == State.UNPROBED


def test_the_database_refuses_a_second_row_for_the_same_pair(bob: User) -> None:
    row = factories.make_mailbox_access(factories.make_connection(owner=bob), factories.make_mailbox())
    with pytest.raises(IntegrityError):
        factories.make_mailbox_access(row.connection, row.mailbox)
