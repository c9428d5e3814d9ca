"""The authorize endpoint: sign-in, consent, and the redirect back with a code or an error.

Microsoft: identity-platform/v2-oauth2-auth-code-flow, v2-protocols-oidc and reply-url.
"""

import json
import re
import secrets
import uuid
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.csrf import csrf_protect

from portal.sandbox import clients, consents, errors, fault_injection, permissions, signin, tokens
from portal.sandbox.state import EVERYBODY, App, Code, Directory, Person, World, world
from portal.sandbox.token import CODE_LIFETIME

PROMPTS = ("", "login", "none", "consent", "select_account")
RESPONSE_MODES = ("", "query", "fragment", "form_post")


class HttpResponseFound(HttpResponseRedirect):
    """A redirect to any http or https address that an app has registered."""

    allowed_schemes = ["http", "https"]


@dataclass
class Request:
    """An authorize request with a validated client and redirect URI."""

    app: App
    where: Directory | None
    authority: str
    redirect_uri: str
    state: str
    response_mode: str
    scope: str
    nonce: str
    prompt: str
    login_hint: str
    challenge: str
    challenge_method: str
    max_age: int | None  # accepted seconds since the password was last entered
    asks_auth_time: bool

    @property
    def scopes(self) -> permissions.RequestedScopes:
        return permissions.parse(self.scope, world().public_url)


