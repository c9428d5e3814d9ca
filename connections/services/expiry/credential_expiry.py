"""Read expiration dates of secrets and certificates from Entra, if permitted, and warn people before they expire."""

import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet

from connections import audit
from connections.access import permissions, roles
from connections.errors import Conflict, MicrosoftRefused, MicrosoftUnavailable, PortalError
from connections.microsoft import certificates, clouds, credential_expiry
from connections.microsoft.credential_expiry import CredentialList, ListedCredential
from connections.microsoft.token_endpoint import TokenSet
from connections.models import AppCredential, AppRegistration, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.expiry import api_key_expiry, forecast, renewal_rules
from connections.services.notifications import alerts
from connections.services.registry import app_consents, credential_checks

logger = logging.getLogger(__name__)

THRESHOLDS = (60, 30, 14, 7, 1)  # days left
EVERY = timedelta(days=1)
AGAIN = timedelta(hours=1)  # retry after this time; also the lease of a claim
RENEWED_UNTIL = timedelta(days=14)  # if renewal is automatic, warn only within this time
BATCH = 20  # app registrations per run; Microsoft allows 150 such reads a minute
SETTLED_AFTER = timedelta(hours=1)  # a new credential may be missing from Entra's list for this long


@dataclass(frozen=True, slots=True)
class CredentialListing:
    """An app registration's credentials, compared with Entra's list."""

    permitted: bool  # False if the application may not read its credentials or belongs to another directory
    confirmed: tuple[AppCredential, ...] = ()
    unlisted: tuple[AppCredential, ...] = ()
    accepted: tuple[AppCredential, ...] = ()  # uploaded certificates that Microsoft has now accepted


def check_due(*, now: datetime) -> int:
    """Read expiration dates and send the warnings that are due. Returns the number of warnings."""
    read_due(now=now)
    return warn_due(now=now) + api_key_expiry.warn_due(now=now)


def read_due(*, now: datetime, limit: int = BATCH) -> int:
    """Read the dates of up to ``limit`` app registrations, each once a day. Returns how many could be read."""
    due_apps = AppRegistration.objects.filter(
        Q(read_expiries_after=None) | Q(read_expiries_after__lte=now),
        ~app_consents.is_paused_at_home(now),
        verified_at__isnull=False,
        rejected_at=None,
    ).select_related("tenant")
    count = 0
    for app in due_apps.order_by(F("read_expiries_after").asc(nulls_first=True), "pk")[:limit]:
        unclaimed = AppRegistration.objects.filter(pk=app.pk, read_expiries_after=app.read_expiries_after)
        if not unclaimed.update(read_expiries_after=now + AGAIN):
            continue  # another worker has it
        try:
            count += read(app, actor=None, now=now).permitted
        except PortalError as error:
            logger.info("expiry dates of app registration %s could not be read: %s", app.pk, error.code)
    return count


def warn_due(*, now: datetime) -> int:
    """Warn before an app's last credential expires and its connections stop. Returns the number of warnings."""
    expiring = AppCredential.objects.filter(
        retired_at=None, rejected_at=None, expires_at__gt=now, expires_at__lte=now + timedelta(days=THRESHOLDS[0])
    )
    rows = list(expiring.select_related("app_registration__tenant").defer("secret", "private_key", "certificate"))
    credentials = forecast.credentials_of({row.app_registration_id for row in rows})
    renewed = renewal_rules.renewed_by_portal([row.app_registration for row in rows], now=now)
    return sum(
        _warn(row, row.expires_at, now)
        for row in rows
        if row.expires_at
        and _is_last(row, credentials[row.app_registration_id])
        and (row.app_registration_id not in renewed or row.expires_at <= now + RENEWED_UNTIL)
    )


def _is_last(credential: AppCredential, live: list[AppCredential]) -> bool:
    """Whether no other credential works after this one has expired."""
    lifetime = forecast.credential_lifetime(live)
    return lifetime.lasting is None and lifetime.last == credential


def _warn(credential: AppCredential, expires_at: datetime, now: datetime) -> bool:
    days = api_key_expiry.days_to_warn(THRESHOLDS, expires_at, warned_days=credential.warned_days, now=now)
    if days is None:
        return False
    with transaction.atomic():
        unchanged = AppCredential.objects.filter(pk=credential.pk, warned_days=credential.warned_days)
        if not unchanged.update(warned_days=days):
            return False  # another worker has just done it
        alerts.credential_expires(credential, days=days, now=now)
    return True


