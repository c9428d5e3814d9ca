"""Backups of a PostgreSQL database, written and restored by PostgreSQL's own programs: pg_dump, pg_restore and psql.

They get the password in their environment, never as an argument. Their version must be at least the server's.
"""

import os
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from django.db import connection as database
from django.db.utils import ProgrammingError

from connections.errors import InUse, InvalidInput
from connections.services.operations import running_keys

_NAME = "portal-{:%Y%m%dT%H%M%SZ}.dump"
_PORTABLE = ("--no-owner", "--no-privileges")
# Seconds for which a restore waits for other sessions that use the tables.
_LOCK_TIMEOUT = 30
_BEGIN = (
    f"BEGIN; SET lock_timeout = '{_LOCK_TIMEOUT}s'; SET client_min_messages = warning; "
    "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"
)


def write(directory: Path, *, now: datetime) -> Path:
    """Write a backup into the directory while the portal runs. Returns the file, which only its owner can read.

    A failed backup leaves no file. Raises InvalidInput if PostgreSQL or its programs can't write it, or InUse if
    another backup is running.
    """
    if not directory.is_dir():
        raise InvalidInput(f"The directory {directory} doesn't exist.", action="Create it for the portal's user.")
    target = directory / _NAME.format(now)
    partial = target.with_suffix(".partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            # Pass the file name, because pg_dump writes its table of contents twice to a standard output.
            _run("pg_dump", "--format=custom", *_PORTABLE, f"--file={partial}", *_connected_as())
            os.fsync(file.fileno())
        _check_readable(partial)
        partial.rename(target)
    except FileExistsError:
        raise InUse(f"Another backup writes {partial}.", action="Wait for it, or remove a file that is left.") from None
    except OSError as problem:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InvalidInput(f"The backup can't be written: {problem.strerror}.") from problem
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return target


def remove_old(directory: Path, *, keep: int) -> list[Path]:
    """Remove all backups except the newest ``keep`` ones. Returns the removed files."""
    old = sorted(directory.glob("portal-*.dump"), reverse=True)[keep:]
    for file in old:
        file.unlink(missing_ok=True)
    return old


def load(source: Path, *, now: datetime) -> None:
    """Replace the whole database with the backup, in one transaction. If anything fails, nothing has changed.

    Raises InUse while processes of the portal run, and InvalidInput if the file can't be read or PostgreSQL refuses it.
    """
    _check_readable(source)
    _refuse_while_running(now)
    arguments = _connected_as()
    database.close()
    psql = subprocess.Popen(  # noqa: S603 - a program of PostgreSQL
        [_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=SHOW_CONTEXT=never", "--output=/dev/null", *arguments],
        env=_environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    restored = None
    with suppress(BrokenPipeError):  # psql has ended and says why
        _send(psql, _BEGIN)
        restored = _execute("pg_restore", "--file=-", *_PORTABLE, str(source), stdout=psql.stdin)
        if restored.returncode == 0:
            # Without this line, which only a complete backup reaches, psql ends and PostgreSQL rolls everything back.
            _send(psql, "\nCOMMIT;\n")
    _, problems = psql.communicate()
    if psql.returncode:
        raise InvalidInput(f"Nothing was restored. psql says: {_tail(problems)}")
    if restored is None or restored.returncode:
        raise InvalidInput(f"Nothing was restored. pg_restore says: {_tail(restored.stderr if restored else b'')}")


def _send(psql: "subprocess.Popen[bytes]", statements: str) -> None:
    if psql.stdin is not None:
        psql.stdin.write(statements.encode())
        psql.stdin.flush()


def _refuse_while_running(now: datetime) -> None:
    try:
        names = sorted({process.name for process in running_keys.running(now=now)})
    except ProgrammingError:
        return  # an empty database
    if names:
        action = "Stop web, worker and beat everywhere. One that was killed counts for two minutes."
        raise InUse(f"The portal is running: {', '.join(names)}.", action=action)


def _check_readable(file: Path) -> None:
    """Raise InvalidInput unless PostgreSQL can read the backup's table of contents."""
    if not file.is_file():
        raise InvalidInput(f"The file {file} doesn't exist.")
    _run("pg_restore", "--list", str(file))


def _connected_as() -> list[str]:
    """Return the command-line arguments that select the database, without its password."""
    if database.vendor != "postgresql":
        raise InvalidInput("Backups need PostgreSQL.", action="With SQLite, stop the portal and copy its file.")
    database.ensure_connection()
    if getattr(database, "is_pooled", False):
        raise InvalidInput("DATABASE_URL points to a pooler.", action="For this command, set it to the server itself.")
    return [f"--dbname={database.connection.info.dsn}"]


def _environment() -> dict[str, str]:
    password = database.settings_dict["PASSWORD"]
    return {**os.environ, **({"PGPASSWORD": password} if password else {})}


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        action = "Install the client programs of PostgreSQL in the server's version (Debian: postgresql-client)."
        raise InvalidInput(f"The program {name} isn't installed.", action=action)
    return path


def _run(name: str, *arguments: str) -> None:
    process = _execute(name, *arguments, stdout=subprocess.DEVNULL)
    if process.returncode:
        raise InvalidInput(f"{name} failed: {_tail(process.stderr)}")


def _execute(name: str, *arguments: str, stdout: IO[bytes] | int | None) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(  # noqa: S603 - a program of PostgreSQL
        [_program(name), *arguments], env=_environment(), stdout=stdout, stderr=subprocess.PIPE, check=False
    )


def _tail(problems: bytes) -> str:
    lines = problems.decode(errors="replace").strip().splitlines()
    return " ".join(line.strip() for line in lines[-3:]) or "no reason."
