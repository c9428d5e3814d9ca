"""The admin consent endpoints, in the v1 and the v2 style.

Microsoft: identity-platform/v2-admin-consent and v2-oauth2-client-creds-grant-flow. The styles differ in their
responses, and the v2 style sends ``admin_consent=True`` even with errors.
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_protect

from portal.sandbox import authorize, clients, consents, errors, fault_injection, permissions, signin
from portal.sandbox.state import EVERYBODY, App, Directory, Person, World, world

LIES = {
    "none": "the callback is correct",
    "nothing": "the callback claims success, but nothing is granted",
    "partial": "the callback claims success, but the last permission of each kind isn't granted",
    "later": "the callback claims success, and the grant takes effect 60 seconds later",
    "wrong_tenant": "the callback contains a different directory",
}
PROPAGATION_DELAY = 60.0


@dataclass
class Request:
    """An admin consent request with a validated client and redirect URI."""

    app: App
    where: Directory | None
    authority: str
    redirect_uri: str
    state: str
    scope: str | None  # None for the v1 style, which has no scope


@fault_injection.exposed("login")
def v1(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET and POST /{tenant}/adminconsent: grant everything that the app registration declares."""
    return _page(request, tenant, None)


@fault_injection.exposed("login")
def v2(request: HttpRequest, tenant: str) -> HttpResponse:
    """GET and POST /{tenant}/v2.0/adminconsent: grant the permissions in ``scope``, or everything for .default."""
    return _page(request, tenant, request.GET.get("scope", ""))


@csrf_protect
def _page(request: HttpRequest, tenant: str, scope: str | None) -> HttpResponse:
    here = world()
    trace = errors.Trace.of()
    try:
        consent = _read(here, request, tenant, scope)
    except errors.EntraError as problem:
        return authorize.error_page(request, here, problem, trace)
    try:
        return _go_on(here, request, consent)
    except signin.NeedsPage as needed:
        return needed.response
    except errors.EntraError as problem:
        if problem.code in (50057, 50055, 53003, 50020):
            return authorize.error_page(request, here, problem, trace)
        description = errors.description(problem, trace, here.now())
        return _back(consent, {"error": problem.error, "error_description": description}, failed=True)


def _read(here: World, request: HttpRequest, authority: str, scope: str | None) -> Request:
    if scope is not None and authority.lower() == "common":
        # The v2 style requires a directory or "organizations". Microsoft does not document the error code.
        raise errors.refusal(90023)
    where = clients.directory(here, authority)
    client_id = request.GET.get("client_id", "")
    if not client_id:
        raise errors.refusal(900144, parameter="client_id")
    app = here.app(client_id)
    if app is None:
        raise errors.refusal(700016, client_id=client_id, tenant_name=where.name if where else "Microsoft Services")
    if where is not None:
        clients.app_in(here, client_id, where)
    uri = authorize.registered_uri(app, request.GET.get("redirect_uri", ""))
    return Request(app, where, authority, uri, authorize.strip_html(request.GET.get("state", "")), scope)


def _wanted(here: World, request: Request) -> tuple[list[str], list[str]]:
    """Return the delegated scopes and application roles to grant. Raises EntraError if a scope is invalid."""
    if request.scope is None:
        return list(request.app.delegated), list(request.app.application)
    if not request.scope.strip():
        raise errors.refusal(900144, parameter="scope")
    scopes = permissions.parse(request.scope, here.public_url)
    if scopes.unknown_resources:
        name = request.where.name if request.where else "Microsoft Services"
        raise errors.refusal(500011, resource=scopes.unknown_resources[0], tenant_name=name)
    if scopes.unknown:
        raise errors.refusal(650053, app_name=request.app.name, scope=scopes.unknown[0])
    if scopes.default:
        return list(request.app.delegated), list(request.app.application)
    # Application permissions can only be requested with .default (identity-platform/v2-admin-consent).
    return scopes.names, []


def _go_on(here: World, request: HttpRequest, consent: Request) -> HttpResponse:
    scopes, roles = _wanted(here, consent)
    if request.method == "POST" and request.POST.get("step") == "cancel":
        return _cancelled(here, consent)
    wanted = signin.Wanted(
        consent.app,
        consent.where,
        consent.authority.lower(),
        _prompt(request, here),
        title="Sign in as an administrator",
    )
    person, flow = signin.person_for(request, here, wanted)
    if consent.app.audience == "AzureADMyOrg" and person.tenant != consent.app.tenant:
        name = here.directories[person.tenant].name
        raise errors.refusal(700016, client_id=consent.app.client_id, tenant_name=name)
    if not person.admin:
        raise errors.refusal(90094)
    if request.method == "POST" and request.POST.get("step") == "consent":
        response = _accepted(here, consent, person, scopes, roles)
    else:
        response = render(
            request,
            "sandbox/admin_consent.html",
            {
                "app": consent.app,
                "person": person,
                "flow": signin.seal(here, flow),
                "scopes": [permissions.CATALOGUE[name] for name in scopes],
                "roles": [permissions.CATALOGUE[name] for name in roles],
                "publisher": here.directories[consent.app.tenant],
                "directory": here.directories[person.tenant],
            },
        )
    signin.remember(request, response, here, flow)
    return response


def _prompt(request: HttpRequest, here: World) -> str:
    """Return the prompt: the account page is shown unless all accounts that are signed in here are admins."""
    signed_in = signin.accounts(request, here)
    return "" if all(here.people[session.person].admin for session in signed_in) else "select_account"


def _accepted(here: World, request: Request, person: Person, scopes: list[str], roles: list[str]) -> HttpResponse:
    if here.consent_lie != "nothing":
        delay = PROPAGATION_DELAY if here.consent_lie == "later" else 0.0
        end = -1 if here.consent_lie == "partial" else None
        with here.change():
            consents.grant(here, request.app, person.tenant, EVERYBODY, scopes[:end], delay=delay)
            consents.grant_roles(here, request.app, person.tenant, roles[:end], delay=delay)
    tenant = person.tenant
    if here.consent_lie == "wrong_tenant":
        tenant = next(directory for directory in here.directories if directory != person.tenant)
    answer = {"admin_consent": "True", "tenant": tenant}
    if request.scope is not None:
        written = permissions.parse(request.scope, here.public_url).addresses
        named = [name if name in permissions.OIDC_SCOPES else _as_written(name, written) for name in scopes]
        answer["scope"] = " ".join(named)
    return _back(request, answer)


def _as_written(name: str, written: dict[str, str]) -> str:
    """Return a permission with its resource's address, as the request wrote it."""
    resource = permissions.resource_of(name)
    address = written.get(resource, permissions.RESOURCES[resource].addresses[0])
    return f"{address}/{permissions.short(name)}"


def _cancelled(here: World, request: Request) -> HttpResponse:
    if request.scope is None:
        return _back(request, {"error": "permission_denied", "error_description": "The admin canceled the request"})
    text = "AADSTS65004: The resource owner or authorization server denied the request."
    trace = errors.Trace.of()
    ids = f" Trace ID: {trace.trace_id} Correlation ID: {trace.correlation_id} Timestamp: {errors.stamp(here.now())}"
    return _back(request, {"error": "consent_required", "error_description": text + ids}, failed=True)


def _back(request: Request, answer: dict[str, str], *, failed: bool = False) -> HttpResponse:
    if failed and request.scope is not None:
        answer = {"admin_consent": "True", **answer}
    if request.state:
        answer["state"] = request.state
    mark = "&" if "?" in request.redirect_uri else "?"
    return authorize.HttpResponseFound(request.redirect_uri + mark + urlencode(answer))
