"""A copy of the migrated, empty SQLite database: only the first run after a change of the tables applies migrations.

The copies are in .cache/databases/, named by a digest of everything they depend on. On PostgreSQL every run migrates.
"""

import hashlib
import os
import shutil
from pathlib import Path

from tests.environment import ROOT

_COPIES = ROOT / ".cache" / "databases"
_KEPT = 4
_MADE_FROM = (
    "connections/migrations/*.py",
    "connections/models/*.py",
    "connections/fields.py",
    "connections/keys.py",
    "portal/settings.py",
    "requirements.txt",
)


def restore(database: str) -> None:
    """Write the copy to the file ``database``, if there is one."""
    if _copy().exists():
        shutil.copyfile(_copy(), database)


def save(database: str) -> None:
    """Keep a copy of the file ``database``, which must hold nothing but what the migrations wrote."""
    copy = _copy()
    if copy.exists():
        return
    _COPIES.mkdir(parents=True, exist_ok=True)
    for outdated in sorted(_COPIES.iterdir(), key=os.path.getmtime)[: -_KEPT + 1]:
        outdated.unlink(missing_ok=True)
    unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.copyfile(database, unfinished)
    unfinished.rename(copy)


def _copy() -> Path:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _MADE_FROM for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return _COPIES / f"{digest.hexdigest()[:24]}.sqlite3"
