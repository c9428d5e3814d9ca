"""Asks Microsoft Graph which people of a directory are still there.

Disabled accounts are listed with ``accountEnabled`` false; deleted ones are not listed, and asked for by their id they
give 404 (Microsoft Graph: user-list, user-get, resources/user).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

from connections.errors import MicrosoftUnavailable
from connections.microsoft import graph_client, http
from connections.microsoft.classifier import Verdict
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind, Who
from connections.microsoft.permissions import covered_by

# What an application's own token needs; the basic form does not say whether an account is enabled.
PERMISSION = "User.Read.All"
AT_ONCE = 15  # values in one "in" filter (Microsoft Graph: filter-query-parameter)
NOT_FOUND = "Request_ResourceNotFound"

UNREADABLE = Verdict(
    Kind.TRANSIENT,
    "unreadable",
    "An answer came that does not list people.",
    "The portal asks again later; if it stays so, an IT admin should look for a proxy in between.",
    Who.NOBODY,
)


class AccountState(StrEnum):
    """What the directory says of one person."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


def may_read(roles: Iterable[str]) -> bool:
    """Whether a token with these application roles may read whether accounts are enabled."""
    return PERMISSION in covered_by(frozenset(roles))


def read(cloud: Cloud, access_token: str, oids: Sequence[str]) -> dict[str, AccountState]:
    """How these people (object ids, lower case) stand. Who is not listed is asked for once more, alone.

    Raises MicrosoftRefused if they may not be read, MicrosoftUnavailable if that could not be told. Somebody about
    whom no clear answer came is left out.
    """
    found: dict[str, AccountState] = {}
    lists = [
        graph_client.request(
            cloud, access_token, f"users?$filter={_any_of(some)}&$select=id,accountEnabled&$top={AT_ONCE}"
        )
        for some in _slices(oids)
    ]
    for response in graph_client.request_json(lists):
        found |= _listed(response)
    alone = [
        graph_client.request(cloud, access_token, f"users/{oid}?$select=id,accountEnabled", oid)
        for oid in oids
        if oid not in found and _is_id(oid)
    ]
    for response in graph_client.request_json(alone):
        standing = _alone(response)
        if standing is not None:
            found[str(response.request.tag)] = standing
    return found


def _is_id(oid: str) -> bool:
    try:
        return str(uuid.UUID(oid)) == oid
    except ValueError:
        return False


def _slices(oids: Sequence[str]) -> Iterator[list[str]]:
    known = [oid for oid in oids if _is_id(oid)]
    return (known[start : start + AT_ONCE] for start in range(0, len(known), AT_ONCE))


def _any_of(oids: list[str]) -> str:
    """Percent-encoded by hand: only spaces and quotes occur besides the ids."""
    values = ",".join(f"%27{oid}%27" for oid in oids)
    return f"id%20in%20({values})"


def _listed(response: http.Response[str]) -> dict[str, AccountState]:
    graph_client.require_ok(response)
    content = _content(response)
    people = content.get("value")
    if not isinstance(people, list):
        raise MicrosoftUnavailable(UNREADABLE)
    return {str(person.get("id", "")).lower(): _standing(person) for person in people if isinstance(person, dict)}


def _alone(response: http.Response[str]) -> AccountState | None:
    """A 404 counts only if the directory itself says that there is no such object."""
    if response.status == 404:
        error = _content(response).get("error")
        gone = isinstance(error, dict) and error.get("code") == NOT_FOUND
        return AccountState.DELETED if gone else None
    graph_client.require_ok(response)
    content = _content(response)
    return _standing(content) if str(content.get("id", "")).lower() == response.request.tag else None


def _standing(person: dict[str, Any]) -> AccountState:
    return AccountState.DISABLED if person.get("accountEnabled") is False else AccountState.ENABLED


def _content(response: http.Response[str]) -> dict[str, Any]:
    try:
        content = json.loads(response.text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MicrosoftUnavailable(UNREADABLE)
    return content
