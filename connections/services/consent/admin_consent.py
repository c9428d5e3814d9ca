"""Request admin consent with a link, record Microsoft's callback (which proves nothing), and verify it with a token."""

import hashlib
import logging
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

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
CHECKED_FOR = timedelta(days=2)  # how much longer tokens are checked for the consent
BATCH = 20  # links checked per run


def start(
    app_registration: AppRegistration, *, actor: User, scopes: Iterable[str] | None = None, directory_id: str = ""
) -> tuple[ConsentLink, str]:
    """Return a consent link and its URL; an unanswered link for the same directory and scopes is reused.

    ``directory_id`` is another directory, for a multitenant application. Raises NotAllowed or InvalidInput.
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
    values = {"directory_id": directory, "scopes": " ".join(scopes or ())}
    unanswered = ConsentLink.objects.filter(app_registration=app_registration, state=State.OPEN, **values).first()
    if unanswered is not None and consent_url(unanswered, now=timezone.now()):
        return unanswered, _url(unanswered)
    with transaction.atomic():
        link = ConsentLink.objects.create(
            app_registration=app_registration,
            state_digest=secrets.token_hex(32),  # replaced below, because the real state is derived from the row's ID
            requested_by=actor,
            **values,
        )
        link.state_digest = _digest(_state(link))
        link.save(update_fields=["state_digest"])
        # Recorded on the app registration, because that is what people look up.
        audit.record(AuditAction.CONSENT_REQUESTED, app_registration, actor=actor, changes=values)
    return link, _url(link)


def consent_url(link: ConsentLink, *, now: datetime) -> str:
    """Return the URL of an unanswered link, so that it can be copied again, or "" if the link can no longer be used."""
    if link.state != State.OPEN or link.requested_at <= now - VALID_FOR:
        return ""
    if not constant_time_compare(_digest(_state(link)), link.state_digest):
        return ""  # SECRET_KEY has changed since then, so the state cannot be derived any more
    try:
        return _url(link)
    except InvalidInput:
        return ""


def _url(link: ConsentLink) -> str:
    app = link.app_registration
    return microsoft.consent_url(
        _cloud(app),
        link.directory_id,
        client_id=app.client_id,
        redirect_uri=f"{settings.PORTAL_URL}/consent/callback/",
        state=_state(link),
        scopes=link.scopes.split(),
    )


def _cloud(app_registration: AppRegistration) -> clouds.Cloud:
    environment = app_registration.tenant.environment
    if environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{environment}” is not configured in this portal.",
            action="An operator must configure it again.",
        )
    return clouds.cloud(environment)


def _state(link: ConsentLink) -> str:
    """Return the link's state, which nobody can guess without SECRET_KEY and the database never holds."""
    value = f"{link.pk}:{link.app_registration_id}:{link.directory_id}"
    return salted_hmac("connections.consent", value, algorithm="sha256").hexdigest()


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def record_callback(query_string: str, *, actor: User | None, now: datetime) -> ConsentLink:
    """Store what Microsoft's callback claims, once, and return the link with it.

    Nothing is stored without an ``actor``, because an anonymous GET must change nothing, or if Microsoft was
    unavailable, so that the link can still be used. Raises SignInExpired if the state is unknown, used or too old.
    """
    callback = microsoft.read_callback(query_string)
    link = find_link(callback.state, now=now)
    values = {**_claim(callback), "answered_at": now}
    for name, value in values.items():
        setattr(link, name, value)
    if actor is None or callback.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        return link
    with transaction.atomic():
        # Conditional, so that only one of two browsers that return with the same link succeeds.
        if not ConsentLink.objects.filter(pk=link.pk, state=State.OPEN).update(**values):
            raise SignInExpired
        audit.record(
            AuditAction(f"consent.{values['state']}"),
            link.app_registration,
            actor=actor,
            outcome=AuditEvent.Outcome.DONE if callback.granted else AuditEvent.Outcome.FAILED,
            changes={"directory_id": link.directory_id, "code": values["code"]},
        )
        request_status.link_answered(link, actor=actor, now=now)
    return link


def find_link(state: str, *, now: datetime) -> ConsentLink:
    """Return the unanswered link that a callback's ``state`` belongs to. Raises SignInExpired if there is none."""
    links = ConsentLink.objects.filter(state_digest=_digest(state), state=State.OPEN, requested_at__gt=now - VALID_FOR)
    link = links.select_related("app_registration__tenant", "requested_by").first()
    if link is None:
        raise SignInExpired(
            "This answer from Microsoft belongs to no consent link that is still open: the link was already used, "
            "or is older than seven days. Nothing was changed.",
            action="The page of the app registration shows how the consent stands; an IT admin can make a new link there.",
        )
    return link


def _claim(callback: microsoft.ConsentCallback) -> dict[str, Any]:
    verdict = callback.verdict
    state, cause, action = State.FAILED, verdict.cause, verdict.action
    if callback.granted:
        state, cause, action = State.GRANTED, "", ""
    elif callback.cancelled:
        state = State.DECLINED
        cause = "Consent was cancelled at Microsoft, so nothing was granted."
        action = "Start again whenever you like; somebody who may grant consent in the directory must accept."
    elif verdict.code in ("AADSTS90093", "AADSTS90094", "AADSTS90095"):
        action = "Send the link to somebody who may grant consent for the whole directory, and make a new link for it."
    return {"state": state, "code": verdict.code[:60], "cause": cause, "action": action}


def expected_roles(app_registration: AppRegistration) -> tuple[str, ...]:
    if not app_registration.allows_app_only:
        return ()
    return capabilities.application_roles(app_registration.default_capabilities)


