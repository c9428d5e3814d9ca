"""The control API: everything a test or a demonstration may do to the sandbox's world, one verb per function.

``POST /_control/api/<verb>`` with a JSON object. The functions below are the documentation as well: their arguments
are the fields, their docstrings the text of ``/_control/api/``.
"""

import base64
import hashlib
import inspect
import json
import secrets
import time
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from portal.sandbox import calls, consents, permissions, seed, tokens, weather
from portal.sandbox.adminconsent import LIES
from portal.sandbox.state import (
    AUDIENCES,
    EVERYBODY,
    MULTI_TENANT,
    SINGLE_TENANT,
    App,
    Certificate,
    Directory,
    Person,
    Secret,
    SharedMailbox,
    World,
    world,
)

Verb = Callable[..., dict[str, Any]]
VERBS: dict[str, Verb] = {}
PLATFORMS = ("web", "spa", "public")
YEAR = 365 * 86400.0


class Refused(Exception):
    """The call cannot be done; the text says why."""


def verb(function: Verb) -> Verb:
    """Make a function a verb of the control API; a final underscore only keeps it apart from a module."""
    VERBS[function.__name__.rstrip("_")] = function
    return function


# -- looking up -----------------------------------------------------------------------------------


def _person(name: str) -> Person:
    """A person by user name; one with that name in any directory, deleted ones included."""
    for person in world().people.values():
        if name.lower() in (person.upn.lower(), person.id):
            return person
    raise Refused(f"There is no person called {name!r}.")


def _app(client_id: str) -> App:
    app = world().apps.get(client_id.lower())
    if app is None:
        raise Refused(f"There is no app with client id {client_id!r}.")
    return app


def _tenant(name: str) -> Directory:
    directory = world().directory(name)
    if directory is None:
        raise Refused(f"There is no directory called {name!r}.")
    return directory


def _permission_names(names: list[str]) -> list[str]:
    try:
        return [permissions.canonical(name) for name in names]
    except ValueError as problem:
        raise Refused(str(problem)) from None


def _one_of(value: str, allowed: typing.Iterable[str], field: str) -> None:
    if value not in allowed:
        raise Refused(f"{field} must be one of {', '.join(allowed)}, not {value!r}.")


# -- the whole world ------------------------------------------------------------------------------


@verb
def reset() -> dict[str, Any]:
    """Back to the beginning: people, apps, consents, mailboxes, clock, weather and call log. The keys stay."""
    here = world()
    with here.change():
        seed.plant(here)
    weather.sky.set(weather.Front("normal"))
    calls.log.clear()
    return {}


@verb
def clear_calls() -> dict[str, Any]:
    """Forget the calls counted so far."""
    calls.log.clear()
    return {}


@verb
def clock(offset_s: float) -> dict[str, Any]:
    """Set the sandbox's clock to real time plus ``offset_s`` seconds."""
    here = world()
    with here.change():
        here.clock_offset = offset_s
    return {"now": here.now()}


@verb
def token_lifetime(seconds: int) -> dict[str, Any]:
    """Let access tokens live exactly ``seconds``; 0 means random, between 60 and 90 minutes."""
    if seconds < 0:
        raise Refused("seconds must not be negative.")
    here = world()
    with here.change():
        here.token_lifetime = seconds
    return {}


@verb
def rotate_keys() -> dict[str, Any]:
    """Make new keys: no token issued before is known any more, and the key set has another key."""
    here = world()
    with here.change():
        here.make_keys()
    return {"kid": here.kid}


@verb
def weather_(
    kind: str,
    where: str = "everything",
    seconds: float = 0,
    retry_after: str = "5",
    delay_ms: int = 0,
    times: int = 0,
    client_id: str = "",
) -> dict[str, Any]:
    """Let Microsoft have a bad day over ``where`` (token, graph, batch, login, everything).

    It lasts ``seconds`` or ``times`` answers, or until ``normal`` is set. ``retry_after`` is a number, a decimal
    number, ``date`` or ``missing``; ``client_id`` limits it to token requests of one app.
    """
    _one_of(kind, weather.KINDS, "kind")
    _one_of(where, weather.PLACES, "where")
    if where == "batch" and kind not in ("throttle", "normal"):
        raise Refused("The parts of a batch can only be throttled.")
    if not weather.valid_retry_after(retry_after):
        raise Refused("retry_after must be a number of seconds, 'date' or 'missing'.")
    if seconds < 0 or delay_ms < 0 or times < 0:
        raise Refused("seconds, delay_ms and times must not be negative.")
    until = time.monotonic() + seconds if seconds else 0.0
    weather.sky.set(weather.Front(kind, where, retry_after, delay_ms, times, until, client_id))
    return {"weather": weather.sky.report()}


