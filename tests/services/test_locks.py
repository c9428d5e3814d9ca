"""Simultaneous changes on PostgreSQL do not deadlock, and nothing is deleted without an audit event."""

import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections as databases
from django.db import transaction
from django.utils import timezone

from connections.api import etags
from connections.errors import AlreadyExists
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AccessPeriod, AuditEvent, BulkAction, Connection, Share, User
from connections.services.connections import bulk_actions, bulk_execution
from connections.services.connections.bulk_options import Options
from connections.services.people import accounts, offboarding, ownership_transfer
from connections.services.sharing import history, shares, teams
from connections.services.tokens import apply_results
from tests import factories
from tests.api.api_client import Program
from tests.services.audit.test_sealing import thread

pytestmark = [pytest.mark.only_on("postgres"), pytest.mark.django_db(transaction=True)]

NOW = timezone.now()


def test_a_transfer_and_a_departure_of_the_owner_do_not_deadlock(
    alice: User, bob: User, dave: User, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    """Each refers to rows that the other has locked, and foreign keys are checked at commit."""
    factories.make_connection(owner=bob, name="Other")
    handed, marked = threading.Event(), threading.Event()

    def mark() -> None:
        with transaction.atomic():
            assert handed.wait(20)
            offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
            marked.set()

    real = history.ownership_began

    def owned(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        handed.set()
        assert marked.wait(20)

    with thread(mark), monkeypatch.context() as patched:
        patched.setattr(history, "ownership_began", owned)
        with transaction.atomic():
            ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    assert (factories.reloaded(bob).left_at, factories.reloaded(connection).owner) == (NOW, dave)


def test_a_refusal_and_a_departure_of_the_owner_do_not_deadlock(
    bob: User, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    flagged, marked = threading.Event(), threading.Event()

    def mark() -> None:
        with transaction.atomic():
            assert flagged.wait(20)
            offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
            marked.set()

    def refused(connection: Connection, verdict: Verdict, *, now: datetime) -> None:
        flagged.set()
        assert marked.wait(20)
        offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Refused.", now=now)

    monkeypatch.setattr(offboarding, "account_refused", refused)
    verdict = Verdict(Kind.POLICY, "AADSTS50057", "It is disabled.", "", Who.IT_ADMIN, certain=True)
    with thread(mark):
        apply_results.flag(connection.pk, verdict, now=NOW, version=connection.token_version)
    assert factories.reloaded(connection).status == Connection.Status.BLOCKED
    assert factories.reloaded(bob).left_cause == "Gone."


@pytest.mark.parametrize("what", ["team", "person"])
def test_sharing_with_a_team_or_person_being_removed_is_refused(
    what: str, alice: User, bob: User, dave: User, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    team = teams.add("Finance", actor=alice)
    target: dict[str, Any] = {"team": team} if what == "team" else {"person": dave}
    started = threading.Event()
    name = f"{what}_removed"
    real = getattr(history, name)
    refused: list[AlreadyExists] = []

    def share() -> None:
        started.set()
        try:
            shares.share(connection, **target, level="use", until=None, actor=bob, now=NOW)
        except AlreadyExists as error:
            refused.append(error)
        finally:
            databases.close_all()

    def removed(*args: Any, **kwargs: Any) -> None:
        """Called just before the removal, to give the other thread time to share."""
        real(*args, **kwargs)
        sharer.start()
        assert started.wait(20)
        sharer.join(1)

    sharer = threading.Thread(target=share)
    monkeypatch.setattr(history, name, removed)
    if what == "team":
        teams.remove(team, actor=alice, now=NOW)
    else:
        accounts.remove(dave, actor=alice, now=NOW)
    sharer.join(20)
    assert refused
    assert not AccessPeriod.objects.filter(ended_at=None).exclude(kind__in=("owner", "disabled")).exists()


def test_changing_a_share_over_the_api_and_on_its_page_does_not_deadlock(
    bob: User, dave: User, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    share = shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    program, real = Program(bob), etags.require_match

    def share_again() -> None:
        try:
            shares.share(connection, person=dave, level="use", until=None, actor=bob, now=timezone.now())
        finally:
            databases.close_all()

    on_the_page = threading.Thread(target=share_again)

    def require_match(*args: Any) -> None:
        """Called while the API holds its locks, to give the page time to take its own."""
        real(*args)
        on_the_page.start()
        on_the_page.join(0.5)

    monkeypatch.setattr(etags, "require_match", require_match)
    answer = program.patch(f"connections/{connection.pk}/shares/{share.pk}", {"level": "manage"})
    on_the_page.join(20)
    assert answer.status_code == 200, answer.content
    assert connection.shares.get(ended_at=None).level == "use", "the page came last"


@pytest.mark.parametrize("what", ["team", "person"])
def test_sharing_again_and_removing_the_team_or_person_does_not_deadlock(
    what: str, alice: User, bob: User, dave: User, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    """The old share has expired, so sharing again ends it first. Removing the team or person ends it as well."""
    team = teams.add("Finance", actor=alice)
    target: dict[str, Any] = {"team": team} if what == "team" else {"person": dave}
    terms: dict[str, Any] = {"level": "use", "actor": bob}
    shares.share(connection, **target, **terms, until=NOW + timedelta(hours=1), now=NOW)
    real = history.share_ended

    def remove() -> None:
        try:
            if what == "team":
                teams.remove(team, actor=alice, now=NOW + timedelta(hours=2))
            else:
                accounts.remove(dave, actor=alice, now=NOW + timedelta(hours=2))
        finally:
            databases.close_all()

    remover = threading.Thread(target=remove)

    def unshared(*args: Any, **kwargs: Any) -> None:
        """Called when the old share is ended and locked, to give the removal time to take its first locks."""
        real(*args, **kwargs)
        if threading.current_thread() is not remover:
            remover.start()
            remover.join(0.7)

    monkeypatch.setattr(history, "share_ended", unshared)
    shares.share(connection, **target, **terms, until=None, now=NOW + timedelta(hours=2))
    remover.join(20)
    assert not connection.shares.exists()
    assert not AccessPeriod.objects.filter(ended_at=None, share_id__isnull=False).exists()


def test_what_starts_is_recorded_as_it_was_previewed_last(bob: User, dave: User) -> None:
    """Somebody changes the options in one tab while they start the action in another one."""
    connection, una = factories.make_connection(owner=bob), factories.make_person("una")
    bulk_action = bulk_actions.draft(BulkAction.Action.SHARE, [connection], actor=bob, now=NOW)
    bulk_actions.preview(bulk_action, Options(people=(dave,)), actor=bob, now=NOW)
    previewed = threading.Event()

    def preview_again() -> None:
        with transaction.atomic():
            bulk_actions.preview(factories.reloaded(bulk_action), Options(people=(una,)), actor=bob, now=NOW)
            previewed.set()
            wait_until_someone_waits_for_a_lock()

    with thread(preview_again):
        assert previewed.wait(20)
        bulk_actions.start(bulk_action, actor=bob, now=NOW)
    bulk_execution.run_due(lambda: NOW)
    assert Share.objects.get().person == una
    assert "una" in AuditEvent.objects.get(action="bulk_action.started").changes["with"]


def wait_until_someone_waits_for_a_lock() -> None:
    for _ in range(200):
        with databases["default"].cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1")
            if cursor.fetchone():
                return
        time.sleep(0.1)
    raise AssertionError("Nobody waits for a lock.")
