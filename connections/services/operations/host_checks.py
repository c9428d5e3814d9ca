"""Checks of this machine and its settings: files, disk space, the sign-in app and the break-glass account."""

import os
import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import connection as database

from connections.models import User
from connections.services.operations.checks import Result, combine, ok, problem, warning

EXPIRES_SOON = 30  # days
_LEAST_FREE = 500_000_000  # bytes


def secret_files() -> Result:
    """Check that only the service can read the files with secrets."""
    paths = {name: path for name, path in os.environ.items() if name.endswith("_FILE") and path}
    paths = {name: path for name, path in paths.items() if name.removesuffix("_FILE") in settings.SECRET_SETTINGS}
    open_to_all = [
        f"{path} ({name})"
        for name, path in sorted(paths.items())
        if os.path.exists(path) and stat.S_IMODE(os.stat(path).st_mode) & stat.S_IROTH
    ]
    if open_to_all:
        return warning(f"every user of this machine can read {', '.join(open_to_all)}", "Run chmod o-r on these files.")
    return ok(
        f"{len(paths)} secrets come from files that others can't read" if paths else "no secret comes from a file"
    )


def sign_in_app(now: datetime | None = None) -> Result:
    """Check that the client secret of the portal's own sign-in doesn't expire soon."""
    if not settings.LOGIN_MICROSOFT["client_id"]:
        return ok("people sign in with local accounts; sign-in with Microsoft isn't set up")
    day = settings.LOGIN_MICROSOFT_SECRET_EXPIRES
    if day is None:
        action = "Set LOGIN_MICROSOFT_SECRET_EXPIRES, so that the portal can warn before sign-ins fail."
        return warning("the expiration date of its client secret is not recorded", action)
    days = (day - (now or datetime.now(UTC)).date()).days
    action = "Create a client secret in Entra, then set LOGIN_MICROSOFT_CLIENT_SECRET and _SECRET_EXPIRES."
    if days <= 0:
        return problem(f"its client secret expired on {day}", action)
    if days <= EXPIRES_SOON:
        return warning(f"its client secret expires in {days} days", action)
    return ok(f"its client secret expires on {day}")


def break_glass() -> Result:
    """Check that someone can sign in if Microsoft cannot be reached."""
    operators = User.objects.filter(is_superuser=True, is_active=True, left_at=None)
    if not any(user.has_usable_password() for user in operators[:20]):
        return problem("no operator can sign in with a local password", "Run manage.py createsuperuser.")
    return ok("an operator can sign in with a local password")


def disk() -> Result:
    """Check the free space where the portal writes: uploads, published seals and an SQLite database."""
    directories = {Path(tempfile.gettempdir())}
    if settings.AUDIT_SEAL_FILE:
        directories.add(Path(settings.AUDIT_SEAL_FILE).absolute().parent)
    if database.vendor == "sqlite":
        directories.add(Path(str(database.settings_dict["NAME"])).absolute().parent)
    return combine(_space(directory) for directory in sorted(directories) if directory.is_dir())


def _space(directory: Path) -> Result:
    free = shutil.disk_usage(directory).free
    if free < _LEAST_FREE:
        return problem(f"{directory} has {free // 1_000_000} MB left", f"Free space for {directory}.")
    return ok(f"{directory} has {free / 1e9:.1f} GB left")
