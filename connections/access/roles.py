"""The signed-in user's roles, and what they were denied."""

from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from connections.errors import NotAllowed
from connections.models import User
from connections.models.accounts import AUDITORS, IT_ADMINS

# Denials during the current request. They are recorded at its end, outside the transaction that was rolled back, even
# if the view handled the error itself. Outside requests nothing reads them.
denied: ContextVar[list[NotAllowed]] = ContextVar("access_denied")


def read_after(now: datetime) -> datetime:
    """Return the time after which the directory must have confirmed roles and groups for them to count."""
    hours = settings.ENTRA_AUTHORITY_MAX_AGE
    return now - timedelta(hours=hours) if hours else datetime(1970, 1, 1, tzinfo=UTC)


def is_recent(read_at: datetime | None) -> bool:
    """Whether what the directory said at ``read_at`` still counts. None: it does not come from a directory."""
    return read_at is None or read_at > read_after(timezone.now())


class Person:
    """A user's roles, read from the database once per request."""

    def __init__(self, user: User) -> None:
        self.user = user

    @cached_property
    def _groups(self) -> frozenset[str]:
        return frozenset(self.user.groups.values_list("name", flat=True))

    @property
    def is_admin(self) -> bool:
        """Whether they are an IT admin. A superuser always is one (for emergencies)."""
        return not self.user.is_suspended and (self.user.is_superuser or self._has_role(IT_ADMINS))

    @property
    def is_auditor(self) -> bool:
        return not self.user.is_suspended and self._has_role(AUDITORS)

    def _has_role(self, name: str) -> bool:
        return name in self._groups and is_recent(self.user.roles_read_at)

    @property
    def sleeping_roles(self) -> frozenset[str]:
        """The roles from Entra that were confirmed too long ago, so that they do not count until the next sign-in."""
        return frozenset() if is_recent(self.user.roles_read_at) else self._groups & {IT_ADMINS, AUDITORS}

    @property
    def oversees(self) -> bool:
        """Whether they see everything, as IT admins and auditors do."""
        return self.is_admin or self.is_auditor

    @property
    def role(self) -> str:
        """Return the name of the user's most powerful role."""
        return "IT admin" if self.is_admin else "Auditor" if self.is_auditor else "Member"


def current_user(user: Any) -> User:
    """Return the signed-in user of a request. Raises NotAllowed if nobody is signed in."""
    if not isinstance(user, User):
        raise NotAllowed("You aren't signed in.", action="Sign in first.")
    return user


def person(user: User | AnonymousUser) -> Person:
    """Return the Person for a user, cached on the user object."""
    user = current_user(user)
    cached: Person = user.__dict__.setdefault("_portal_person", Person(user))
    return cached


def require(allowed: bool, *, cause: str = "", action: str = "") -> None:
    if not allowed:
        error = NotAllowed(cause, action=action)
        note_denied(error)
        raise error


def note_denied(error: NotAllowed) -> None:
    """Have the denial recorded at the end of the request. Noting the same error twice does no harm."""
    errors = denied.get([])
    if not any(error is noted for noted in errors):
        errors.append(error)
