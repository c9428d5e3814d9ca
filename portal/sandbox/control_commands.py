"""Shared by all control commands: the registry, the refusal and the look-ups."""

import typing
from collections.abc import Callable
from typing import Any

from portal.sandbox import permissions
from portal.sandbox.state import App, Directory, Person, world

Verb = Callable[..., dict[str, Any]]
VERBS: dict[str, Verb] = {}


class Refused(Exception):
    """The command cannot run; the message says why."""


def verb(function: Verb) -> Verb:
    """Make a function a verb of the control API; a final underscore only keeps it apart from a module."""
    VERBS[function.__name__.rstrip("_")] = function
    return function


def person_called(name: str) -> Person:
    """The person with this user name in any directory, deleted ones included."""
    for person in world().people.values():
        if name.lower() in (person.upn.lower(), person.id):
            return person
    raise Refused(f"There is no person called {name!r}.")


def app_with(client_id: str) -> App:
    """The app registration with this client id, deleted ones included."""
    app = world().apps.get(client_id.lower())
    if app is None:
        raise Refused(f"There is no app with client id {client_id!r}.")
    return app


def directory_called(name: str) -> Directory:
    """The directory with this id or domain."""
    directory = world().directory(name)
    if directory is None:
        raise Refused(f"There is no directory called {name!r}.")
    return directory


def permission_names(names: list[str]) -> list[str]:
    """These permissions in the spelling of the catalogue."""
    try:
        return [permissions.canonical(name) for name in names]
    except ValueError as problem:
        raise Refused(str(problem)) from None


def one_of(value: str, allowed: typing.Iterable[str], field: str) -> None:
    """Refuse a value that is not among those allowed."""
    if value not in allowed:
        raise Refused(f"{field} must be one of {', '.join(allowed)}, not {value!r}.")
