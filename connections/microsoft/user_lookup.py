"""Asks Microsoft Graph whether people's accounts are enabled, disabled or deleted.

Lists contain disabled accounts, with ``accountEnabled`` false. They do not contain deleted accounts, and requesting one
of those by its ID results in 404 (Microsoft Graph: user-list, user-get, resources/user).
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from connections.errors import MicrosoftUnavailable
from connections.microsoft import graph_client, http
from connections.microsoft.clouds import Cloud, is_guid
from connections.microsoft.permissions import covered_by
from connections.microsoft.response_parser import load_json

# The required application role; User.ReadBasic.All does not show whether an account is enabled.
PERMISSION = "User.Read.All"
AT_ONCE = 15  # values in one "in" filter (Microsoft Graph: filter-query-parameter)
NOT_FOUND = "Request_ResourceNotFound"

UNREADABLE = graph_client.unreadable("The response contains no list of people.", again="retries later")


class AccountState(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


def may_read(roles: Iterable[str]) -> bool:
    """Whether a token with these application roles shows which accounts are enabled."""
    return PERMISSION in covered_by(frozenset(roles))


def read(cloud: Cloud, access_token: str, oids: Sequence[str]) -> dict[str, AccountState]:
    """Return the accounts' states by object ID; unclear ones are left out.

    Raises MicrosoftRefused or MicrosoftUnavailable.
    """
    states: dict[str, AccountState] = {}
    known = [oid for oid in oids if is_guid(oid) and oid == oid.lower()]
    lists = []
    for start in range(0, len(known), AT_ONCE):
        # Encoded here, because spaces and quotes are the only special characters.
        values = ",".join(f"%27{oid}%27" for oid in known[start : start + AT_ONCE])
        path = f"users?$filter=id%20in%20({values})&$select=id,accountEnabled&$top={AT_ONCE}"
        lists.append(graph_client.request(cloud, access_token, path))
    for response in graph_client.request_json(lists):
        graph_client.require_ok(response)
        people = _content(response).get("value")
        if not isinstance(people, list):
            raise MicrosoftUnavailable(UNREADABLE)
        states |= {str(person.get("id", "")).lower(): _state(person) for person in people if isinstance(person, dict)}
    single = [
        graph_client.request(cloud, access_token, f"users/{oid}?$select=id,accountEnabled", oid)
        for oid in known
        if oid not in states
    ]
    for response in graph_client.request_json(single):
        if (state := _single(response)) is not None:
            states[str(response.request.tag)] = state
    return states


def _single(response: http.Response[str]) -> AccountState | None:
    """Return the account's state; None if it is unclear. A 404 only means "deleted" if the directory itself says so."""
    if response.status == 404:
        error = _content(response).get("error")
        is_deleted = isinstance(error, dict) and error.get("code") == NOT_FOUND
        return AccountState.DELETED if is_deleted else None
    graph_client.require_ok(response)
    content = _content(response)
    return _state(content) if str(content.get("id", "")).lower() == response.request.tag else None


def _state(person: dict[str, Any]) -> AccountState:
    return AccountState.DISABLED if person.get("accountEnabled") is False else AccountState.ENABLED


def _content(response: http.Response[str]) -> dict[str, Any]:
    try:
        content = load_json(response.text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MicrosoftUnavailable(UNREADABLE)
    return content