@verb
def consent_lie(kind: str) -> dict[str, Any]:
    """Let the admin consent callback lie: none, nothing, later, wrong_tenant."""
    _one_of(kind, LIES, "kind")
    here = world()
    with here.change():
        here.consent_lie = kind
    return {}


@verb
def set_directory(tenant: str, user_consent: bool) -> dict[str, Any]:
    """May people of a directory consent for themselves?"""
    directory = _tenant(tenant)
    with world().change():
        directory.user_consent = user_consent
    return {}


# -- people ---------------------------------------------------------------------------------------


@verb
def add_person(
    upn: str, name: str, tenant: str = "", password: str = "", admin: bool = False, licensed: bool = True
) -> dict[str, Any]:
    """Add a person; without ``tenant`` the domain of the user name decides. Gives id and password."""
    here = world()
    directory = _tenant(tenant or upn.partition("@")[2])
    if here.person_called(upn, directory.id) is not None:
        raise Refused(f"There is a person called {upn!r} already.")
    password = password or f"sandbox-{name.split()[0].lower()}"
    person = Person(
        id=str(uuid.uuid4()),
        tenant=directory.id,
        upn=upn,
        mail=upn,
        name=name,
        password=password,
        admin=admin,
        licensed=licensed,
    )
    with here.change():
        here.people[person.id] = person
    return {"id": person.id, "upn": upn, "password": password, "tenant": directory.id}


@verb
def set_person(
    upn: str,
    disabled: bool | None = None,
    deleted: bool | None = None,
    mfa_required: bool | None = None,
    password_expired: bool | None = None,
    ca_blocked: bool | None = None,
    sign_in_frequency_s: int | None = None,
    admin: bool | None = None,
    licensed: bool | None = None,
    password: str | None = None,
    new_upn: str | None = None,
) -> dict[str, Any]:
    """Change what is given about a person; ``sign_in_frequency_s`` 0 means no such policy."""
    person = _person(upn)
    given = {
        "disabled": disabled,
        "deleted": deleted,
        "mfa_required": mfa_required,
        "password_expired": password_expired,
        "ca_blocked": ca_blocked,
        "sign_in_frequency_s": sign_in_frequency_s,
        "admin": admin,
        "licensed": licensed,
        "password": password,
        "upn": new_upn,
        "mail": new_upn,
    }
    with world().change():
        for name, value in given.items():
            if value is not None:
                setattr(person, name, value)
    return {}


@verb
def revoke_sessions(upn: str) -> dict[str, Any]:
    """End all sessions and refresh tokens of a person, as an admin's revokeSignInSessions does."""
    person = _person(upn)
    here = world()
    with here.change():
        person.tokens_valid_from = here.now()
    return {"tokens_valid_from": person.tokens_valid_from}


# -- apps -----------------------------------------------------------------------------------------


@verb
def add_app(
    name: str,
    tenant: str = seed.CONTOSO,
    audience: str = SINGLE_TENANT,
    platform: str = "web",
    redirect_uris: list[str] | None = None,
    delegated: list[str] | None = None,
    application: list[str] | None = None,
    assignment_required: bool = False,
) -> dict[str, Any]:
    """Register an app with one secret (none for a public client). Gives client_id, object_id, secret and secret_id."""
    _one_of(audience, AUDIENCES, "audience")
    _one_of(platform, PLATFORMS, "platform")
    here = world()
    app = App(
        client_id=str(uuid.uuid4()),
        object_id=str(uuid.uuid4()),
        tenant=_tenant(tenant).id,
        name=name,
        audience=audience,
        platform=platform,
        redirect_uris=redirect_uris or [],
        delegated=_permission_names(delegated or []),
        application=_permission_names(application or []),
        assignment_required=assignment_required,
    )
    secret = None if platform == "public" else _new_secret("First secret", here.now() + 2 * YEAR)
    app.secrets = [secret] if secret else []
    with here.change():
        here.apps[app.client_id] = app
        consents.install(here, app, app.tenant)
    return {
        "client_id": app.client_id,
        "object_id": app.object_id,
        "tenant": app.tenant,
        "secret": secret.value if secret else "",
        "secret_id": secret.id if secret else "",
    }


