"""Request admin consent with a link, record Microsoft's callback, and verify the consent with a token.

The callback alone proves nothing, because anybody who has the link can send it.
"""

import hashlib
import logging
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from connections import audit
from connections.access import permissions, roles
from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable, PortalError, SignInExpired
from connections.microsoft import capabilities, resources, token_endpoint
from connections.microsoft import consent as microsoft
from connections.microsoft.error_types import Kind
from connections.models import AppRegistration, ConsentLink, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.models.tenants import SHARED_ENDPOINTS
from connections.services.consent import outcomes, request_status
from connections.services.registry import app_consents, credential_checks, tenants

logger = logging.getLogger(__name__)

State = ConsentLink.State
VALID_FOR = timedelta(days=7)  # a link can be used for this long
CHECKED_FOR = timedelta(days=2)  # tokens are checked for the consent for this much longer
BATCH = 20  # links checked per run
OUTAGE_WAIT = timedelta(minutes=10)
CHECKED = (State.OPEN, State.GRANTED, State.PARTIAL)  # states in which tokens can verify the consent
WRONG_DIRECTORY = "wrong_directory"


def start(
    app_registration: AppRegistration, *, actor: User, scopes: Iterable[str] | None = None, directory_id: str = ""
) -> tuple[ConsentLink, str]:
    """Return a consent link and its URL.

    A link for the same directory and scopes that still waits for its callback is reused. ``directory_id`` is another
    directory, for a multitenant application. Raises NotAllowed or InvalidInput.
    """
    roles.require(permissions.can_manage_registry(actor), action="Ask an IT admin.")
    tenant = app_registration.tenant
    directory = (directory_id or tenant.tid or tenant.directory_id).lower()
    if directory not in (tenant.tid, tenant.directory_id) and app_registration.audience != "multi":
        raise InvalidInput(
            f"{app_registration} is a single-tenant application, so other directories can't consent to it.",
            action="Leave the field empty.",
            field="directory_id",
        )
    tenants.cloud_of(app_registration.tenant)
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
        link.check_after = timezone.now() if can_be_verified(link) else None
        link.save(update_fields=["state_digest", "check_after"])
        # The event is recorded on the app registration, because people look for it there.
        audit.record(AuditAction.CONSENT_REQUESTED, app_registration, actor=actor, changes=values)
    return link, _url(link)


def consent_url(link: ConsentLink, *, now: datetime) -> str:
    """Return the URL of a link without a callback, so that it can be copied again, or "" if it can't be used."""
    if link.state != State.OPEN or link.requested_at <= now - VALID_FOR:
        return ""
    if not constant_time_compare(_digest(_state(link)), link.state_digest):
        return ""  # SECRET_KEY has changed since then, so the state cannot be derived again
    try:
        return _url(link)
    except InvalidInput:
        return ""


def _url(link: ConsentLink) -> str:
    app = link.app_registration
    return microsoft.consent_url(
        tenants.cloud_of(app.tenant),
        link.directory_id,
        client_id=app.client_id,
        redirect_uri=f"{settings.PORTAL_URL}/consent/callback/",
        state=_state(link),
        scopes=link.scopes.split(),
    )


def _state(link: ConsentLink) -> str:
    """Return the link's state. It is never stored, and without SECRET_KEY nobody can guess it."""
    value = f"{link.pk}:{link.app_registration_id}:{link.directory_id}"
    return salted_hmac("connections.consent", value, algorithm="sha256").hexdigest()


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def record_callback(query_string: str, *, actor: User | None, now: datetime) -> ConsentLink:
    """Store what the callback of a link claims, once, and return the link.

    The one-time ``state`` is enough, because the directory's administrator may have no account here (then ``actor`` is
    None). It proves only that the sender has the link, so the consent is verified with tokens. If Microsoft was
    unavailable, nothing is stored, so that the link can still be used. Raises SignInExpired if the state is unknown,
    used or too old.
    """
    callback = microsoft.read_callback(query_string)
    link = find_link(callback.state, now=now)
    if link.state == State.VERIFIED:  # a token showed the consent before the callback came
        ConsentLink.objects.filter(pk=link.pk).update(answered_at=now)
        return link
    values = {**_claim(link, callback), "answered_at": now, "checks": 0, "check_after": None}
    if callback.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        set_columns(link, {**values, "answered_at": None})
        return link
    if values["state"] == State.GRANTED and can_be_verified(link):
        values["check_after"] = now + outcomes.CHECKS[0]
    if not outcomes.record_answer(link, values, actor=actor, now=now):
        raise SignInExpired
    return link


