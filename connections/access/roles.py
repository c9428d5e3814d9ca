"""Who asks: the signed-in person with their roles, and what they were denied."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cached_property
from typing import Any

from django.contrib.auth.models import AnonymousUser

from connections.errors import NotAllowed
from connections.models import User
from connections.models.accounts import AUDITORS, IT_ADMINS

# What was denied during this request. Written down at its end, outside of the work that was refused, even if the
# view told the person in words of its own. Outside of requests nobody reads it.
denied: ContextVar[list[NotAllowed]] = ContextVar("access_denied")


class Person:
    """What a signed-in user is to the portal. Roles are read from the database once per request."""

    def __init__(self, user: User) -> None:
        self.user = user

    @cached_property
    def _groups(self) -> frozenset[str]:
        return frozenset(self.user.groups.values_list("name", flat=True))

    @property
    def is_admin(self) -> bool:
        """IT admin; a superuser is one by definition (break-glass)."""
        return self.user.is_active and (self.user.is_superuser or IT_ADMINS in self._groups)

    @property
    def is_auditor(self) -> bool:
        """Auditor."""
        return self.user.is_active and AUDITORS in self._groups

    @property
    def oversees(self) -> bool:
        """Whether they see everything there is: IT admins to mend it, auditors to review it."""
        return self.is_admin or self.is_auditor

    @property
    def role(self) -> str:
        """The role in words, the most powerful one first."""
        return "IT admin" if self.is_admin else "Auditor" if self.is_auditor else "Member"


def current_user(user: Any) -> User:
    """The signed-in user of a request. Raises NotAllowed for an anonymous one."""
    if not isinstance(user, User):
        raise NotAllowed("You are not signed in.", action="Sign in first.")
    return user


def person(user: User | AnonymousUser) -> Person:
    """The Person behind a user; kept on the user object so that roles are read once."""
    user = current_user(user)
    person: Person | None = user.__dict__.get("_portal_person")
    if person is None:
        person = user.__dict__["_portal_person"] = Person(user)
    return person


def require(allowed: bool, *, cause: str = "", action: str = "") -> None:
    """Raise NotAllowed unless ``allowed``."""
    if not allowed:
        error = NotAllowed(cause, action=action)
        note_denied(error)
        raise error


def note_denied(error: NotAllowed) -> None:
    """Have the denial recorded when the request is over; a second time for the same error changes nothing."""
    found = denied.get([])
    if not any(error is one for one in found):
        found.append(error)