def can_be_verified(link: ConsentLink) -> bool:
    """Whether an app-only token can show the consent; it cannot if the link asks for scopes, which are delegated."""
    app_only = link.app_registration.allows_app_only and not link.scopes
    return app_only and link.directory_id not in SHARED_ENDPOINTS


def verify(link: ConsentLink, *, actor: User | None, now: datetime) -> bool:
    """Mark the link as verified if an app-only token shows the consent, and return whether it is verified.

    Tokens can take minutes to show it. Raises UnreadableSecret, MicrosoftUnavailable, or MicrosoftRefused if the app
    registration is broken.
    """
    if link.state == State.VERIFIED:
        return True
    if not can_be_verified(link) or link.state not in (State.OPEN, State.GRANTED):
        return False
    granted = _granted_roles(link)
    expected = expected_roles(link.app_registration)
    missing = capabilities.missing(expected, granted)
    # Any role may be older than an unanswered link; only a complete set of expected roles verifies it.
    if granted and not missing and (expected or link.state == State.GRANTED):
        _mark_verified(link, granted, actor=actor, now=now)
        return True
    if link.state == State.GRANTED:
        _explain_missing(link, granted, missing)
    return False


def _granted_roles(link: ConsentLink) -> tuple[str, ...]:
    """Return the roles in a new token from the link's directory, or () if the application is not known there (yet)."""
    refusal: MicrosoftRefused | None = None
    tenant = link.app_registration.tenant
    # Before its first consent, an application does not exist in another organisation's directory.
    foreign = link.directory_id not in (tenant.tid, tenant.directory_id)
    for _, application in credential_checks.live_applications(link.app_registration):
        try:
            return token_endpoint.request_app_only_token(replace(application, directory_id=link.directory_id)).granted
        except MicrosoftUnavailable:
            raise
        except MicrosoftRefused as error:
            code = error.verdict.code
            if code == "AADSTS7000229" or (foreign and code == "AADSTS700016"):
                return ()
            if not error.verdict.credential:
                raise
            refusal = error
    if refusal is not None:
        raise refusal
    return ()


def _mark_verified(link: ConsentLink, granted: Iterable[str], *, actor: User | None, now: datetime) -> None:
    seen = tuple(scope for scope in granted if scope not in token_endpoint.OIDC_SCOPES)
    cause = f"Tokens carry {', '.join(seen)}." if seen else "A person has signed in."
    values = {"state": State.VERIFIED, "verified_at": now, "code": "", "cause": cause, "action": ""}
    with transaction.atomic():
        if ConsentLink.objects.filter(pk=link.pk, state__in=(State.OPEN, State.GRANTED)).update(**values):
            changes = {"directory_id": link.directory_id, "permissions": " ".join(seen)}
            audit.record(AuditAction.CONSENT_VERIFIED, link.app_registration, actor=actor, changes=changes)
        request_status.link_verified(link, seen=seen, now=now)
    for name, value in values.items():
        setattr(link, name, value)


def _explain_missing(link: ConsentLink, granted: tuple[str, ...], missing: tuple[str, ...]) -> None:
    cause = "Microsoft said that consent was granted, but tokens carry no permission yet."
    action = (
        "It can take some minutes. If it stays so, an IT admin must check in Entra that the app registration "
        "declares application permissions, and grant consent again."
    )
    if granted:
        cause = f"Tokens carry {', '.join(granted)}, but not yet {', '.join(missing)}."
        action = (
            "It can take some minutes. If it stays so, an IT admin must add the missing permissions to the app "
            "registration in Entra and grant consent again."
        )
    link.cause, link.action = cause, action
    ConsentLink.objects.filter(pk=link.pk, state=State.GRANTED).update(cause=cause, action=action)


def verify_open(*, now: datetime) -> int:
    """Look for consent in tokens, even for links that were not answered, and return how many were verified."""
    links = ConsentLink.objects.filter(
        state__in=(State.OPEN, State.GRANTED),
        requested_at__gt=now - VALID_FOR - CHECKED_FOR,
        app_registration__allows_app_only=True,
        scopes="",
        app_registration__rejected_at=None,
    ).exclude(directory_id__in=SHARED_ENDPOINTS)
    verified = 0
    for link in links.select_related("app_registration__tenant")[:BATCH]:
        try:
            verified += verify(link, actor=None, now=now)
        except PortalError as error:
            logger.info("consent %s could not be verified: %s", link.pk, error.code)
    return verified


def verify_from_token(
    app_registration: AppRegistration, *, granted: Iterable[str], now: datetime, tid: str = ""
) -> None:
    """Verify granted consents that no app-only token can show, from the scopes ``granted`` to a person who signed in.

    An unanswered link stays open, because people may also consent for themselves. ``tid`` is the account's directory.
    """
    for link in ConsentLink.objects.filter(app_registration=app_registration, state=State.GRANTED):
        if can_be_verified(link) and expected_roles(app_registration):
            continue
        if tid and _is_elsewhere(link, tid):
            continue
        expected = link.scopes.split() or capabilities.delegated_scopes(app_registration.default_capabilities)
        if not capabilities.missing(expected, granted):
            _mark_verified(link, granted, actor=None, now=now)


def _is_elsewhere(link: ConsentLink, tid: str) -> bool:
    """Whether the link is for a directory other than ``tid``; False if it names a domain whose GUID is not known."""
    tenant = link.app_registration.tenant
    directory = tenant.tid if tenant.tid and link.directory_id == tenant.directory_id else link.directory_id
    return len(directory) == len(tid) and directory.count("-") == 4 and directory != tid