def read(app_registration: AppRegistration, *, actor: User | None, now: datetime) -> CredentialListing:
    """Store Entra's dates and test new certificates. Raises MicrosoftUnavailable, UnreadableSecret or InvalidInput."""
    listing = _request_listing(app_registration, now)
    later = now + EVERY * random.uniform(0.9, 1.1)
    AppRegistration.objects.filter(pk=app_registration.pk).update(read_expiries_after=later)
    if listing is None:
        return CredentialListing(permitted=False)
    confirmed, unlisted, uploaded = [], [], []
    for credential in forecast.credentials_of([app_registration.pk])[app_registration.pk]:
        if credential.kind == AppCredential.Kind.FEDERATED:
            continue  # it has no expiration date and is not in Entra's list
        listed = match(credential, listing)
        if listed is not None and credential_checks.awaits_upload(credential):
            uploaded.append(credential)
        if listed is not None:
            _confirm(credential, listed, actor=actor, now=now)
            confirmed.append(credential)
        elif _is_deleted(credential, listing, now):
            unlisted.append(credential)
            with transaction.atomic():
                if AppCredential.objects.filter(pk=credential.pk, unlisted_at=None).update(unlisted_at=now):
                    changes = {"app_registration": str(credential.app_registration)}
                    audit.record(AuditAction.CREDENTIAL_UNLISTED, credential, actor=actor, changes=changes)
                    credential.unlisted_at = now
    accepted = []
    for credential in uploaded:
        try:
            credential_checks.verify(app_registration, actor=actor, credential=credential)
            accepted.append(credential)
        except MicrosoftRefused as error:
            logger.info("certificate %s is listed but not accepted yet: %s", credential.pk, error.verdict.code)
    return CredentialListing(True, tuple(confirmed), tuple(unlisted), tuple(accepted))


def enter(credential: AppCredential, expires_at: datetime, *, actor: User, now: datetime) -> None:
    """Record a secret's expiration date as Entra shows it. Raises NotAllowed, or Conflict if there is a date already.

    Reminders are sent before this date. If the date can be read from Entra later, Entra's date replaces it.
    """
    roles.require(permissions.can_manage_registry(actor), action="Ask an IT admin.")
    with transaction.atomic():
        undated = AppCredential.objects.filter(pk=credential.pk, expires_at=None, retired_at=None)
        if not undated.update(expires_at=expires_at, warned_days=None):
            raise Conflict("This credential has an expiration date, or it is retired.", action="Refresh the page.")
        changes = {"expires_at": [None, expires_at.isoformat()]}
        audit.record(AuditAction.CREDENTIAL_EXPIRY_ENTERED, credential, actor=actor, at=now, changes=changes)


def without_date(apps: QuerySet[AppRegistration], *, limit: int) -> list[AppCredential]:
    """Return at most ``limit`` live secrets of these app registrations for which no expiration date is recorded."""
    undated = AppCredential.objects.live().filter(kind=AppCredential.Kind.SECRET, expires_at=None)
    rows = undated.filter(app_registration__in=apps.order_by()).select_related("app_registration")
    return list(rows.defer("secret", "private_key").order_by("app_registration__name", "pk")[:limit])


def _request_listing(app: AppRegistration, now: datetime) -> CredentialList | None:
    """Return Entra's list, or None if the application may not read it."""
    if app.tenant.is_shared_endpoint:
        return None  # unless a person signs in, the directory is unknown
    token = credential_checks.app_only_token(app, now=now)
    if token is None or not credential_expiry.may_read(token.granted):
        return None
    return read_listing(app, token)


def read_listing(app: AppRegistration, token: TokenSet) -> CredentialList | None:
    """Return Entra's list of the app registration's credentials, or None if Entra refuses to show it to this token."""
    try:
        return credential_expiry.read(clouds.cloud(app.tenant.environment), token.access_token, app.client_id)
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused as error:
        logger.info("Entra does not list the credentials of app registration %s: %s", app.pk, error.verdict.code)
        return None


def match(credential: AppCredential, listing: CredentialList) -> ListedCredential | None:
    """Return Entra's entry for the credential, or None.

    Secrets that start with the same characters are told apart by their dates.
    """
    if credential.kind == AppCredential.Kind.CERTIFICATE:
        details = certificates.read_details(credential.certificate)
        thumbprints = {details.sha1, details.sha256}
        return next((listed for listed in listing.certificates if listed.thumbprints & thumbprints), None)
    candidates = [listed for listed in listing.secrets if listed.hint and listed.hint == credential.hint]
    selections = [candidates]
    if (expires_at := credential.expires_at) is not None:
        selections.append([listed for listed in candidates if abs(listed.expires_at - expires_at) < timedelta(days=1)])
    if (accepted_at := credential.verified_at) is not None and credential.rejected_at is None:
        selections.append([listed for listed in candidates if listed.expires_at > accepted_at])
    for selection in selections:
        if len({listed.expires_at for listed in selection}) == 1:
            return selection[0]
    return None


def _is_deleted(credential: AppCredential, listing: CredentialList, now: datetime) -> bool:
    if credential_checks.awaits_upload(credential) or credential.created_at > now - SETTLED_AFTER:
        return False
    if credential.kind == AppCredential.Kind.CERTIFICATE:
        return all(listed.thumbprints for listed in listing.certificates)
    return all(listed.hint and listed.hint != credential.hint for listed in listing.secrets)


def _confirm(credential: AppCredential, listed: ListedCredential, *, actor: User | None, now: datetime) -> None:
    before = credential.expires_at
    values: dict[str, object] = {"expires_at": listed.expires_at, "expiry_read_at": now, "unlisted_at": None}
    if credential.verified_at is not None:
        values["key_id"] = listed.key_id[:36]
    if before is None or listed.expires_at > before:
        values["warned_days"] = None  # warn again before the new date
    with transaction.atomic():
        AppCredential.objects.filter(pk=credential.pk).update(**values)
        if before != listed.expires_at:
            changes = {"expires_at": [before.isoformat() if before else None, listed.expires_at.isoformat()]}
            audit.record(AuditAction.CREDENTIAL_EXPIRY_READ, credential, actor=actor, changes=changes)
    set_columns(credential, values)