@verb
def set_app(
    client_id: str,
    disabled: bool | None = None,
    deleted: bool | None = None,
    name: str | None = None,
    audience: str | None = None,
    platform: str | None = None,
    redirect_uris: list[str] | None = None,
    delegated: list[str] | None = None,
    application: list[str] | None = None,
    mailboxes: list[str] | None = None,
    all_mailboxes: bool = False,
    assignment_required: bool | None = None,
) -> dict[str, Any]:
    """Change what is given about an app.

    ``mailboxes`` limits app-only access to these addresses; ``all_mailboxes`` true takes the limit away.
    """
    app = _app(client_id)
    if audience is not None:
        _one_of(audience, AUDIENCES, "audience")
    if platform is not None:
        _one_of(platform, PLATFORMS, "platform")
    given = {
        "disabled": disabled,
        "deleted": deleted,
        "name": name,
        "audience": audience,
        "platform": platform,
        "redirect_uris": redirect_uris,
        "delegated": None if delegated is None else _permission_names(delegated),
        "application": None if application is None else _permission_names(application),
        "mailboxes": None if mailboxes is None else [one.lower() for one in mailboxes],
        "assignment_required": assignment_required,
    }
    with world().change():
        for field, value in given.items():
            if value is not None:
                setattr(app, field, value)
        if all_mailboxes:
            app.mailboxes = None
    return {}


def _new_secret(name: str, expires_at: float) -> Secret:
    value = f"sbx8Q~{secrets.token_urlsafe(26)}.~"
    return Secret(str(uuid.uuid4()), value, name, world().now(), expires_at)


@verb
def add_secret(client_id: str, expires_at: float = 0, name: str = "New secret") -> dict[str, Any]:
    """Add a secret to an app; ``expires_at`` in seconds since 1970, 0 for two years from now. Gives id and value."""
    app = _app(client_id)
    secret = _new_secret(name, expires_at or world().now() + 2 * YEAR)
    with world().change():
        app.secrets.append(secret)
    return {"id": secret.id, "value": secret.value, "expires_at": secret.expires_at}


def _secret(app: App, id: str) -> Secret:
    for secret in app.secrets:
        if secret.id == id:
            return secret
    raise Refused(f"The app has no secret with id {id!r}.")


@verb
def expire_secret(client_id: str, id: str) -> dict[str, Any]:
    """Let a secret have expired a second ago."""
    secret = _secret(_app(client_id), id)
    with world().change():
        secret.expires_at = world().now() - 1
    return {}


@verb
def remove_secret(client_id: str, id: str) -> dict[str, Any]:
    """Take a secret away from an app."""
    app = _app(client_id)
    secret = _secret(app, id)
    with world().change():
        app.secrets.remove(secret)
    return {}


