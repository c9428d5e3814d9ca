"""Asks Microsoft Graph for people's group memberships and their roles in an application.

Groups: ``directoryObject: checkMemberGroups`` takes up to 20 groups and includes nested ones. Application roles:
``user: list appRoleAssignments`` includes the roles of groups of which the person is a direct member, like the
``roles`` claim of a token.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from connections.errors import MicrosoftUnavailable
from connections.microsoft import graph_client, http
from connections.microsoft.clouds import Cloud, is_guid
from connections.microsoft.permissions import covered_by

GROUPS_PERMISSION = "GroupMember.Read.All"
ROLES_PERMISSION = "Directory.Read.All"
GROUPS_AT_ONCE = 20  # Microsoft Graph: directoryobject-checkmembergroups
MOST_ASSIGNMENTS = 999

UNREADABLE = graph_client.unreadable("An answer came that lists no groups or roles.", again="asks again later")


@dataclass(frozen=True, slots=True)
class Authority:
    """The groups and roles of one person. ``roles`` is None if the portal is not permitted to read them."""

    groups: frozenset[str]
    roles: frozenset[str] | None


def may_read_groups(roles: Iterable[str]) -> bool:
    """Whether a token with these application roles may read people's groups."""
    return GROUPS_PERMISSION in covered_by(frozenset(roles))


def read(
    cloud: Cloud,
    access_token: str,
    oids: Collection[str],
    *,
    groups: Collection[str],
    client_id: str,
    held: Iterable[str],
) -> dict[str, Authority]:
    """Return people's groups and roles by their object ID.

    Only ``groups`` are checked; entries that are not object IDs are ignored. ``client_id`` is the application whose
    roles are read, and ``held`` are the application roles in the access token. Raises MicrosoftRefused or
    MicrosoftUnavailable.
    """
    known = sorted(group for group in groups if is_guid(group))
    members: dict[str, set[str]] = {oid: set() for oid in oids}
    requests = [
        graph_client.request(
            cloud, access_token, f"users/{oid}/checkMemberGroups", oid, body=json.dumps({"groupIds": batch}).encode()
        )
        for oid in oids
        for batch in (known[start : start + GROUPS_AT_ONCE] for start in range(0, len(known), GROUPS_AT_ONCE))
    ]
    for response in graph_client.request_json(requests):
        members[str(response.request.tag)] |= {str(group).lower() for group in _values(response)}
    roles = None
    if ROLES_PERMISSION in covered_by(frozenset(held)):
        roles = _app_roles(cloud, access_token, oids, client_id)
    by_lower = {group.lower(): group for group in known}
    return {
        oid: Authority(
            frozenset(by_lower[group] for group in reported if group in by_lower),
            None if roles is None else frozenset(roles[oid]),
        )
        for oid, reported in members.items()
    }


def _app_roles(cloud: Cloud, access_token: str, oids: Collection[str], client_id: str) -> dict[str, set[str]]:
    path = f"servicePrincipals(appId=%27{client_id}%27)?$select=id,appRoles"
    (response,) = graph_client.request_json([graph_client.request(cloud, access_token, path)])
    principal = _content(response)
    values = {str(role.get("id")): str(role.get("value")) for role in principal.get("appRoles", [])}
    requests = [
        graph_client.request(cloud, access_token, f"users/{oid}/appRoleAssignments?$top={MOST_ASSIGNMENTS}", oid)
        for oid in oids
    ]
    roles: dict[str, set[str]] = {oid: set() for oid in oids}
    for response in graph_client.request_json(requests):
        for assignment in _values(response):
            if assignment.get("resourceId") == principal.get("id") and assignment.get("appRoleId") in values:
                roles[str(response.request.tag)].add(values[assignment["appRoleId"]])
    return roles


def _values(response: http.Response[str]) -> list[Any]:
    values = _content(response).get("value")
    if not isinstance(values, list):
        raise MicrosoftUnavailable(UNREADABLE)
    return values


def _content(response: http.Response[str]) -> dict[str, Any]:
    graph_client.require_ok(response)
    try:
        content = json.loads(response.text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MicrosoftUnavailable(UNREADABLE)
    return content
