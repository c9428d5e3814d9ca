"""The part of Microsoft Graph v1.0 that the portal uses.

This module checks the bearer token, finds the handler for the path and wraps the response. Mail and calendars are in
``graph_mail``, directory objects and files in ``graph_directory``, groups and roles in ``graph_membership``.
"""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jwt
from django.http import HttpRequest, HttpResponse

from portal.sandbox import (
    fault_injection,
    graph_credentials,
    graph_directory,
    graph_mail,
    graph_membership,
    permissions,
    request_log,
    tokens,
)
from portal.sandbox.graph_errors import Caller, GraphError, body, no_segment
from portal.sandbox.state import World, world

MOST_IN_A_BATCH = 20

# Arguments: the world, the caller, the groups of the path's pattern, the query and the JSON body. Returns status and
# content.
Handler = Callable[[World, Caller, dict[str, str], dict[str, str], Any], tuple[int, dict[str, Any] | None]]

WHO = r"(?:(?P<me>me)|users/(?P<user>[^/]+))"
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = [
    ("GET", re.compile(rf"{WHO}"), graph_directory.user),
    ("GET", re.compile(r"users"), graph_directory.users),
    ("GET", re.compile(r"organization"), graph_directory.organization),
    (
        "GET",
        re.compile(r"applications(?:\(appId='(?P<app_id>[^']+)'\)|/(?P<object_id>[^/]+))"),
        graph_directory.application,
    ),
    ("GET", re.compile(r"applications"), graph_directory.applications),
    ("POST", re.compile(r"applications/(?P<object_id>[^/]+)/addKey"), graph_credentials.add_key),
    ("POST", re.compile(r"applications/(?P<object_id>[^/]+)/removeKey"), graph_credentials.remove_key),
    ("POST", re.compile(r"applications/(?P<object_id>[^/]+)/addPassword"), graph_credentials.add_password),
    ("POST", re.compile(r"applications/(?P<object_id>[^/]+)/removePassword"), graph_credentials.remove_password),
    ("POST", re.compile(rf"{WHO}/checkMemberGroups"), graph_membership.check_member_groups),
    ("GET", re.compile(rf"{WHO}/appRoleAssignments"), graph_membership.app_role_assignments),
    ("GET", re.compile(r"servicePrincipals\(appId='(?P<app_id>[^']+)'\)"), graph_membership.service_principal),
    ("POST", re.compile(rf"{WHO}/revokeSignInSessions"), graph_directory.revoke_sessions),
    ("GET", re.compile(r"me/joinedTeams"), graph_directory.joined_teams),
    ("GET", re.compile(rf"{WHO}/drive"), graph_directory.drive),
    ("GET", re.compile(rf"{WHO}/drive/root/children"), graph_directory.drive_children),
    ("GET", re.compile(r"sites/root"), graph_directory.root_site),
    ("GET", re.compile(rf"{WHO}/mailFolders"), graph_mail.folders),
    ("GET", re.compile(rf"{WHO}/mailFolders(?:/(?P<folder>[^/(]+)|\('(?P<quoted>[^']+)'\))"), graph_mail.folder),
    (
        "GET",
        re.compile(rf"{WHO}(?:/mailFolders(?:/(?P<folder>[^/(]+)|\('(?P<quoted>[^']+)'\)))?/messages"),
        graph_mail.messages,
    ),
    (
        "GET",
        re.compile(rf"{WHO}(?:/mailFolders(?:/(?P<folder>[^/(]+)|\('(?P<quoted>[^']+)'\)))?/messages/(?P<id>[^/]+)"),
        graph_mail.message,
    ),
    ("POST", re.compile(rf"{WHO}/sendMail"), graph_mail.send_mail),
    ("GET", re.compile(rf"{WHO}/mailboxSettings"), graph_mail.settings),
    ("GET", re.compile(rf"{WHO}/calendars?"), graph_mail.calendars),
    ("GET", re.compile(rf"{WHO}/(?:calendar/)?(?:events|calendarView)"), graph_mail.events),
]


@fault_injection.exposed("graph")
def graph(request: HttpRequest, path: str) -> HttpResponse:
    """Handle requests with any method for /v1.0/…."""
    here = world()
    note: request_log.Call = request.sandbox_call  # type: ignore[attr-defined]
    client_request_id = request.headers.get("client-request-id", "")
    headers = {}
    content: dict[str, Any] | None
    try:
        caller = caller_of(here, request.headers.get("Authorization", ""), path)
        note.client_id, note.tenant = caller.app.client_id, caller.tenant
        sent = _sent(request)
        if path == "$batch" and request.method == "POST":
            status, content = 200, _batch(here, caller, sent)
        else:
            query = dict(parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True))
            status, content = dispatch(here, caller, request.method or "GET", path, query, sent)
    except GraphError as problem:
        status, content, headers = problem.status, body(problem, here.now(), client_request_id), problem.headers
        note.outcome = problem.code or str(problem.status)
    text = "" if content is None else json.dumps(content)
    response = HttpResponse(text, status=status, content_type="application/json; charset=utf-8", headers=headers)
    response["request-id"] = str(uuid.uuid4())
    response["client-request-id"] = client_request_id or response["request-id"]
    return response


