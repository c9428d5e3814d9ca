"""``make bench-rotation``: change the encryption key of a portal at work, and print what it took.

Two web processes, two workers and beat run on a key file, token calls go on all the time, and some connections are
refreshed. The new key is added, put first, everything is encrypted anew (killed in the middle and run again), and the
old key is removed. Exit code 1 if a call failed, or if a value does not open with the new key alone.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import django
from cryptography.fernet import Fernet

from benchmarks.stage import Stage
from portal.processes import Process
from portal.sandbox.process import free_port

DUE = 500  # connections that workers refresh meanwhile
CALLERS = 4
PAUSE = 0.01  # seconds between two calls of one caller


class Callers:
    """Threads that fetch tokens one after the other until stopped; they note the statuses and seconds of the calls."""

    def __init__(self, port: int, key: str, numbers: Sequence[int], count: int = CALLERS) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._port, self._key, self._numbers = port, key, numbers
        self._must_stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(place, count)) for place in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._must_stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, place: int, step: int) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Host": "localhost"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._must_stop.wait(PAUSE):
            number = self._numbers[place % len(self._numbers)]
            place += step
            began = time.monotonic()
            try:
                connection.request("GET", f"/api/v1/connections/{number}/token", headers=headers)
                response = connection.getresponse()
                response.read()
                self.statuses[response.status] += 1
                self.seconds.append(time.monotonic() - began)
            except (OSError, http.client.HTTPException):
                self.statuses[0] += 1
                connection.close()


@dataclass
class KeyChange:
    """One change of key: the file, the processes that read it, and how to run ``manage.py`` with what is in it."""

    file: Path
    processes: Sequence[Process]
    manage: Callable[..., Process]
    old: str
    new: str
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, *, batch: int) -> None:
        """Do what docs/operating.md says. Raises ProcessError or RuntimeError if a step fails."""
        self._step("add the new key", self._use, self.old, self.new)
        self._step("put it first", self._use, self.new, self.old)
        self._step("rotate, killed in the middle", self._rotate_and_kill, batch)
        self._step("rotate the rest", self._rotate)
        self._step("remove the old key", self._use, self.new)

    def _step(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        began = time.monotonic()
        action(*arguments)
        self.seconds[name] = time.monotonic() - began

    def _use(self, *keys: str) -> None:
        """Write the keys, let every process read them, and wait until each has said so."""
        from connections.keys import key_id
        from connections.models import RunningProcess

        write_keys(self.file, *keys)
        for process in self.processes:
            process.popen.send_signal(signal.SIGHUP)
        wanted = [key_id(key) for key in keys]
        wait_until(lambda: all(ids == wanted for ids in RunningProcess.objects.values_list("key_ids", flat=True)))

    def _rotate_and_kill(self, batch: int) -> None:
        command = self.manage("rotate_keys", "--batch", str(batch))
        command.wait_for_line("connections_connection.", seconds=60)
        command.popen.kill()
        command.popen.wait()

    def _rotate(self) -> None:
        command = self.manage("rotate_keys")
        if command.popen.wait(600):
            raise RuntimeError(f"rotate_keys failed.\n{command.last_lines()}")


def write_keys(file: Path, *keys: str) -> None:
    """Replace the key file in one step, as an agent should."""
    new = file.with_suffix(".new")
    new.write_text("\n".join(keys) + "\n")
    new.replace(file)


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("A process did not read its keys again in time.")
        time.sleep(0.05)


# --- The benchmark --------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.key_rotation", description=__doc__)
    parser.add_argument("--secrets", type=int, default=20_000, help="encrypted values (default 20,000)")
    options = parser.parse_args()
    stage = Stage()
    try:
        return measure(stage, options.secrets)
    finally:
        stage.close()


def measure(stage: Stage, secrets: int) -> int:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    file = stage.directory / "keys"
    write_keys(file, old)
    stage.environment.pop("FIELD_ENCRYPTION_KEYS", None)
    stage.environment["FIELD_ENCRYPTION_KEYS_FILE"] = str(file)
    os.environ.pop("FIELD_ENCRYPTION_KEYS", None)
    key, numbers = prepare(stage, secrets)
    port = free_port()
    web = stage.launch("web", "portal.server", BIND=f"127.0.0.1:{port}", WEB_WORKERS="2", API_RATE_LIMIT="0")
    command = ["celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip"]
    workers = [stage.launch(f"worker{number}", *command, "-n", f"worker{number}@localhost") for number in (1, 2)]
    beat = stage.launch("beat", "celery", "-A", "portal", "beat", SWEEP_INTERVAL="2")
    for worker in workers:
        worker.wait_for_line(" ready.", seconds=60)
    wait_until(lambda: count_processes() == 5, seconds=60)

    change = KeyChange(
        file, [web, *workers, beat], lambda *arguments: stage.launch("manage", "manage", *arguments), old, new
    )
    callers = Callers(port, key, numbers)
    try:
        change.run(batch=50)
    finally:
        callers.stop()
    return report(change, callers.statuses)


def count_processes() -> int:
    from connections.models import RunningProcess

    return RunningProcess.objects.count()


def prepare(stage: Stage, secrets: int) -> tuple[str, list[int]]:
    """Fill the database with connections of two tokens each; returns a key for their tokens, and their numbers."""
    os.environ.update(stage.environment)
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from connections.models import AppConsent, AppCredential, AppRegistration, Connection, Tenant, User
    from connections.services.api_keys import api_keys
    from portal.sandbox import seed

    call_command("migrate", verbosity=0)
    scopes = ["Mail.Read", "offline_access"]
    grants = stage.sandbox.control.issue_grant(seed.CONNECTIONS_APP, "ada@contoso.example", scopes, count=DUE)
    tokens = [*grants["refresh_tokens"], *(f"1.{number}" for number in range(secrets // 2 - DUE))]
    now = timezone.now()
    bob = User.objects.create_user("bob")
    tenant = Tenant.objects.create(
        name="Contoso", environment="sandbox", directory_id=seed.CONTOSO, tid=seed.CONTOSO, created_by=bob
    )
    app = AppRegistration.objects.create(
        name="App", tenant=tenant, environment=tenant.environment, client_id=seed.CONNECTIONS_APP, verified_at=now
    )
    consent = AppConsent.objects.create(app_registration=app, tenant=tenant)
    AppCredential.objects.create(app_registration=app, kind="secret", secret=seed.CONNECTIONS_SECRET)
    Connection.objects.bulk_create(
        (
            Connection(
                name=f"Connection {number}",
                app_registration=app,
                tenant=tenant,
                app_consent=consent,
                owner=bob,
                authentication_type="authorization_code",
                status=Connection.Status.ACTIVE,
                scopes="Mail.Read offline_access",
                refresh_token=token,
                access_token="eyJ0eXAi." + "x" * 2000,
                account_tid=grants["tenant"],
                account_oid=grants["oid"],
                expires_at=now + timedelta(hours=2),
                # Some become due one after the other while the key is changed.
                refresh_after=now + (timedelta(seconds=number / 10) if number < DUE else timedelta(hours=2)),
                token_version=1,
            )
            for number, token in enumerate(tokens)
        ),
        batch_size=500,
    )
    _, text = api_keys.issue(
        bob, name="Robot", scopes=["token:read"], expires_at=now + timedelta(days=1), actor=bob, now=now
    )
    return text, list(Connection.objects.order_by("pk").values_list("pk", flat=True))


def report(change: KeyChange, statuses: Counter[int]) -> int:
    """Open everything with the new key alone and print the figures; returns the exit code."""
    from django.utils import timezone

    from connections import keys
    from connections.models import Connection
    from connections.services.operations import secret_check

    keys.reload()  # the file has only the new key by now
    count = secret_check.count(now=timezone.now())
    opened = count.by_key[keys.key_id(change.new)]
    lost = sum(len(rows) for rows in [*count.unreadable.values(), *count.altered.values()])
    failed = sum(number for status, number in statuses.items() if status != 200)
    refreshed = Connection.objects.filter(refreshed_at__isnull=False).count()
    for name, seconds in change.seconds.items():
        print(f"  {name:<30} {seconds:6.1f} s")
    print(f"  {opened} values open with the new key alone, {lost} do not")
    print(f"  {statuses[200]} token calls answered meanwhile, {failed} failed; {refreshed} connections refreshed")
    return int(bool(failed or lost or not opened))


if __name__ == "__main__":
    sys.exit(main())
