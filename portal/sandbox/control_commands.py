"""Shared by all control commands: the registry of commands, the error for a refusal, and look-ups."""

import typing
from collections.abc import Callable
from typing import Any

from portal.sandbox import permissions
from portal.sandbox.state import App, Directory, Person, world

Verb = Callable[..., dict[str, Any]]
VERBS: dict[str, Verb] = {}


class Refused(Exception):
    """The command cannot run. The message says why."""


def verb(function: Verb) -> Verb:
    """Register a function as a command. The command's name has no final underscore, which only avoids name clashes."""
    VERBS[function.__name__.rstrip("_")] = function
    return function


def person_called(name: str) -> Person:
    """Return the person with this user name or ID in any directory, including deleted people.

    Raises Refused if there is none.
    """
    for person in world().people.values():
        if name.lower() in (person.upn.lower(), person.id):
            return person
    raise Refused(f"The person {name!r} doesn't exist.")


def app_with(client_id: str) -> App:
    """Return the app registration with this client ID, even if it is deleted. Raises Refused if there is none."""
    app = world().apps.get(client_id.lower())
    if app is None:
        raise Refused(f"No app has the client ID {client_id!r}.")
    return app


def directory_called(name: str) -> Directory:
    """Return the directory with this ID or domain. Raises Refused if there is none."""
    directory = world().directory(name)
    if directory is None:
        raise Refused(f"The directory {name!r} doesn't exist.")
    return directory


def permission_names(names: list[str]) -> list[str]:
    """Return these permissions in the spelling of the catalogue. Raises Refused if one is unknown."""
    try:
        return [permissions.canonical(name) for name in names]
    except ValueError as problem:
        raise Refused(str(problem)) from None


def one_of(value: str, allowed: typing.Iterable[str], field: str) -> None:
    """Raise Refused unless the value is allowed."""
    if value not in allowed:
        raise Refused(f"{field} must be one of {', '.join(allowed)}, not {value!r}.")
