"""Expiry dates of secrets and certificates: read from Entra where the application may read itself, warned of in time."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from connections import audit
from connections.errors import MicrosoftRefused, MicrosoftUnavailable, PortalError
from connections.microsoft import certificates, clouds, credential_expiry
from connections.microsoft.credential_expiry import CredentialList, ListedCredential
from connections.models import AppCredential, AppRegistration, User
from connections.models.audit import AuditAction
from connections.services.expiry import api_key_expiry, forecast
from connections.services.notifications import alerts
from connections.services.registry import credential_checks

logger = logging.getLogger(__name__)

# Warned of when so many days (or fewer) are left; each number once, and only the smallest that has been passed.
THRESHOLDS = (60, 30, 14, 7, 1)
EVERY = timedelta(days=1)
AGAIN = timedelta(hours=1)  # after an outage; also the lease of a claim
BATCH = 20  # app registrations in one tick; a minute allows 150 such reads
# Entra's list may lag behind a credential that was made just now.
SETTLED_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CredentialListing:
    """What came of looking an app registration's credentials up in Entra."""

    permitted: bool  # False: the application may not read itself, or does not live in this directory
    confirmed: tuple[AppCredential, ...] = ()
    unlisted: tuple[AppCredential, ...] = ()
    accepted: tuple[AppCredential, ...] = ()  # certificates found uploaded, tried and accepted


# --- The routine ----------------------------------------------------------------------------------


def check_due(*, now: datetime) -> int:
    """Read the dates that are due and send the warnings that are due; returns the number of warnings."""
    read_due(now=now)
    return warn_due(now=now) + api_key_expiry.warn_due(now=now)


def read_due(*, now: datetime, limit: int = BATCH) -> int:
    """Look up to ``limit`` app registrations up, each once a day; returns how many could be read.

    Any number of workers may run it at once: each claims a row by moving ``read_expiries_after`` forward.
    """
    due = AppRegistration.objects.filter(
        Q(read_expiries_after=None) | Q(read_expiries_after__lte=now),
        Q(paused_until=None) | Q(paused_until__lte=now),
        verified_at__isnull=False,
        rejected_at=None,
    ).select_related("tenant")
    done = 0
    for app in due.order_by(F("read_expiries_after").asc(nulls_first=True), "pk")[:limit]:
        same = AppRegistration.objects.filter(pk=app.pk, read_expiries_after=app.read_expiries_after)
        if not same.update(read_expiries_after=now + AGAIN):
            continue  # another worker has it
        try:
            done += read(app, actor=None, now=now).permitted
        except PortalError as error:
            logger.info("expiry dates of app registration %s could not be read: %s", app.pk, error.code)
    return done


def warn_due(*, now: datetime) -> int:
    """Warn of credentials whose end comes near; returns how many warnings went out.

    Only the credential that lasts longest is warned of: while it lives, the end of the others stops nothing.
    """
    near = AppCredential.objects.filter(
        retired_at=None, rejected_at=None, expires_at__gt=now, expires_at__lte=now + timedelta(days=THRESHOLDS[0])
    )
    soon = list(near.select_related("app_registration__tenant").defer("secret", "private_key", "certificate"))
    known = forecast.credentials_of({credential.app_registration_id for credential in soon})
    return sum(
        _warn(credential, now)
        for credential in soon
        if forecast.credential_lifetime(known[credential.app_registration_id]).last == credential
    )


def _warn(credential: AppCredential, now: datetime) -> int:
    assert credential.expires_at is not None  # noqa: S101 - only dated ones are asked for
    left = credential.expires_at - now
    days = min(threshold for threshold in THRESHOLDS if left <= timedelta(days=threshold))
    if credential.warned_days is not None and credential.warned_days <= days:
        return 0
    with transaction.atomic():
        same = AppCredential.objects.filter(pk=credential.pk, warned_days=credential.warned_days)
        if not same.update(warned_days=days):
            return 0  # another worker has just done it
        alerts.credential_expires(credential, days=days, now=now)
    return 1


# --- Reading --------------------------------------------------------------------------------------


def read(app_registration: AppRegistration, *, actor: User | None, now: datetime) -> CredentialListing:
    """Look the credentials up in Entra and store the true dates; due again in a day.

    A certificate that waited for its upload and is listed now is tried at once, and so put to use. Raises
    MicrosoftUnavailable, UnreadableSecret, or InvalidInput if the environment is not configured.
    """
    listing = _listing(app_registration, now)
    later = now + EVERY * random.uniform(0.9, 1.1)
    AppRegistration.objects.filter(pk=app_registration.pk).update(read_expiries_after=later)
    if listing is None:
        return CredentialListing(permitted=False)
    known = forecast.credentials_of([app_registration.pk])[app_registration.pk]
    confirmed, unlisted, uploaded = [], [], []
    for credential in known:
        listed = match(credential, listing)
        if listed is not None and credential_checks.awaits_upload(credential):
            uploaded.append(credential)
        if listed is not None:
            _confirm(credential, listed, actor=actor, now=now)
            confirmed.append(credential)
        elif _is_gone(credential, listing, now):
            _note_unlisted(credential, actor=actor, now=now)
            unlisted.append(credential)
    accepted = [credential for credential in uploaded if _is_accepted(app_registration, credential, actor)]
    return CredentialListing(True, tuple(confirmed), tuple(unlisted), tuple(accepted))


