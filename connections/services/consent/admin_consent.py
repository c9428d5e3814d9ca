"""Admin consent: asked for by link, answered by a callback that proves nothing, verified by what a token carries."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from connections import audit
from connections.access import permissions, roles
from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable, PortalError, SignInExpired
from connections.microsoft import capabilities, clouds, token_endpoint
from connections.microsoft import consent as microsoft
from connections.microsoft.error_types import Kind
from connections.models import AppRegistration, AuditEvent, ConsentLink, User
from connections.models.audit import AuditAction
from connections.models.tenants import SHARED_ENDPOINTS
from connections.services.consent import request_status
from connections.services.registry import credential_checks

logger = logging.getLogger(__name__)

State = ConsentLink.State
VALID_FOR = timedelta(days=7)  # how long a link can be used
CHECKED_FOR = timedelta(days=2)  # how long a granted consent is looked for in tokens
BATCH = 20


# --- Asking ---------------------------------------------------------------------------------------


def start(
    app_registration: AppRegistration,
    *,
    actor: User,
    scopes: Iterable[str] | None = None,
    directory_id: str = "",
    style: str = microsoft.V2,
) -> tuple[ConsentLink, str]:
    """Open a request and return it with the link an administrator of the directory follows.

    ``directory_id`` names another directory than the tenant's, for a multitenant application. A link that still
    waits for an answer of the same directory is handed out again. Raises NotAllowed, InvalidInput.
    """
    roles.require(permissions.can_manage_registry(actor), action="Ask an IT admin.")
    tenant = app_registration.tenant
    directory = (directory_id or tenant.tid or tenant.directory_id).lower()
    if directory not in (tenant.tid, tenant.directory_id) and app_registration.audience != "multi":
        raise InvalidInput(
            f"{app_registration} is a single-tenant application; other directories cannot consent to it.",
            action="Leave the field empty.",
            field="directory_id",
        )
    _cloud(app_registration)
    asked = " ".join(scopes or ())
    standing_open = ConsentLink.objects.filter(
        app_registration=app_registration, directory_id=directory, scopes=asked, state=State.OPEN
    ).first()
    if standing_open is not None and consent_url(standing_open, now=timezone.now()):
        return standing_open, _url(standing_open, style)
    with transaction.atomic():
        link = ConsentLink.objects.create(
            app_registration=app_registration,
            directory_id=directory,
            state_digest=secrets.token_hex(32),  # until the row has the number its real state is made from
            scopes=asked,
            requested_by=actor,
        )
        link.state_digest = _digest(_state(link))
        link.save(update_fields=["state_digest"])
        # The application is what people look up, so its history tells the story of its consent.
        changes = {"directory_id": directory, "scopes": asked}
        audit.record(AuditAction.CONSENT_REQUESTED, app_registration, actor=actor, changes=changes)
    return link, _url(link, style)


def consent_url(request: ConsentLink, *, now: datetime) -> str:
    """The link of a request that still waits, to be copied once more; "" if it can no longer be used."""
    usable = request.state == State.OPEN and request.requested_at > now - VALID_FOR
    if not usable or not constant_time_compare(_digest(_state(request)), request.state_digest):
        return ""  # the second: SECRET_KEY has changed since, so the state cannot be made again
    try:
        return _url(request, microsoft.V2)
    except InvalidInput:
        return ""


def _url(request: ConsentLink, style: str) -> str:
    app = request.app_registration
    return microsoft.consent_url(
        _cloud(app),
        request.directory_id,
        client_id=app.client_id,
        redirect_uri=f"{settings.PORTAL_URL}/consent/callback/",
        state=_state(request),
        scopes=request.scopes.split(),
        style=style,
    )


def _cloud(app_registration: AppRegistration) -> clouds.Cloud:
    environment = app_registration.tenant.environment
    if environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{environment}” is not configured in this portal.",
            action="An operator must configure it again.",
        )
    return clouds.cloud(environment)


def _state(request: ConsentLink) -> str:
    """One-time and unguessable without SECRET_KEY; made anew when needed, so the database never holds it."""
    facts = f"{request.pk}:{request.app_registration_id}:{request.directory_id}"
    return salted_hmac("connections.consent", facts, algorithm="sha256").hexdigest()


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


# --- The answer -----------------------------------------------------------------------------------


def record_callback(query_string: str, *, actor: User | None, now: datetime) -> ConsentLink:
    """Take in what Microsoft's callback claims, once.

    ``actor`` None: the administrator of the directory is not signed in here. Then nothing is stored, because an
    anonymous GET changes nothing; the returned request carries the claimed state, and tokens will tell the truth.
    A bad day at Microsoft uses the link up as little. Raises SignInLost if the state is unknown, used or too old.
    """
    answer = microsoft.read_callback(query_string)
    request = find_link(answer.state, now=now)
    values = {
        "state": _claimed(answer),
        "code": answer.verdict.code[:60],
        "cause": "" if answer.granted else _cause(answer),
        "action": "" if answer.granted else _action(answer),
        "answered_at": now,
    }
    if actor is not None and answer.verdict.kind not in (Kind.TRANSIENT, Kind.THROTTLED):
        _store(request, values, actor, now)
    for name, value in values.items():
        setattr(request, name, value)
    return request


def find_link(state: str, *, now: datetime) -> ConsentLink:
    """The open request a callback's ``state`` belongs to. Raises SignInLost."""
    link = (
        ConsentLink.objects.filter(state_digest=_digest(state), state=State.OPEN, requested_at__gt=now - VALID_FOR)
        .select_related("app_registration__tenant", "requested_by")
        .first()
    )
    if link is None:
        raise SignInExpired(
            "This answer from Microsoft belongs to no consent link that is still open: the link was already used, "
            "or is older than seven days. Nothing was changed.",
            action="The page of the app registration shows how the consent stands; an IT admin can make a new link there.",
        )
    return link