def find_link(state: str, *, now: datetime) -> ConsentLink:
    """Return the link with this ``state`` that has had no callback yet. Raises SignInExpired if there is none."""
    links = ConsentLink.objects.filter(
        state_digest=_digest(state),
        state__in=(State.OPEN, State.VERIFIED),
        answered_at=None,
        requested_at__gt=now - VALID_FOR,
    )
    link = links.select_related("app_registration__tenant", "requested_by__alert_choice").first()
    if link is None:
        raise SignInExpired(
            "This response from Microsoft matches no open consent link. The link was already used or is older than "
            "seven days. Nothing was changed.",
            action="Check the consent status on the app registration's page. IT admins can create a new link there.",
        )
    return link


def _claim(link: ConsentLink, callback: microsoft.ConsentCallback) -> dict[str, Any]:
    """Return the link's columns according to the callback, compared with what the link requests."""
    verdict = callback.verdict
    state, code, cause, action = State.FAILED, verdict.code[:60], verdict.cause, verdict.action
    missing: tuple[str, ...] = ()
    if callback.granted and callback.tenant and _is_elsewhere(link, callback.tenant):
        code = WRONG_DIRECTORY
        cause = "Microsoft reported consent for a different directory. The link's directory granted nothing."
        action = "Create a new link. An administrator of the link's directory needs to sign in with it."
    elif callback.granted:
        state, cause, action = State.GRANTED, "", ""
        missing = capabilities.missing(link.scopes.split(), callback.scopes) if callback.scopes else ()
        if missing:
            cause = f"Microsoft's response doesn't list these permissions: {', '.join(missing)}."
            action = "The portal checks it at the next sign-in."
    elif callback.cancelled:
        state = State.DECLINED
        cause = "Consent was cancelled at Microsoft. Nothing was granted."
        action = "You can start again at any time. An administrator who can grant consent needs to accept."
    elif verdict.code in ("AADSTS90093", "AADSTS90094", "AADSTS90095"):
        action = "Create a new link and send it to an administrator who can grant consent for the directory."
    return {
        "state": state,
        "code": code,
        "cause": cause,
        "action": action,
        "reported_tid": callback.tenant,
        "missing": " ".join(missing),
    }


def expected_roles(app_registration: AppRegistration) -> tuple[str, ...]:
    if not app_registration.allows_app_only:
        return ()
    roles_needed = capabilities.application_roles(app_registration.default_capabilities)
    # An application's SharePoint and Dataverse hosts are known only from its connections.
    return tuple(name for name in roles_needed if not resources.needs_host(resources.of(name)))


def _expected(link: ConsentLink) -> tuple[str, ...]:
    """Return the roles that the app registration usually needs, and those that people requested with this link."""
    requests = link.requests.filter(closed_at=None, authentication_type=AuthenticationType.CLIENT_CREDENTIALS)
    names = [name for request in requests for name in request.permission_names]
    return tuple(dict.fromkeys((*expected_roles(link.app_registration), *names)))


def can_be_verified(link: ConsentLink) -> bool:
    """Whether an app-only token can show the consent.

    It can't if the link requests scopes, because these are delegated permissions.
    """
    app_only = link.app_registration.allows_app_only and not link.scopes
    return app_only and link.directory_id not in SHARED_ENDPOINTS


def verify(link: ConsentLink, *, actor: User | None, now: datetime) -> bool:
    """Mark the link as verified if an app-only token shows the consent. Returns whether the link is verified.

    It can take minutes until tokens show a consent. Raises UnreadableSecret, MicrosoftUnavailable, or MicrosoftRefused
    if the app registration is broken.
    """
    if link.state == State.VERIFIED:
        return True
    if not can_be_verified(link) or link.state not in CHECKED:
        return False
    expected = _expected(link)
    granted = _granted_roles(link, expected)
    missing = capabilities.missing(expected, granted)
    # A role may be older than a link without a callback, so only all expected roles together verify such a link.
    if granted and not missing and (expected or link.state != State.OPEN):
        _mark_verified(link, granted, actor=actor, now=now)
        _note_roles(link, granted, now=now)
        return True
    if link.state != State.OPEN:
        outcomes.note_missing(link, granted, missing, now=now)
    return False


def _granted_roles(link: ConsentLink, expected: Iterable[str]) -> tuple[str, ...]:
    """Return the roles in new tokens, one for each resource of the expected roles."""
    cloud = tenants.cloud_of(link.app_registration.tenant)
    granted: list[str] = []
    for key in resources.needed(expected) or [resources.GRAPH]:
        granted += _roles_of_resource(link, resources.audience(cloud, key, {}))
    return tuple(granted)


