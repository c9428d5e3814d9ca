"""The signed-in user's roles, and what they were denied."""

from contextvars import ContextVar
from functools import cached_property
from typing import Any

from django.contrib.auth.models import AnonymousUser

from connections.errors import NotAllowed
from connections.models import User
from connections.models.accounts import AUDITORS, IT_ADMINS

# Denials during the current request. They are recorded at its end, outside the transaction that was rolled back, even
# if the view handled the error itself. Outside requests nothing reads them.
denied: ContextVar[list[NotAllowed]] = ContextVar("access_denied")


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
        return self.user.is_active and (self.user.is_superuser or IT_ADMINS in self._groups)

    @property
    def is_auditor(self) -> bool:
        return self.user.is_active and AUDITORS in self._groups

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
        raise NotAllowed("You are not signed in.", action="Sign in first.")
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