def _store(request: ConsentLink, values: dict[str, object], actor: User, now: datetime) -> None:
    with transaction.atomic():
        # Conditional: of two browsers that come back with the same link, one is told that it is over.
        if not ConsentLink.objects.filter(pk=request.pk, state=State.OPEN).update(**values):
            raise SignInExpired
        outcome = AuditEvent.Outcome.DONE if values["state"] == State.GRANTED else AuditEvent.Outcome.FAILED
        changes = {"directory_id": request.directory_id, "code": values["code"]}
        audit.record(
            AuditAction(f"consent.{values['state']}"),
            request.app_registration,
            actor=actor,
            outcome=outcome,
            changes=changes,
        )
        for name, value in values.items():
            setattr(request, name, value)
        request_status.link_answered(request, actor=actor, now=now)


def _claimed(answer: microsoft.ConsentCallback) -> State:
    if answer.granted:
        return State.GRANTED
    return State.DECLINED if answer.cancelled else State.FAILED


def _cause(answer: microsoft.ConsentCallback) -> str:
    if answer.cancelled:
        return "Consent was cancelled at Microsoft, so nothing was granted."
    return answer.verdict.cause


def _action(answer: microsoft.ConsentCallback) -> str:
    if answer.cancelled:
        return "Start again whenever you like; somebody who may grant consent in the directory must accept."
    if answer.verdict.code in ("AADSTS90093", "AADSTS90094", "AADSTS90095"):
        return "Send the link to somebody who may grant consent for the whole directory, and make a new link for it."
    return answer.verdict.action


# --- The truth ------------------------------------------------------------------------------------


def expected_roles(app_registration: AppRegistration) -> tuple[str, ...]:
    """Application roles that the registration's usual capabilities need."""
    if not app_registration.allows_app_only:
        return ()
    return capabilities.application_roles(app_registration.default_capabilities)


def can_be_verified(request: ConsentLink) -> bool:
    """Whether an app-only token can show the consent; otherwise the next sign-in of a person does.

    A link that names its scopes asks for delegated ones, which no app-only token shows.
    """
    app_only = request.app_registration.allows_app_only and not request.scopes
    return app_only and request.directory_id not in SHARED_ENDPOINTS


def verify(request: ConsentLink, *, actor: User | None, now: datetime) -> bool:
    """Get an app-only token of the directory and see whether it carries what was asked for.

    Returns whether the consent is verified. "Not yet" is an ordinary answer: what was granted can take minutes to
    show. Raises MicrosoftUnavailable, MicrosoftRefused for a broken app registration, UnreadableSecret.
    """
    if request.state == State.VERIFIED:
        return True
    if not can_be_verified(request) or request.state not in (State.OPEN, State.GRANTED):
        return False
    found = _roles(request)
    expected = expected_roles(request.app_registration)
    missing = capabilities.missing(expected, found)
    # Roles that were there before say nothing about an unanswered request, unless they are all that is wanted.
    if found and not missing and (expected or request.state == State.GRANTED):
        _verified(request, found, actor=actor, now=now)
        return True
    _note(request, found, missing)
    return False


