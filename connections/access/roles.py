"""The signed-in user's roles, and the actions that were denied to them."""

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

# Denials during the current request. They are recorded when it ends, outside the transaction that was rolled back, even
# if the view handled the error itself. Outside of requests, nobody reads this list.
denied: ContextVar[list[NotAllowed]] = ContextVar("access_denied")


def read_after(now: datetime) -> datetime:
    """Return the time after which the directory must have confirmed roles and groups for them to be valid."""
    hours = settings.ENTRA_AUTHORITY_MAX_AGE
    return now - timedelta(hours=hours) if hours else datetime(1970, 1, 1, tzinfo=UTC)


def is_recent(read_at: datetime | None) -> bool:
    """Whether roles or groups that the directory confirmed at ``read_at`` are still valid.

    None means that they don't come from a directory; they are always valid.
    """
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
        """Whether the user is an IT admin. For emergencies, a superuser always is one."""
        return not self.user.is_suspended and (self.user.is_superuser or self._has_role(IT_ADMINS))

    @property
    def is_auditor(self) -> bool:
        return not self.user.is_suspended and self._has_role(AUDITORS)

    def _has_role(self, name: str) -> bool:
        return name in self._groups and is_recent(self.user.roles_read_at)

    @property
    def sleeping_roles(self) -> frozenset[str]:
        """Roles from Entra that were confirmed too long ago. They are suspended until the user's next sign-in."""
        return frozenset() if is_recent(self.user.roles_read_at) else self._groups & {IT_ADMINS, AUDITORS}

    @property
    def oversees(self) -> bool:
        """Whether the user sees everything, as IT admins and auditors do."""
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
    """Have the denial recorded at the end of the request. It is recorded once, even if it is noted twice."""
    errors = denied.get([])
    if not any(error is noted for noted in errors):
        errors.append(error)
