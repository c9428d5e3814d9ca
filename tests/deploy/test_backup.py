"""A backup is made while the portal works, restored into an older state and declared; the portal finds out the rest."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection as database
from django.utils import timezone

from connections.models import AuditEvent, Connection, Delivery, Incident, RunningProcess, Session, User
from connections.services.audit import publishing, sealing
from connections.services.operations import restore
from connections.tasks import sweep
from portal.dev_servers import installed_postgres
from portal.sandbox.client import Control
from tests import factories
from tests.conftest import portal_environment
from tests.environment import ROOT
from tests.faults.test_many_workers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.only_on("postgres")]
# The server of the tests is newer than the programs that the machine may have.
GRACE = "grace@contoso.example"
PROGRAMS = str(installed_postgres() / "bin")


def manage(*arguments: str, path: str = f"{PROGRAMS}:{os.environ['PATH']}", **environment: str) -> tuple[int, str]:
    """Run manage.py as an operator does; return its exit code and what it said."""
    database.close()
    process = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env=portal_environment(**environment, PATH=path),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return process.returncode, process.stdout + process.stderr


def backup(directory: Path, *options: str) -> Path:
    code, output = manage("backup", str(directory), *options)
    assert code == 0, output
    (file,) = directory.iterdir()
    return file


def grant(sandbox: Control, upn: str) -> dict[str, Any]:
    return sandbox.issue_grant(factories.CLIENT_ID, upn, ["Mail.Read", "offline_access"])


def connect(sandbox: Control, name: str, upn: str, owner: User) -> Connection:
    granted = grant(sandbox, upn)
    return factories.make_connection(
        name=name, owner=owner, refresh_token=granted["refresh_tokens"][0], refresh_after=timezone.now(),
        account_oid=granted["oid"], account_username=upn,
    )  # fmt: skip


def test_a_restored_portal_finds_out_what_still_works(
    sandbox: Control, alice: User, bob: User, signed_in: Any, settings: Any, tmp_path: Path,
    celery_worker: Callable[..., list[Any]], celery_beat: Callable[..., list[Any]],
) -> None:  # fmt: skip
    settings.AUDIT_SEAL_FILE = seals = str(tmp_path / "seals.jsonl")
    kept, signed_in_again = connect(sandbox, "kept", factories.ADA, bob), connect(sandbox, "again", GRACE, bob)
    signed_in(bob)
    running = [*celery_worker(SWEEP_INTERVAL="0.5", AUDIT_SEAL_FILE=seals), *celery_beat(AUDIT_SEAL_FILE=seals)]
    wait_until(lambda: Connection.objects.filter(refreshed_at__isnull=False).count() == 2, seconds=60)
    (tmp_path / "backups").mkdir()
    file = backup(tmp_path / "backups")
    assert file.stat().st_mode & 0o077 == 0

    # Meanwhile Grace's sign-in is revoked and made anew, and another connection and seals are added.
    sandbox.revoke_sessions(GRACE)
    signed_in_again.refresh_from_db()
    signed_in_again.refresh_token = grant(sandbox, GRACE)["refresh_tokens"][0]
    signed_in_again.save(update_fields=["refresh_token"])
    connect(sandbox, "later", factories.ADA, bob)
    sealing.seal_due(timezone.now())
    publishing.publish_due(timezone.now())

    assert "The portal is running" in manage("restore_backup", str(file), "--yes")[1]
    for process in running:
        process.stop()
    RunningProcess.objects.all().delete()
    code, output = manage("restore_backup", str(file), "--yes")
    assert (code, "decrypt all stored secrets" in output) == (0, True), output
    assert set(Connection.objects.values_list("name", flat=True)) == {"kept", "again"}
    assert Session.objects.exists()

    code, output = manage("declare_restore", "--actor", "alice", "--reason", "Disk failure", AUDIT_SEAL_FILE=seals)
    assert (code, "Everyone must sign in again" in output) == (0, True), output
    assert not Session.objects.exists()
    assert not RunningProcess.objects.exists()
    assert Delivery.objects.filter(email=alice.email.lower(), subject__contains="restore").exists()
    assert "haven't been checked" in restore.progress(timezone.now()).detail

    sweep()
    kept.refresh_from_db()
    signed_in_again.refresh_from_db()
    assert (kept.status, signed_in_again.status) == ("active", "reconnect_needed")
    incident = Incident.objects.get(closed_at=None, kind="account")
    assert list(incident.affected.values_list("connection_name", flat=True)) == ["again"]
    detail = restore.progress(timezone.now()).detail
    assert (detail.startswith("new sign-ins needed since the restore of"), detail[-3:]) == (True, ": 1")
    code, output = manage("audit_verify", "--published", seals)
    assert (code, "Restore declared by" in output) == (0, True), output


def test_a_backup_that_cannot_be_used_changes_nothing(alice: User, tmp_path: Path) -> None:
    """A file that is cut off is found out only while it is restored: the tables are back as they were."""
    (tmp_path / "backups").mkdir()
    for number in range(40):
        factories.make_person(f"person-{number}")
    file = backup(tmp_path / "backups")
    whole = file.read_bytes()
    before = User.objects.count()
    for text, says in ((whole[:-20], "Nothing was restored. pg_restore says"), (b"no", "failed")):
        file.write_bytes(text)
        code, output = manage("restore_backup", str(file), "--yes")
        assert (code, says in output, "Traceback" in output) == (1, True, False), output
        assert User.objects.count() == before
    assert "doesn't exist" in manage("restore_backup", str(tmp_path / "none"), "--yes")[1]
    assert "add --yes" in manage("restore_backup", str(file))[1]


def test_what_a_backup_lacks_is_said_and_no_file_is_left(alice: User, tmp_path: Path) -> None:
    code, output = manage("backup", str(tmp_path), path="/nowhere")
    assert (code, "pg_dump isn't installed" in output, list(tmp_path.iterdir())) == (1, True, [])
    assert "doesn't exist" in manage("backup", str(tmp_path / "none"))[1]
    for name in ("portal-20200101T000000Z.dump", "portal-20200102T000000Z.dump", "other.dump"):
        (tmp_path / name).touch()
    code, output = manage("backup", str(tmp_path), "--keep", "2")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert (code, len(left), left[:2]) == (0, 3, ["other.dump", "portal-20200102T000000Z.dump"]), output


def test_a_restore_without_lost_seals_is_declared(alice: User, bob: User, signed_in: Any) -> None:
    signed_in(bob)
    out = io.StringIO()
    call_command("declare_restore", actor="alice", reason="Moved", published="", nothing_lost=True, stdout=out)
    assert "Everyone must sign in again" in out.getvalue()
    assert not Session.objects.exists()
    event = AuditEvent.objects.get(action="audit.restore_declared")
    assert (event.actor, event.changes) == (alice, {"reason": "Moved"})
    assert restore.progress(timezone.now()).detail.startswith("all connections work since the restore of")