def _roles(request: ConsentLink) -> tuple[str, ...]:
    """Roles in a fresh token of the directory asked; () if the application is not known there (yet)."""
    refused: MicrosoftRefused | None = None
    for _, application in credential_checks.live_applications(request.app_registration):
        try:
            return token_endpoint.request_app_only_token(
                replace(application, directory_id=request.directory_id)
            ).granted
        except MicrosoftUnavailable:
            raise
        except MicrosoftRefused as error:
            if _not_installed(request, error):
                return ()
            if not error.verdict.credential:
                raise
            refused = error
    if refused is not None:
        raise refused
    return ()


def _not_installed(request: ConsentLink, error: MicrosoftRefused) -> bool:
    """Before its first consent, an application does not exist in a foreign directory."""
    tenant = request.app_registration.tenant
    foreign = request.directory_id not in (tenant.tid, tenant.directory_id)
    return error.verdict.code == "AADSTS7000229" or (foreign and error.verdict.code == "AADSTS700016")


def _verified(request: ConsentLink, seen: Iterable[str], *, actor: User | None, now: datetime) -> None:
    seen = tuple(scope for scope in seen if scope not in token_endpoint.OIDC_SCOPES)
    cause = f"Tokens carry {', '.join(seen)}." if seen else "A person has signed in."
    values = {"state": State.VERIFIED, "verified_at": now, "code": "", "cause": cause, "action": ""}
    with transaction.atomic():
        waiting = ConsentLink.objects.filter(pk=request.pk, state__in=(State.OPEN, State.GRANTED))
        if waiting.update(**values):
            changes = {"directory_id": request.directory_id, "permissions": " ".join(seen)}
            audit.record(AuditAction.CONSENT_VERIFIED, request.app_registration, actor=actor, changes=changes)
        request_status.link_verified(request, seen=seen, now=now)
    for name, value in values.items():
        setattr(request, name, value)


def _note(request: ConsentLink, found: tuple[str, ...], missing: tuple[str, ...]) -> None:
    """Keep in words what a granted consent still lacks."""
    if request.state != State.GRANTED:
        return
    if found:
        cause = f"Tokens carry {', '.join(found)}, but not yet {', '.join(missing)}."
        action = (
            "It can take some minutes. If it stays so, an IT admin must add the missing permissions to the app "
            "registration in Entra and grant consent again."
        )
    else:
        cause = "Microsoft said that consent was granted, but tokens carry no permission yet."
        action = (
            "It can take some minutes. If it stays so, an IT admin must check in Entra that the app registration "
            "declares application permissions, and grant consent again."
        )
    request.cause, request.action = cause, action
    ConsentLink.objects.filter(pk=request.pk, state=State.GRANTED).update(cause=cause, action=action)


def verify_open(*, now: datetime, limit: int = BATCH) -> int:
    """Look whether consent that was asked for has come through; returns how many requests were verified.

    Includes requests nobody has answered here: the administrator may have followed the link without an account in
    this portal.
    """
    waiting = ConsentLink.objects.filter(
        state__in=(State.OPEN, State.GRANTED),
        requested_at__gt=now - VALID_FOR - CHECKED_FOR,
        app_registration__allows_app_only=True,
        scopes="",
        app_registration__rejected_at=None,
    ).exclude(directory_id__in=SHARED_ENDPOINTS)
    done = 0
    for request in waiting.select_related("app_registration__tenant")[:limit]:
        try:
            done += verify(request, actor=None, now=now)
        except PortalError as error:
            logger.info("consent %s could not be verified: %s", request.pk, error.code)
    return done


def verify_from_token(
    app_registration: AppRegistration, *, granted: Iterable[str], now: datetime, tid: str = ""
) -> None:
    """A person has signed in and got these delegated scopes: verifies a granted consent that waits for it.

    Only requests that no app-only token can verify; one that nobody has answered stays open, since a person may
    also have consented for themselves. ``tid`` is the account's directory, if it is known.
    """
    for request in ConsentLink.objects.filter(app_registration=app_registration, state=State.GRANTED):
        if can_be_verified(request) and expected_roles(app_registration):
            continue
        if tid and _is_elsewhere(request, tid):
            continue
        expected = request.scopes.split() or capabilities.delegated_scopes(app_registration.default_capabilities)
        if not capabilities.missing(expected, granted):
            _verified(request, granted, actor=None, now=now)


def _is_elsewhere(request: ConsentLink, tid: str) -> bool:
    """Whether another directory than ``tid`` was asked; a domain whose GUID is not known may be the same."""
    tenant = request.app_registration.tenant
    asked = tenant.tid if tenant.tid and request.directory_id == tenant.directory_id else request.directory_id
    return len(asked) == len(tid) and asked.count("-") == 4 and asked != tid