@verb
def add_certificate(client_id: str, pem: str, name: str = "") -> dict[str, Any]:
    """Add a certificate (PEM, without the key) to an app. Gives id and thumbprints."""
    app = _app(client_id)
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise Refused("pem is not a certificate in PEM form.") from None
    held = Certificate(
        id=str(uuid.uuid4()),
        pem=pem,
        name=name or certificate.subject.rfc4514_string(),
        sha1=certificate.fingerprint(hashes.SHA1()).hex(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        starts_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )
    with world().change():
        app.certificates.append(held)
    x5t = base64.urlsafe_b64encode(bytes.fromhex(held.sha256)).decode().rstrip("=")
    return {"id": held.id, "sha1": held.sha1, "sha256": held.sha256, "x5t#S256": x5t}


@verb
def remove_certificate(client_id: str, id: str) -> dict[str, Any]:
    """Take a certificate away from an app."""
    app = _app(client_id)
    kept = [one for one in app.certificates if one.id != id]
    if len(kept) == len(app.certificates):
        raise Refused(f"The app has no certificate with id {id!r}.")
    with world().change():
        app.certificates = kept
    return {}


@verb
def assign(client_id: str, upn: str, roles: list[str], groups: list[str] | None = None) -> dict[str, Any]:
    """Assign a person to an app with these app roles (and group ids for the ID token); no roles and groups: unassign."""
    app, person = _app(client_id), _person(upn)
    with world().change():
        app.app_roles.pop(person.id, None)
        app.groups.pop(person.id, None)
        if roles:
            app.app_roles[person.id] = roles
        if groups:
            app.groups[person.id] = groups
    return {}


# -- consent --------------------------------------------------------------------------------------


@verb
def grant_consent(
    client_id: str,
    tenant: str = seed.CONTOSO,
    scopes: list[str] | None = None,
    roles: list[str] | None = None,
    upn: str = "",
    delay_s: float = 0,
) -> dict[str, Any]:
    """Consent to delegated ``scopes`` (for one person, or for everybody without ``upn``) and application ``roles``."""
    app, directory, here = _app(client_id), _tenant(tenant), world()
    person = _person(upn).id if upn else EVERYBODY
    with here.change():
        if scopes:
            consents.grant(here, app, directory.id, person, _permission_names(scopes), delay=delay_s)
        if roles:
            consents.grant_roles(here, app, directory.id, _permission_names(roles), delay=delay_s)
    return {}


@verb
def withdraw_consent(client_id: str, tenant: str = seed.CONTOSO, upn: str = "") -> dict[str, Any]:
    """Take consent back: one person's own, or without ``upn`` everybody's and the application permissions."""
    app, directory, here = _app(client_id), _tenant(tenant), world()
    with here.change():
        consents.withdraw(here, app, directory.id, _person(upn).id if upn else "")
    return {}


# -- mailboxes ------------------------------------------------------------------------------------


@verb
def set_mailbox(
    address: str,
    members: list[str] | None = None,
    app_scope: list[str] | None = None,
    all_apps: bool = False,
    name: str | None = None,
    deleted: bool = False,
) -> dict[str, Any]:
    """Change a shared mailbox, or make it: members (user names), and which client ids may reach it without a person.

    ``all_apps`` true lets every app with the role reach it again; ``deleted`` true removes it.
    """
    here, address = world(), address.lower()
    for one in members or []:
        _person(one)
    with here.change():
        if address not in here.mailboxes:
            directory = _tenant(address.partition("@")[2])
            label = name or address.partition("@")[0].title()
            here.mailboxes[address] = SharedMailbox(str(uuid.uuid4()), directory.id, address, label)
        mailbox = here.mailboxes[address]
        mailbox.name = mailbox.name if name is None else name
        mailbox.members = mailbox.members if members is None else members
        mailbox.app_scope = None if all_apps else mailbox.app_scope if app_scope is None else app_scope
        if deleted:
            del here.mailboxes[address]
    return {}


# -- tokens ---------------------------------------------------------------------------------------


@verb
def issue_grant(
    client_id: str, upn: str, scopes: list[str], count: int = 1, age_s: float = 0, mfa: bool = False
) -> dict[str, Any]:
    """Consent for one person and give ``count`` refresh tokens, each of a grant of its own, without any browser.

    ``age_s`` dates the sign-in back by so many seconds. Gives refresh_tokens, fingerprints, tenant and oid.
    """
    app, person, here = _app(client_id), _person(upn), world()
    if not 0 < count <= 100_000:
        raise Refused("count must be between 1 and 100000.")
    names = list(dict.fromkeys(["openid", "profile", "email", "offline_access", *_permission_names(scopes)]))
    with here.change():
        consents.grant(here, app, person.tenant, person.id, names)
    then = here.now() - age_s
    found, prints = [], []
    for _ in range(count):
        grant = tokens.Grant(tokens.new_grant_id(), app.client_id, person.id, person.tenant, names, then, then, mfa)
        found.append(tokens.seal(here, grant))
        prints.append(calls.fingerprint(grant.id))
    return {"refresh_tokens": found, "fingerprints": prints, "tenant": person.tenant, "oid": person.id}


@verb
def describe_token(refresh_token: str) -> dict[str, Any]:
    """Whose refresh token is this, and under which fingerprint are its calls counted?"""
    here = world()
    grant = tokens.unseal(here, refresh_token)
    if grant is None:
        raise Refused("This sandbox never issued that refresh token.")
    return {
        "fingerprint": calls.fingerprint(grant.id),
        "client_id": grant.client_id,
        "oid": grant.person,
        "upn": here.people[grant.person].upn if grant.person in here.people else "",
        "tenant": grant.tenant,
        "scopes": grant.scopes,
        "authenticated_at": grant.authenticated_at,
        "issued_at": grant.issued_at,
        "sha256": hashlib.sha256(refresh_token.encode()).hexdigest(),
    }


# -- the doorway ----------------------------------------------------------------------------------


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is Any:
        return True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return isinstance(value, list) and all(_fits(one, typing.get_args(annotation)[0]) for one in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if annotation is type(None) else isinstance(value, annotation)


def _name_of(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


def run(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Run a verb after checking its fields; raises Refused with a sentence."""
    function = VERBS.get(name)
    if function is None:
        raise Refused(f"There is no verb {name!r}. Known verbs: {', '.join(sorted(VERBS))}.")
    parameters = inspect.signature(function).parameters
    for field, value in fields.items():
        if field not in parameters:
            known = ", ".join(parameters) or "none"
            raise Refused(f"{name} has no field {field!r}. Its fields: {known}.")
        if not _fits(value, parameters[field].annotation):
            raise Refused(f"{field} must be {_name_of(parameters[field].annotation)}.")
    for field, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and field not in fields:
            raise Refused(f"{name} needs the field {field!r}.")
    return function(**fields)


def call(request: HttpRequest, name: str) -> HttpResponse:
    """POST /_control/api/<verb>.

    A JSON body is required, so that no web page of another origin can send one without the browser asking first.
    """
    if request.method != "POST":
        return JsonResponse({"problem": "Verbs are called with POST and a JSON object."}, status=405)
    if request.content_type != "application/json":
        return JsonResponse({"problem": "Content-Type must be application/json."}, status=415)
    try:
        fields = json.loads(request.body or b"{}")
    except ValueError:
        return JsonResponse({"problem": "The body is not JSON."}, status=400)
    if not isinstance(fields, dict):
        return JsonResponse({"problem": "The body must be a JSON object."}, status=400)
    try:
        return JsonResponse(run(name, fields))
    except Refused as problem:
        return JsonResponse({"problem": str(problem)}, status=400)


def state(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/state: the whole world, secrets of apps and passwords of people included."""
    here: World = world()
    with here.lock:
        content = here.as_json()
    content |= {"now": here.now(), "public_url": here.public_url, "weather": weather.sky.report()}
    return JsonResponse(content)


def call_log(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/calls?after=NUMBER&limit=COUNT: counters, and the newest calls."""
    try:
        after, limit = int(request.GET.get("after", "0")), int(request.GET.get("limit", "200"))
    except ValueError:
        return JsonResponse({"problem": "after and limit must be whole numbers."}, status=400)
    return JsonResponse(calls.log.snapshot(after, limit))


def documentation(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/: this API, written from the functions themselves."""
    verbs = []
    for name, function in sorted(VERBS.items()):
        fields = [
            {
                "name": field,
                "type": _name_of(parameter.annotation),
                "needed": parameter.default is inspect.Parameter.empty,
                "default": json.dumps(parameter.default) if parameter.default is not inspect.Parameter.empty else "",
            }
            for field, parameter in inspect.signature(function).parameters.items()
        ]
        verbs.append({"name": name, "text": inspect.getdoc(function), "fields": fields})
    context = {"verbs": verbs, "kinds": weather.KINDS, "lies": LIES, "audiences": [SINGLE_TENANT, MULTI_TENANT]}
    return render(request, "sandbox/api.html", context)
