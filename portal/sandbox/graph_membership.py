"""Groups and application roles in Graph: checkMemberGroups, servicePrincipals and appRoleAssignments."""

import uuid
from typing import Any

from portal.sandbox.graph_directory import Answer, Words, find, selected
from portal.sandbox.graph_errors import Caller, GraphError, insufficient, missing
from portal.sandbox.state import App, Person, World

READ_GROUPS = {"GroupMember.Read.All", "Group.Read.All", "Directory.Read.All"}
READ_ROLES = {"Directory.Read.All"}
MOST_GROUPS = 20


def check_member_groups(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """POST /users/{id}/checkMemberGroups: return those of the given groups that the person is a member of."""
    person = _person(here, caller, words, READ_GROUPS)
    groups = sent.get("groupIds") if isinstance(sent, dict) else None
    if not isinstance(groups, list) or len(groups) > MOST_GROUPS:
        raise GraphError(400, "Request_BadRequest", "The number of group ids is invalid.")
    member_of = {group for app in list(here.apps.values()) for group in app.groups.get(person.id, [])}
    return 200, {"value": [group for group in groups if group in member_of]}


def service_principal(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """GET /servicePrincipals(appId='…')."""
    if not caller.permissions & (READ_ROLES | {"Application.Read.All"}):
        raise insufficient()
    app = here.apps.get(words["app_id"].lower())
    if app is None:
        raise missing(words["app_id"])
    values = sorted({role for roles in app.app_roles.values() for role in roles})
    roles = [{"id": _role_id(app, value), "value": value, "displayName": value} for value in values]
    return 200, selected({"id": _principal_id(app), "appId": app.client_id, "appRoles": roles}, query)


def app_role_assignments(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """GET /users/{id}/appRoleAssignments."""
    person = _person(here, caller, words, READ_ROLES)
    assignments = [
        {"resourceId": _principal_id(app), "appRoleId": _role_id(app, value), "principalId": person.id}
        for app in list(here.apps.values())
        for value in app.app_roles.get(person.id, [])
    ]
    return 200, {"value": assignments}


def _person(here: World, caller: Caller, words: Words, enough: set[str]) -> Person:
    if not caller.permissions & enough:
        raise insufficient()
    person = find(here, caller, words)
    if not isinstance(person, Person) or person.deleted:
        raise missing(words["user"])
    return person


def _principal_id(app: App) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"principal:{app.client_id}"))


def _role_id(app: App, value: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"role:{app.client_id}:{value}"))