def _listing(app: AppRegistration, now: datetime) -> CredentialList | None:
    """Entra's list; None if the application may not read it."""
    if app.tenant.is_shared_endpoint:
        return None  # no person signs in here, so nothing would name a directory
    token = credential_checks.app_only_token(app, now=now)
    if token is None or not credential_expiry.may_read(token.granted):
        return None
    try:
        return credential_expiry.read(clouds.cloud(app.tenant.environment), token.access_token, app.client_id)
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused as refused:
        logger.info("Entra does not list the credentials of app registration %s: %s", app.pk, refused.verdict.code)
        return None


def _is_accepted(app: AppRegistration, credential: AppCredential, actor: User | None) -> bool:
    try:
        credential_checks.verify(app, actor=actor, credential=credential)
    except MicrosoftRefused as refused:
        logger.info("certificate %s is listed but not accepted yet: %s", credential.pk, refused.verdict.code)
        return False
    return True


# --- Which is which -------------------------------------------------------------------------------


def match(credential: AppCredential, listing: CredentialList) -> ListedCredential | None:
    """The entry of Entra's list that is this credential; None if there is none, or several it could be.

    Entra shows three characters of a secret, so two secrets can look alike: then the date somebody typed decides,
    or that an accepted secret cannot be one that has expired.
    """
    if credential.kind == AppCredential.Kind.CERTIFICATE:
        facts = certificates.read_details(credential.certificate)
        return next(
            (
                certificate
                for certificate in listing.certificates
                if certificate.thumbprints & {facts.sha1, facts.sha256}
            ),
            None,
        )
    alike = [listed for listed in listing.secrets if listed.hint and listed.hint == credential.hint]
    return (
        _one(alike) or _one([listed for listed in alike if _same_day(listed, credential)]) or _living(alike, credential)
    )


def _one(listed: Sequence[ListedCredential]) -> ListedCredential | None:
    return listed[0] if listed and len({one.expires_at for one in listed}) == 1 else None


def _same_day(listed: ListedCredential, credential: AppCredential) -> bool:
    return credential.expires_at is not None and abs(listed.expires_at - credential.expires_at) < timedelta(days=1)


def _living(alike: Sequence[ListedCredential], credential: AppCredential) -> ListedCredential | None:
    accepted_at = credential.verified_at if credential.rejected_at is None else None
    return _one([listed for listed in alike if listed.expires_at > accepted_at]) if accepted_at else None


def _is_gone(credential: AppCredential, listing: CredentialList, now: datetime) -> bool:
    if credential_checks.awaits_upload(credential) or credential.created_at > now - SETTLED_AFTER:
        return False
    if credential.kind == AppCredential.Kind.CERTIFICATE:
        return all(listed.thumbprints for listed in listing.certificates)
    return all(listed.hint and listed.hint != credential.hint for listed in listing.secrets)


# --- Writing it down ------------------------------------------------------------------------------


def _confirm(credential: AppCredential, listed: ListedCredential, *, actor: User | None, now: datetime) -> None:
    before = credential.expires_at
    values: dict[str, object] = {"expires_at": listed.expires_at, "expiry_read_at": now, "unlisted_at": None}
    if before is None or listed.expires_at > before:
        values["warned_days"] = None  # its end has moved away: warn anew when it comes near
    with transaction.atomic():
        AppCredential.objects.filter(pk=credential.pk).update(**values)
        if before != listed.expires_at:
            change = [before.isoformat() if before else None, listed.expires_at.isoformat()]
            audit.record(AuditAction.CREDENTIAL_EXPIRY_READ, credential, actor=actor, changes={"expires_at": change})
    for name, value in values.items():
        setattr(credential, name, value)


def _note_unlisted(credential: AppCredential, *, actor: User | None, now: datetime) -> None:
    with transaction.atomic():
        if AppCredential.objects.filter(pk=credential.pk, unlisted_at=None).update(unlisted_at=now):
            facts = {"app_registration": str(credential.app_registration)}
            audit.record(AuditAction.CREDENTIAL_UNLISTED, credential, actor=actor, changes=facts)
            credential.unlisted_at = now
