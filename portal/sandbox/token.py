"""The token endpoint: authorization code, refresh token and client credentials.

Microsoft: identity-platform/v2-oauth2-auth-code-flow and v2-oauth2-client-creds-grant-flow.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse

from portal.sandbox import clients, consents, errors, fault_injection, permissions, request_log, tokens
from portal.sandbox.state import CONSUMERS, App, Code, Directory, Person, World, world

REFRESH_TOKEN_IDLE = 90 * 86400  # seconds (identity-platform/refresh-tokens)
SPA_REFRESH_TOKEN = 86400
CODE_LIFETIME = 600


@fault_injection.exposed("token")
def token(request: HttpRequest, tenant: str) -> HttpResponse:
    """POST /{tenant}/oauth2/v2.0/token."""
    trace = errors.Trace.of(request.headers.get("client-request-id", ""))
    call: request_log.Call = request.sandbox_call  # type: ignore[attr-defined]
    call.tenant, call.correlation_id = tenant, trace.correlation_id
    here = world()
    try:
        answer, status = _answer(here, request, tenant, call), 200
    except errors.EntraError as problem:
        answer, status = errors.body(problem, trace, here.now(), here.public_url), problem.status
        call.outcome = str(problem.code)
    response = HttpResponse(json.dumps(answer), status=status, content_type="application/json; charset=utf-8")
    response["Cache-Control"] = "no-store, no-cache"
    response["Pragma"] = "no-cache"
    response["x-ms-request-id"] = trace.trace_id
    response["x-ms-ests-server"] = "sandbox"
    if "client-request-id" in request.headers:
        response["client-request-id"] = trace.correlation_id
    return response


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise errors.refusal(900144, parameter=name)
    return value


def _answer(here: World, request: HttpRequest, authority: str, call: request_log.Call) -> dict[str, Any]:
    if request.method != "POST":
        raise errors.refusal(900561, method=request.method)
    form = clients.credentials(request)
    call.client_id, call.grant_type = form.get("client_id", ""), form.get("grant_type", "")
    where = clients.directory(here, authority)
    grant_type = _required(form, "grant_type")
    client_id = _required(form, "client_id")
    if "resource" in form:
        raise errors.refusal(901002)
    if grant_type not in ("authorization_code", "refresh_token", "client_credentials"):
        raise errors.refusal(70003, grant_type=grant_type)
    if grant_type == "client_credentials":
        return _for_app(here, form, where, authority)
    app = clients.app_in(here, client_id, where)
    if grant_type == "authorization_code":
        return _redeem_code(here, form, app, authority, call)
    return _refresh(here, form, app, where, authority, call)


def _for_app(here: World, form: Mapping[str, str], where: Directory | None, authority: str) -> dict[str, Any]:
    if where is None:
        raise errors.refusal(50059)
    scope = _required(form, "scope")
    app = clients.app_in(here, form["client_id"], where)
    clients.authenticate(here, app, form, authority)
    if app.platform == "public":
        raise errors.refusal(7000218)
    requested = permissions.parse(scope, here.public_url)
    if scope.endswith("/.default") and requested.unknown_resources:
        raise errors.refusal(500011, resource=requested.unknown_resources[0], tenant_name=where.name)
    if not requested.default or requested.names or requested.unknown or requested.several:
        raise errors.refusal(1002012, scope=scope)
    clients.principal(here, app, where)
    seconds = tokens.lifetime(here)
    (resource,) = requested.resources
    granted = consents.roles(here, app, where.id)
    roles = [permissions.short(name) for name in granted if permissions.resource_of(name) == resource]
    access = tokens.access_token_for_app(here, app, where.id, roles, seconds, audience=requested.audience)
    # Here, Microsoft sends no scope and never a refresh token (v2-oauth2-client-creds-grant-flow).
    return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": access}


def _redeem_code(
    here: World, form: Mapping[str, str], app: App, authority: str, call: request_log.Call
) -> dict[str, Any]:
    value = _required(form, "code")
    redirect_uri = _required(form, "redirect_uri")
    clients.authenticate(here, app, form, authority)
    code = here.codes.get(value)
    if code is None or code.client_id != app.client_id:
        raise errors.refusal(70000, parameter="code", detail="")
    call.grant = request_log.fingerprint(code.grant)
    if code.expires_at <= here.now():
        raise errors.refusal(70008)
    person = here.people[code.person]
    _check_authority(here, code.authority, authority, person)
    if code.redirect_uri != redirect_uri:
        raise errors.refusal(70000, parameter="redirect_uri", detail=" The redirect URI is not the one of the code.")
    if app.platform == "spa" and not code.challenge:
        raise errors.refusal(9002325)
    _check_verifier(code.challenge, code.challenge_method, form.get("code_verifier", ""))
    with here.lock:
        if code.redeemed:
            raise errors.refusal(54005)
        code.redeemed = True
    _check_person(here, app, person)
    requested = permissions.parse(form.get("scope") or code.scope, here.public_url)
    first = permissions.parse(code.scope, here.public_url)
    now = here.now()
    grant = tokens.Grant(
        id=code.grant,
        client_id=app.client_id,
        person=person.id,
        tenant=person.tenant,
        scopes=[*first.names, *(["/.default"] if first.default else [])],
        authenticated_at=code.authenticated_at,
        issued_at=now,
        mfa=code.mfa,
    )
    return _delegated(here, form, app, person, requested, grant, code=code)


def _check_authority(here: World, started_at: str, redeemed_at: str, person: Person) -> None:
    """Check that the code is redeemed at the tenant that issued it, under any name of the tenant (AADSTS700005)."""
    where = here.directory(redeemed_at)
    if redeemed_at.lower() == started_at.lower() or (where is not None and where.id == person.tenant):
        return
    raise errors.refusal(700005)


def _check_verifier(challenge: str, method: str, verifier: str) -> None:
    """Check the PKCE verifier (RFC 7636). A verifier without a challenge is also a mismatch."""
    if not challenge and not verifier:
        return
    if method == "S256":
        digest = hashlib.sha256(verifier.encode()).digest()
        computed = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    else:
        computed = verifier
    if not challenge or computed != challenge.rstrip("="):
        raise errors.refusal(501481)


def _refresh(
    here: World, form: Mapping[str, str], app: App, where: Directory | None, authority: str, call: request_log.Call
) -> dict[str, Any]:
    value = _required(form, "refresh_token")
    clients.authenticate(here, app, form, authority)
    grant = tokens.unseal(here, value)
    if grant is None:
        raise errors.refusal(9002313)
    call.grant = request_log.fingerprint(grant.id)
    if grant.client_id != app.client_id:
        detail = " The token was issued to another application."
        raise errors.refusal(70000, parameter="refresh_token", detail=detail)
    person = here.people.get(grant.person)
    if person is None or person.deleted:
        raise errors.refusal(50034, tenant=grant.tenant)
    if where is not None and where.id != grant.tenant:
        issuer = f"{here.public_url}/{grant.tenant}/"
        words = {"upn": "{EmailHidden}", "issuer": issuer, "tenant_name": where.name}
        raise errors.refusal(50020, error="invalid_grant", client_id=app.client_id, app_name=app.name, **words)
    _check_age(here, app, person, grant)
    _check_person(here, app, person, mfa_done=grant.mfa)
    requested = permissions.parse(form["scope"], here.public_url) if form.get("scope") else _first_scopes(grant)
    grant.issued_at = here.now()
    return _delegated(here, form, app, person, requested, grant)


def _first_scopes(grant: tokens.Grant) -> permissions.RequestedScopes:
    """Return the scopes of the sign-in for its first resource. A refresh without a scope is for that resource."""
    names = [name for name in grant.scopes if name != "/.default"]
    first = next((permissions.resource_of(name) for name in names if name not in permissions.OIDC_SCOPES), "")
    address = permissions.RESOURCES[first or permissions.GRAPH_KEY].addresses[0]
    own = [name for name in names if name in permissions.OIDC_SCOPES]
    own += [f"{address}/{permissions.short(name)}" for name in names if permissions.resource_of(name) == first]
    if "/.default" in grant.scopes:
        own = [*(name for name in own if name in permissions.OIDC_SCOPES), f"{address}/.default"]
    return permissions.parse(" ".join(own), "")


def _check_age(here: World, app: App, person: Person, grant: tokens.Grant) -> None:
    now = here.now()
    if app.platform == "spa" and now - grant.authenticated_at > SPA_REFRESH_TOKEN:
        raise errors.refusal(700084, issued=errors.precise(grant.authenticated_at))
    if now - grant.issued_at > REFRESH_TOKEN_IDLE:
        raise errors.refusal(700082, issued=errors.precise(grant.issued_at))
    if grant.authenticated_at < person.tokens_valid_from:
        issued, valid_from = errors.precise(grant.authenticated_at), errors.precise(person.tokens_valid_from)
        raise errors.refusal(50173, issued=issued, valid_from=valid_from)
    limit = person.sign_in_frequency_s
    if limit and now - grant.authenticated_at > limit:
        raise errors.refusal(70043, issued=errors.precise(grant.authenticated_at), lifetime=limit)


def _check_person(here: World, app: App, person: Person, *, mfa_done: bool = True) -> None:
    if person.tenant in app.disabled_in:
        raise errors.refusal(7000112, client_id=app.client_id, app_name=app.name)
    if person.deleted:
        raise errors.refusal(50034, tenant=person.tenant)
    if person.disabled:
        raise errors.refusal(50057)
    if person.password_expired:
        raise errors.refusal(50055)
    if app.assignment_required and person.id not in app.app_roles:
        raise errors.refusal(50105, app_name=app.name, client_id=app.client_id)
    if person.ca_blocked:
        problem = errors.refusal(53003)
        # Microsoft sends a string that contains JSON, not an object.
        policies = {"essential": True, "values": ["01234567-89ab-cdef-fedc-ba9876543210"]}
        problem.extra["claims"] = json.dumps({"access_token": {"capolids": policies}}, separators=(",", ":"))
        raise problem
    if person.mfa_required and not mfa_done:
        raise errors.refusal(50076)


def _delegated(
    here: World,
    form: Mapping[str, str],
    app: App,
    person: Person,
    requested_scopes: permissions.RequestedScopes,
    grant: tokens.Grant,
    *,
    code: Code | None = None,
) -> dict[str, Any]:
    if requested_scopes.several:
        raise errors.refusal(700022)
    if requested_scopes.unknown_resources:
        name = here.directories[person.tenant].name
        raise errors.refusal(500011, resource=requested_scopes.unknown_resources[0], tenant_name=name)
    if requested_scopes.unknown:
        raise errors.refusal(70011, scope=requested_scopes.unknown[0])
    if requested_scopes.default and requested_scopes.permissions:
        named = permissions.short(requested_scopes.permissions[0])
        raise errors.refusal(70011, scope=f"{requested_scopes.prefix}.default {named}")
    (resource,) = requested_scopes.resources
    held = _held(here, app, person, requested_scopes, resource)
    seconds = tokens.lifetime(here)
    own = ["openid", "profile", "email"] if resource == permissions.GRAPH_KEY else []
    scopes = [*own, *(requested_scopes.prefix + name for name in held)]
    answer: dict[str, Any] = {
        "token_type": "Bearer",
        "scope": " ".join(scopes),
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": tokens.access_token_for_person(
            here, app, person, [*held, *own], seconds, audience=requested_scopes.audience
        ),
    }
    if "offline_access" in requested_scopes.oidc or "offline_access" in grant.scopes:
        answer["refresh_token"] = tokens.seal(here, grant)
    if "openid" in requested_scopes.oidc:
        nonce = code.nonce if code else ""
        authenticated_at = code.authenticated_at if code and code.tells_auth_time else None
        answer["id_token"] = tokens.id_token(here, app, person, nonce, authenticated_at)
    if form.get("client_info") == "1":
        answer["client_info"] = tokens.client_info(person)
    return answer


def _held(here: World, app: App, person: Person, requested: permissions.RequestedScopes, resource: str) -> list[str]:
    """Return the permissions in a token for the resource, as short names. Raises EntraError (65001) without consent.

    The token of a work account contains all permissions with consent, not only the requested ones. The token of a
    personal account contains only the requested ones.
    """
    had = consents.granted(here, app, person)
    wanted = {name for name in requested.permissions if permissions.resource_of(name) == resource}
    of_resource = [
        name
        for name in permissions.CATALOGUE
        if name in (had or ()) and name not in permissions.OIDC_SCOPES and permissions.resource_of(name) == resource
    ]
    if had is None or not wanted <= had or (resource != permissions.GRAPH_KEY and not of_resource):
        raise errors.refusal(65001, client_id=app.client_id, app_name=app.name)
    if person.tenant == CONSUMERS and wanted:
        of_resource = [name for name in of_resource if name in wanted]
    return [permissions.short(name) for name in of_resource]