@fault_injection.exposed("login")
@csrf_protect
def authorize(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET and POST /{tenant}/oauth2/v2.0/authorize. The forms on its pages post to the same URL."""
    here = world()
    trace = errors.Trace.of(request.GET.get("client-request-id", ""))
    try:
        parameters = _read(here, request, tenant)
    except errors.EntraError as problem:
        # Without a trusted redirect URI, the error is shown on Microsoft's page.
        return error_page(request, here, problem, trace)
    try:
        return _go_on(here, request, parameters)
    except signin.NeedsPage as needed:
        return needed.response
    except errors.EntraError as problem:
        if problem.code in (50057, 50055, 53003, 50020) and parameters.prompt != "none":
            return error_page(request, here, problem, trace)
        return send_error(request, here, parameters, problem, trace)


def _read(here: World, request: HttpRequest, authority: str) -> Request:
    """Validate client and redirect URI. Raises EntraError if either is invalid."""
    where = clients.directory(here, authority)
    client_id = request.GET.get("client_id", "")
    if not client_id:
        raise errors.refusal(900144, parameter="client_id")
    app = clients.app_in(here, client_id, where)
    max_age = request.GET.get("max_age", "")
    return Request(
        app=app,
        where=where,
        authority=authority,
        redirect_uri=registered_uri(app, request.GET.get("redirect_uri", "")),
        state=strip_html(request.GET.get("state", "")),
        response_mode=request.GET.get("response_mode", ""),
        scope=request.GET.get("scope", ""),
        nonce=request.GET.get("nonce", ""),
        prompt=request.GET.get("prompt", ""),
        login_hint=request.GET.get("login_hint", ""),
        challenge=request.GET.get("code_challenge", ""),
        challenge_method=request.GET.get("code_challenge_method", "plain"),
        max_age=int(max_age) if max_age.isdecimal() else None,
        asks_auth_time=max_age.isdecimal() or _asks_auth_time(request.GET.get("claims", "")),
    )


def _asks_auth_time(claims: str) -> bool:
    """Whether the claims request asks for auth_time in the ID token (OpenID Connect Core, 5.5)."""
    try:
        return "auth_time" in json.loads(claims)["id_token"]
    except (ValueError, KeyError, TypeError):
        return False


def registered_uri(app: App, uri: str) -> str:
    """Return the redirect URI if it is registered. It must match exactly, except for the port of http://localhost."""
    if uri in app.redirect_uris:
        return uri
    if _without_port(uri) in [_without_port(known) for known in app.redirect_uris] and "//localhost" in uri:
        return uri
    if not uri and app.redirect_uris:
        return app.redirect_uris[0]
    raise errors.refusal(50011, redirect_uri=uri, client_id=app.client_id)


def _without_port(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        if parts.scheme != "http" or parts.hostname != "localhost":
            return uri
    except ValueError:
        return uri
    return urlunsplit(parts._replace(netloc="localhost", path=parts.path or "/"))


def strip_html(text: str) -> str:
    """Return ``state`` without HTML, which Entra strips as well (identity-platform/reply-url)."""
    return re.sub(r"<[^>]*>", "", text)


def _check(here: World, request: HttpRequest, parameters: Request) -> None:
    """Check the parameters whose errors may be redirected to the app."""
    response_type = request.GET.get("response_type", "")
    if not response_type:
        raise errors.refusal(900144, parameter="response_type")
    if response_type != "code":
        raise errors.refusal(700054, response_type=response_type)
    if parameters.response_mode not in RESPONSE_MODES:
        raise errors.refusal(70007, response_mode=parameters.response_mode)
    if parameters.prompt not in PROMPTS:
        raise errors.refusal(90023)
    if not parameters.scope.strip():
        raise errors.refusal(900144, parameter="scope")
    scopes = parameters.scopes
    if scopes.unknown_resources:
        name = parameters.where.name if parameters.where else "Microsoft Services"
        raise errors.refusal(500011, resource=scopes.unknown_resources[0], tenant_name=name)
    if scopes.unknown:
        raise errors.refusal(650053, app_name=parameters.app.name, scope=scopes.unknown[0])
    if scopes.default and scopes.permissions:
        raise errors.refusal(70011, scope=parameters.scope)


def _go_on(here: World, request: HttpRequest, parameters: Request) -> HttpResponse:
    _check(here, request, parameters)
    if request.method == "POST" and request.POST.get("step") == "cancel":
        return _cancelled(request, here, parameters)
    wanted = signin.Wanted(
        parameters.app,
        parameters.where,
        parameters.authority.lower(),
        parameters.prompt,
        parameters.login_hint,
        max_age=parameters.max_age,
    )
    person, flow = signin.person_for(request, here, wanted)
    if request.method == "POST" and request.POST.get("step") == "consent":
        _accept(here, request, parameters, person)
    else:
        page = _consent_page(here, request, parameters, person, flow)
        if page is not None:
            return page
    response = send(request, here, parameters, {"code": _new_code(here, parameters, person, flow)})
    signin.remember(request, response, here, flow)
    return response


def _to_grant(here: World, request: Request, person: Person) -> list[str]:
    """Return the permissions that a consent page for this request grants."""
    scopes = request.scopes
    missing = consents.missing(here, request.app, person, scopes)
    if missing or request.prompt == "consent":
        default = consents.declared(request.app, scopes)
        return list(dict.fromkeys([*scopes.names, *default, *missing]))
    return []


def _consent_page(
    here: World, request: HttpRequest, parameters: Request, person: Person, flow: signin.Flow
) -> HttpResponse | None:
    names = _to_grant(here, parameters, person)
    if not names:
        return None
    if parameters.prompt == "none":
        raise errors.refusal(
            65001, error="consent_required", client_id=parameters.app.client_id, app_name=parameters.app.name
        )
    missing = consents.missing(here, parameters.app, person, parameters.scopes)
    context = {
        "app": parameters.app,
        "person": person,
        "flow": signin.seal(here, flow),
        "permissions": [permissions.CATALOGUE[name] for name in names],
        "publisher": here.directories[parameters.app.tenant],
        "directory": here.directories[person.tenant],
    }
    if missing and not person.admin and consents.needs_admin(here, person, missing):
        return render(request, "sandbox/approval.html", context)
    return render(request, "sandbox/consent.html", context)


def _accept(here: World, request: HttpRequest, parameters: Request, person: Person) -> None:
    names = _to_grant(here, parameters, person)
    missing = consents.missing(here, parameters.app, person, parameters.scopes)
    if missing and not person.admin and consents.needs_admin(here, person, missing):
        raise errors.refusal(90094)
    for_all = person.admin and request.POST.get("everybody") == "on"
    with here.change():
        consents.grant(here, parameters.app, person.tenant, EVERYBODY if for_all else person.id, names)


def _cancelled(request: HttpRequest, here: World, parameters: Request) -> HttpResponse:
    why = request.POST.get("why", "")
    problem = errors.refusal(90094 if why == "approval" else 65004)
    if why == "signin":
        answer = {"error": "access_denied", "error_description": "the user canceled the authentication"}
        return send(request, here, parameters, {**answer, "error_subcode": "cancel"})
    return send_error(request, here, parameters, problem, errors.Trace.of(), subcode="cancel")


def _new_code(here: World, request: Request, person: Person, flow: signin.Flow) -> str:
    value = f"1.A{secrets.token_urlsafe(64)}"
    now = here.now()
    with here.lock:
        for old in [key for key, code in here.codes.items() if code.expires_at < now - 3600]:
            del here.codes[old]
        here.codes[value] = Code(
            client_id=request.app.client_id,
            authority=request.authority,
            person=person.id,
            redirect_uri=request.redirect_uri,
            scope=request.scope,
            nonce=request.nonce,
            challenge=request.challenge,
            challenge_method=request.challenge_method,
            grant=tokens.new_grant_id(),
            authenticated_at=flow.authenticated_at,
            mfa=flow.mfa,
            tells_auth_time=request.asks_auth_time,
            expires_at=now + CODE_LIFETIME,
        )
    return value


def send(request: HttpRequest, here: World, parameters: Request, answer: dict[str, str]) -> HttpResponse:
    """Redirect to the app in the requested response mode."""
    if parameters.state:
        answer["state"] = parameters.state
    if "code" in answer:
        answer["session_state"] = str(uuid.uuid4())
    if parameters.response_mode == "form_post":
        return render(request, "sandbox/form_post.html", {"uri": parameters.redirect_uri, "answer": answer})
    mark = "#" if parameters.response_mode == "fragment" else "&" if "?" in parameters.redirect_uri else "?"
    return HttpResponseFound(parameters.redirect_uri + mark + urlencode(answer))


def send_error(
    request: HttpRequest,
    here: World,
    parameters: Request,
    problem: errors.EntraError,
    trace: errors.Trace,
    *,
    subcode: str = "",
) -> HttpResponse:
    answer = {"error": problem.error, "error_description": errors.description(problem, trace, here.now())}
    if problem.code in errors.MEANINGS:
        answer["error_uri"] = f"{here.public_url}/error?code={problem.code}"
    if subcode:
        answer["error_subcode"] = subcode
    return send(request, here, parameters, answer)


def error_page(request: HttpRequest, here: World, problem: errors.EntraError, trace: errors.Trace) -> HttpResponse:
    """Return the page for errors that never reach the app."""
    request.sandbox_call.outcome = str(problem.code)  # type: ignore[attr-defined]
    context = {"problem": problem, "trace": trace, "timestamp": errors.stamp(here.now())}
    return render(request, "sandbox/error.html", context, status=400)
