"""The environment of a test run: its own directory, keys, Valkey and optionally PostgreSQL.

TEST_DATABASE selects the database: ``sqlite`` (the default) or ``postgres``, for which a PostgreSQL server is started
unless DATABASE_URL names one. All files are in .cache/tests/<process id>/ and are removed at the end.
"""

import atexit
import base64
import os
import secrets
import shutil
from pathlib import Path

from portal.dev_servers import PostgreSQL, Valkey

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / ".cache" / "tests"

_RUN = "TEST_RUN_DIRECTORY"  # the run directory; set once, inherited by the processes of pytest-xdist
_VALKEY = "TEST_RUN_VALKEY"


def prepare() -> None:
    """Set the environment variables that the portal's settings read; start the servers once per run."""
    if _RUN not in os.environ:
        _begin()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    database = int(worker.removeprefix("gw") or 0) + 1 if worker else 0
    os.environ["REDIS_URL"] = f"{os.environ[_VALKEY]}?db={database}"


def run_directory() -> Path:
    """Return the directory for this run's logs and other files."""
    return Path(os.environ[_RUN])


def test_database_name() -> str:
    """Return the name of the test database, which is unique on this machine because a server may be shared."""
    number = Path(os.environ[_RUN]).name
    if os.environ["DATABASE_URL"].startswith("sqlite"):
        # A file rather than memory, because some tests start worker and beat processes.
        return f"{os.environ[_RUN]}/test.sqlite3"
    return f"test_portal_{number}"


def _begin() -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    _sweep_up()
    run = RUNS / str(os.getpid())
    run.mkdir()
    atexit.register(shutil.rmtree, run, ignore_errors=True)
    valkey = Valkey(run / "valkey")
    atexit.register(valkey.stop)
    os.environ |= {
        _RUN: str(run),
        _VALKEY: valkey.url().partition("?")[0],
        "DATABASE_URL": _database_url(run),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "FIELD_ENCRYPTION_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "PORTAL_URL": "http://localhost:8000",
        "MICROSOFT_SANDBOX_URL": "",
        "EMAIL_URL": "memorymail://",
        "DEBUG": "off",
        "LOGIN_MICROSOFT_TENANT": "",
        "LOGIN_MICROSOFT_CLIENT_ID": "",
        "LOGIN_MICROSOFT_CLIENT_SECRET": "",
    }


def _database_url(run: Path) -> str:
    wanted = os.environ.get("TEST_DATABASE", "sqlite")
    given = os.environ.get("DATABASE_URL", "")
    if wanted == "sqlite":
        return f"sqlite:///{run}/unused.sqlite3"
    if wanted != "postgres":
        raise SystemExit(f"TEST_DATABASE is {wanted!r}; it must be sqlite or postgres.")
    if given.startswith(("postgres", "pgsql", "psql")):
        return given
    server = PostgreSQL(run / "postgres")
    atexit.register(server.stop)
    return server.url()


def _sweep_up() -> None:
    """Remove the directories of killed runs."""
    for left in RUNS.iterdir():
        if left.name.isdigit() and not _runs(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