def _roles_of_resource(link: ConsentLink, audience: token_endpoint.Audience) -> tuple[str, ...]:
    """Return the roles in a new token from the link's directory, or () if the application does not exist there yet."""
    refusal: MicrosoftRefused | None = None
    tenant = link.app_registration.tenant
    # Before its first consent, an application does not exist in another organisation's directory.
    foreign = link.directory_id not in (tenant.tid, tenant.directory_id)
    for _, application in credential_checks.live_applications(link.app_registration):
        try:
            there = replace(application, directory_id=link.directory_id)
            return token_endpoint.request_app_only_token(there, audience=audience).granted
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


def _note_roles(link: ConsentLink, granted: tuple[str, ...], *, now: datetime) -> None:
    """Store the roles on the app registration's consent in the link's directory, if it is used there."""
    is_there = Q(tenant__tid=link.directory_id) | Q(tenant__directory_id=link.directory_id)
    for consent in link.app_registration.consents.filter(is_there).select_related("app_registration", "tenant"):
        app_consents.accept(consent.app_registration, consent.tenant, roles=granted, now=now, known=consent)


def _mark_verified(link: ConsentLink, granted: Iterable[str], *, actor: User | None, now: datetime) -> None:
    seen = tuple(scope for scope in granted if scope not in token_endpoint.OIDC_SCOPES)
    cause = f"Tokens contain {', '.join(seen)}." if seen else "A person signed in."
    values = {
        "state": State.VERIFIED,
        "verified_at": now,
        "code": "",
        "cause": cause,
        "action": "",
        "missing": "",
        "check_after": None,
    }
    with transaction.atomic():
        if ConsentLink.objects.filter(pk=link.pk, state__in=CHECKED).update(**values):
            set_columns(link, values)
            changes = {"directory_id": link.directory_id, "permissions": " ".join(seen)}
            audit.record(AuditAction.CONSENT_VERIFIED, link.app_registration, actor=actor, changes=changes)
            outcomes.tell_verified(link, actor=actor, now=now)
        request_status.link_verified(link, seen=seen, now=now)
    link.state, link.cause, link.action = State.VERIFIED, cause, ""


def verify_open(*, now: datetime) -> int:
    """Make the checks that are due, also for links without a callback. Returns how many links were verified.

    Each check is claimed before we ask Microsoft, so that several workers don't repeat it. A check during an outage is
    made again later.
    """
    waiting_links = ConsentLink.objects.filter(
        check_after__lte=now, state__in=CHECKED, requested_at__gt=now - VALID_FOR - CHECKED_FOR
    ).order_by("check_after", "pk")
    verified = 0
    for link in waiting_links.select_related("app_registration__tenant", "requested_by__alert_choice")[:BATCH]:
        row, following = (
            ConsentLink.objects.filter(pk=link.pk, check_after=link.check_after),
            outcomes.next_check(link, now),
        )
        if not row.update(check_after=following, checks=F("checks") + 1):
            continue
        problem = ""
        try:
            verified += verify(link, actor=None, now=now)
        except MicrosoftUnavailable:
            ConsentLink.objects.filter(pk=link.pk).update(check_after=now + OUTAGE_WAIT, checks=link.checks)
            continue
        except PortalError as error:
            logger.info("consent %s could not be verified: %s", link.pk, error.code)
            problem = f"The portal couldn't check the consent. {error.cause}"
        if following is None and link.state == State.GRANTED:
            outcomes.give_up(link, now=now, problem=problem)
    return verified


def verify_from_token(
    app_registration: AppRegistration, *, granted: Iterable[str], now: datetime, tid: str = ""
) -> None:
    """Verify granted consents that no app-only token can show, using the scopes ``granted`` to a person who signed in.

    A link without a callback stays open, because people may also consent for themselves. ``tid`` is the account's
    directory.
    """
    granted = tuple(granted)
    links = ConsentLink.objects.filter(app_registration=app_registration, state__in=(State.GRANTED, State.PARTIAL))
    for link in links.select_related("app_registration__tenant", "requested_by__alert_choice"):
        if can_be_verified(link) and expected_roles(app_registration):
            continue
        if tid and _is_elsewhere(link, tid):
            continue
        expected = link.scopes.split() or capabilities.delegated_scopes(app_registration.default_capabilities)
        if not (missing := capabilities.missing(expected, granted)):
            _mark_verified(link, granted, actor=None, now=now)
        elif link.state == State.GRANTED and set(link.missing.split()) & set(missing):
            # Microsoft's callback didn't list them either, so this sign-in isn't just one that requests fewer
            # permissions.
            outcomes.mark_partial(link, granted, missing, now=now)


def _is_elsewhere(link: ConsentLink, tid: str) -> bool:
    """Whether the link is for a directory other than ``tid``.

    False if the link names a domain whose GUID is not known.
    """
    tenant = link.app_registration.tenant
    directory = tenant.tid if tenant.tid and link.directory_id == tenant.directory_id else link.directory_id
    return microsoft.is_directory_id(directory) and directory != tid