def _sent(request: HttpRequest) -> Any:
    if not request.body:
        return None
    try:
        return json.loads(request.body)
    except ValueError:
        raise GraphError(400, "BadRequest", "Unable to read JSON request payload.") from None


def dispatch(
    here: World, caller: Caller, method: str, path: str, query: dict[str, str], sent: Any
) -> tuple[int, dict[str, Any] | None]:
    """Find the handler and return its response. Raises GraphError."""
    for wanted, pattern, handler in ROUTES:
        match = pattern.fullmatch(unquote(path).rstrip("/"))
        if match is not None and wanted == method:
            return handler(here, caller, {k: v or "" for k, v in match.groupdict().items()}, query, sent)
    raise no_segment(path.rsplit("/", 1)[-1])


def caller_of(here: World, header: str, path: str = "") -> Caller:
    """Return the caller whom the bearer token identifies. Raises GraphError (401) if the token is invalid."""

    def refused(message: str, code: str = "InvalidAuthenticationToken") -> GraphError:
        challenge = f'Bearer realm="", authorization_uri="{here.public_url}/common/oauth2/authorize"'
        return GraphError(401, code, message, {"WWW-Authenticate": challenge})

    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise refused("Access token is empty.")
    try:
        claims = jwt.decode(
            token,
            here.signing_key.public_key(),
            algorithms=["RS256"],
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
    except jwt.InvalidSignatureError:
        raise refused("CompactToken validation failed with reason code: 8004920A.") from None
    except jwt.InvalidTokenError:
        raise refused("CompactToken parsing failed with error code: 80049217") from None
    if claims.get("aud") != permissions.GRAPH:
        raise refused("Access token validation failure. Invalid audience.")
    if claims["exp"] <= here.now():
        raise refused("Lifetime validation failed, the token is expired.")
    app = here.apps.get(claims["appid"])
    if app is None:
        raise refused("The identity of the calling application could not be established.")
    held = frozenset(claims.get("roles", [])) | frozenset(claims.get("scp", "").split())
    # Permissions from Exchange are not in the token, so a token without roles can still be useful.
    rolls_keys = path.endswith(("/addKey", "/removeKey"))  # an application needs no permission to change its own keys
    if not held and not app.exchange_roles and not rolls_keys:
        text = "The token contains no permissions, or permissions can not be understood."
        raise refused(text, "NoPermissionsInAccessToken")
    person = here.people.get(claims["oid"]) if "scp" in claims else None
    return Caller(app, claims["tid"], person, held)


def _batch(here: World, caller: Caller, sent: Any) -> dict[str, Any]:
    """Run the parts of a batch in order, respecting ``dependsOn`` (Graph: json-batching)."""
    parts = sent.get("requests") if isinstance(sent, dict) else None
    if not isinstance(parts, list) or not 0 < len(parts) <= MOST_IN_A_BATCH:
        raise GraphError(400, "BadRequest", f"A batch holds between 1 and {MOST_IN_A_BATCH} requests.")
    ids = [str(part.get("id", "")) for part in parts]
    if len(set(ids)) != len(ids) or "" in ids:
        raise GraphError(400, "BadRequest", "The ids of a batch must be present and unique.")
    answers: dict[str, dict[str, Any]] = {}
    for part in parts:
        failed = [
            request_id
            for request_id in part.get("dependsOn", [])
            if answers.get(request_id, {"status": 424})["status"] >= 400
        ]
        answers[str(part["id"])] = _part(here, caller, part, bool(failed))
    return {"responses": list(answers.values())}


def _part(here: World, caller: Caller, part: dict[str, Any], dependency_failed: bool) -> dict[str, Any]:
    try:
        if dependency_failed:
            raise GraphError(424, "FailedDependency", "A request this one depends on has failed.")
        fault = fault_injection.faults.over("batch")
        if fault is not None and fault.kind == "throttle":
            wait = {} if fault.retry_after == "missing" else {"Retry-After": fault.retry_after}
            raise GraphError(429, "TooManyRequests", "Too many requests.", wait)
        url = urlsplit(str(part.get("url", "")))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        method, path = str(part.get("method", "GET")).upper(), url.path.lstrip("/")
        status, content = dispatch(here, caller, method, path, query, part.get("body"))
        headers: dict[str, str] = {"Content-Type": "application/json"}
    except GraphError as problem:
        status, content, headers = problem.status, body(problem, here.now(), ""), problem.headers
    return {"id": str(part["id"]), "status": status, "headers": headers, "body": content}


@fault_injection.exposed("graph")
def userinfo(request: HttpRequest) -> HttpResponse:
    """GET /oidc/userinfo (identity-platform/userinfo)."""
    here = world()
    try:
        caller = caller_of(here, request.headers.get("Authorization", ""))
        if caller.person is None or "openid" not in caller.permissions:
            raise GraphError(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
    except GraphError as problem:
        content, status = body(problem, here.now(), ""), problem.status
    else:
        person, status = caller.person, 200
        content = {
            "sub": tokens.pairwise(here, caller.app, person),
            "name": person.name,
            "email": person.mail or person.upn,
        }
    return HttpResponse(json.dumps(content), status=status, content_type="application/json; charset=utf-8")
