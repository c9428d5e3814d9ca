"""OpenID metadata, signing keys, sign-out, and the sandbox's few plain pages."""

import json
from pathlib import Path
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render

from portal.sandbox import authorize, clients, errors, fault_injection, signin, tokens
from portal.sandbox.state import world

STATIC = Path(__file__).parent / "static"
TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def _json(content: dict[str, Any], status: int = 200) -> HttpResponse:
    response = HttpResponse(json.dumps(content), status=status, content_type="application/json; charset=utf-8")
    response["Access-Control-Allow-Origin"] = "*"
    return response


def _unknown(problem: errors.EntraError) -> HttpResponse:
    return _json(errors.body(problem, errors.Trace.of(), world().now(), world().public_url), problem.status)


@fault_injection.exposed("login")
def openid_configuration(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET /{tenant}/v2.0/.well-known/openid-configuration (identity-platform/v2-protocols-oidc)."""
    here = world()
    try:
        where = clients.directory(here, tenant)
    except errors.EntraError as problem:
        return _unknown(problem)
    authority = f"{here.public_url}/{where.id if where else tenant.lower()}"
    # Without a directory, the issuer is a template. Clients insert the token's tid into it.
    issuer = f"{here.public_url}/{where.id if where else '{tenantid}'}/v2.0"
    return _json(
        {
            "token_endpoint": f"{authority}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "jwks_uri": f"{authority}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": issuer,
            "request_uri_parameter_supported": False,
            "userinfo_endpoint": f"{here.public_url}/oidc/userinfo",
            "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
            "http_logout_supported": True,
            "frontchannel_logout_supported": True,
            "end_session_endpoint": f"{authority}/oauth2/v2.0/logout",
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid"],
            "tenant_region_scope": None if where is None else "EU",
            "cloud_instance_name": "sandbox",
            "cloud_graph_host_name": here.public_url.partition("://")[2],
            "msgraph_host": here.public_url.partition("://")[2],
        }
    )


@fault_injection.exposed("login")
def keys(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET /{tenant}/discovery/v2.0/keys."""
    try:
        clients.directory(world(), tenant)
    except errors.EntraError as problem:
        return _unknown(problem)
    return _json(tokens.jwks(world()))


@fault_injection.exposed("login")
def logout(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET or POST /{tenant}/oauth2/v2.0/logout: end the browser's sessions, but keep refresh tokens."""
    back = request.GET.get("post_logout_redirect_uri", "")
    registered = any(back in app.redirect_uris for app in world().apps.values())
    response: HttpResponse
    if back and registered:
        state = request.GET.get("state", "")
        response = authorize.HttpResponseFound(f"{back}?state={state}" if state else back)
    else:
        response = render(request, "sandbox/signed_out.html")
    signin.forget(response)
    return response


def index(request: HttpRequest) -> HttpResponse:
    here = world()
    directories = [
        (directory, [person for person in here.people.values() if person.tenant == directory.id and not person.deleted])
        for directory in here.directories.values()
    ]
    return render(request, "sandbox/index.html", {"world": here, "directories": directories})


def error_lookup(request: HttpRequest) -> HttpResponse:
    """GET /error?code=…: explain an AADSTS number."""
    code = request.GET.get("code", "")
    if not code.isdigit() or int(code) not in errors.MEANINGS:
        raise Http404
    return render(request, "sandbox/error_lookup.html", {"code": code, "meaning": errors.MEANINGS[int(code)]})


def static(request: HttpRequest, name: str) -> HttpResponse:
    """Return the sandbox's own stylesheet or script."""
    path = STATIC / name
    kind = TYPES.get(path.suffix.lstrip("."))
    if kind is None or path.parent != STATIC or not path.is_file():
        raise Http404
    return HttpResponse(path.read_bytes(), content_type=kind)


def favicon(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/_static/sandbox.svg")
