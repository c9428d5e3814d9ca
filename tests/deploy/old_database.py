"""A database of this version with one of everything, kept for the test of upgrades from it.

At every release: ``python -m tests.deploy.old_database`` writes tests/deploy/data/VERSION.sql.gz. All of it is fictitious.
"""

import gzip
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from portal.dev_servers import PostgreSQL, installed_postgres

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
# Of all these databases, and of nothing else.
KEYS = {
    "SECRET_KEY": "the-secret-key-of-a-fictitious-database-that-is-in-the-tests-only",
    "FIELD_ENCRYPTION_KEYS": "ZmljdGl0aW91cy1rZXktb2YtdGhlLXVwZ3JhZGUtdGU=",
    "MICROSOFT_SANDBOX_URL": "http://localhost:1",
    "DJANGO_SETTINGS_MODULE": "portal.settings",
}
_FILL = """
import django
django.setup()
from django.utils import timezone
from connections.services.audit import sealing
from tests import factories, full_dataset
people = {name: factories.make_person(name) for name in ("alice", "bob", "carol", "dave")}
full_dataset.relate(full_dataset.make(people))
full_dataset.make_elsewhere()
sealing.seal_due(timezone.now())
"""


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        server = PostgreSQL(Path(directory))
        try:
            url = server.create_database("portal")
            environment = {**os.environ, **KEYS, "DATABASE_URL": url}
            for command in (["-m", "django", "migrate", "--verbosity=0"], ["-c", _FILL]):
                subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)
            host, _, name = url.removeprefix("postgres://postgres@/").rpartition("/")
            dump: list[str | Path] = [
                installed_postgres() / "bin" / "pg_dump",
                "--no-owner",
                "--no-privileges",
                "--inserts",
            ]
            dump += ["--host", host, "--username", "postgres", name]
            text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
        finally:
            server.stop()
    DATA.mkdir(exist_ok=True)
    (DATA / f"{version}.sql.gz").write_bytes(gzip.compress(_portable(text).encode(), 9, mtime=0))


def _portable(dump: str) -> str:
    """Leave out what only psql and the newest servers understand."""
    return re.sub(r"^(\\(un)?restrict .*|SET transaction_timeout = 0;)\n", "", dump, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
