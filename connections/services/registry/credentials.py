"""Client secrets and certificates of app registrations. Write-only: nothing here ever gives one back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from connections import audit
from connections.errors import MicrosoftUnavailable
from connections.microsoft import certificates, token_endpoint
from connections.models import AppCredential, AppRegistration, User
from connections.models.audit import AuditAction
from connections.services.registry import credential_checks

DEFAULT_MONTHS = 12


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A client secret to be stored. ``expires_at`` is what Entra says, UTC."""

    value: str = field(repr=False)
    expires_at: datetime | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A certificate to be stored. ``at_microsoft``: its public part has been uploaded to Entra already."""

    pair: certificates.CertificateWithKey
    label: str = ""
    at_microsoft: bool = True


NewCredential = NewSecret | NewCertificate


def credential_from_form(said: dict[str, Any], *, name: str) -> NewCredential:
    """The credential that valid entries (forms/credentials.py) ask for; ``name`` is the application's, for a certificate made here."""
    if said["kind"] == "secret":
        return NewSecret(said["secret"], said["expires_at"], said["label"])
    if said["kind"] == "upload":
        return NewCertificate(said["pair"], said["label"])
    pair = certificates.generate(name, months=said["months"], now=timezone.now())
    return NewCertificate(pair, said["label"], at_microsoft=False)


# --- Adding ---------------------------------------------------------------------------------------


def add_secret(
    app_registration: AppRegistration,
    *,
    value: str,
    expires_at: datetime | None,
    actor: User | None,
    label: str = "",
    allow_untried: bool = False,
) -> AppCredential:
    """Try a client secret at Microsoft, store it, and heal the registration. Raises as ``add`` does."""
    return add(app_registration, NewSecret(value, expires_at, label), actor=actor, allow_untried=allow_untried)


def next_certificate(app_registration: AppRegistration, *, actor: User) -> AppCredential:
    """Make the next certificate ahead of time; what is in use stays in use. Doing it twice gives the same one.

    It waits, and is tried last, until its public part is in Entra and Microsoft has accepted it; then it comes first.
    """
    live = app_registration.credentials.live().defer("secret", "private_key")
    waiting = next((credential for credential in live if credential_checks.awaits_upload(credential)), None)
    return waiting or add_generated_certificate(app_registration, actor=actor)


def add_generated_certificate(
    app_registration: AppRegistration, *, actor: User | None, months: int = DEFAULT_MONTHS, label: str = ""
) -> AppCredential:
    """Make a key and a certificate valid for ``months``; it waits until its public part is uploaded to Entra.

    The private key never leaves the database. Raises InvalidInput for months out of range.
    """
    new = credential_from_form({"kind": "generate", "months": months, "label": label}, name=app_registration.name)
    return add(app_registration, new, actor=actor)


def add_uploaded_certificate(
    app_registration: AppRegistration,
    *,
    pair: certificates.CertificateWithKey,
    actor: User | None,
    label: str = "",
    allow_untried: bool = False,
) -> AppCredential:
    """Try an uploaded certificate at Microsoft, store it, and heal the registration. Raises as ``add`` does."""
    return add(app_registration, NewCertificate(pair, label), actor=actor, allow_untried=allow_untried)


def add(
    app_registration: AppRegistration,
    new: NewCredential,
    *,
    actor: User | None,
    allow_untried: bool = False,
    accepted: bool | None = None,
) -> AppCredential:
    """Try a credential at Microsoft, then store it; being accepted heals the registration.

    Raises MicrosoftRefused (nothing stored) if Microsoft says no, and MicrosoftUnavailable if it cannot be asked,
    unless ``allow_untried`` is set: then it is stored as not tried yet. ``accepted``: what ``try_first`` has said, for
    a caller that has asked already.
    """
    if accepted is None:
        accepted = is_accepted(app_registration, new, allow_untried=allow_untried)
    now = timezone.now()
    with transaction.atomic():
        stored = store(app_registration, new, actor=actor, verified_at=now if accepted else None)
        if accepted:
            credential_checks.restore_app(app_registration, now=now, actor=actor)
    return stored


def is_accepted(app_registration: AppRegistration, new: NewCredential, *, allow_untried: bool) -> bool:
    """Whether Microsoft accepts the credential; False if it was not tried. Raises as ``add`` does."""
    if isinstance(new, NewCertificate) and not new.at_microsoft:
        return False
    try:
        credential_checks.check_credential(app_registration, _opened(new))
    except MicrosoftUnavailable:
        if not allow_untried:
            raise
        return False
    return True


def store(
    app_registration: AppRegistration, new: NewCredential, *, actor: User | None, verified_at: datetime | None
) -> AppCredential:
    """Write the credential and its audit row, inside the caller's transaction."""
    stored = AppCredential.objects.create(
        app_registration=app_registration,
        label=new.label,
        created_by=actor,
        verified_at=verified_at,
        **_columns(new),
    )
    facts = {
        "app_registration": str(app_registration),
        "kind": stored.kind,
        "expires_at": stored.expires_at.isoformat() if stored.expires_at else None,
        "accepted": verified_at is not None,
    }
    audit.record(AuditAction.CREDENTIAL_ADDED, stored, actor=actor, changes=facts)
    AppRegistration.objects.filter(pk=app_registration.pk).update(read_expiries_after=None)
    return stored


def _columns(new: NewCredential) -> dict[str, object]:
    if isinstance(new, NewSecret):
        return {
            "kind": AppCredential.Kind.SECRET,
            "secret": new.value,
            "hint": new.value[:3],
            "expires_at": new.expires_at,
        }
    return {
        "kind": AppCredential.Kind.CERTIFICATE,
        "private_key": new.pair.private_key,
        "certificate": new.pair.certificate,
        "thumbprint": new.pair.thumbprint,
        "expires_at": new.pair.expires_at,
    }


def _opened(new: NewCredential) -> token_endpoint.Credential:
    if isinstance(new, NewSecret):
        return token_endpoint.ClientSecret(new.value)
    return token_endpoint.ClientCertificate(new.pair.private_key, new.pair.thumbprint)


# --- Retiring -------------------------------------------------------------------------------------


def retire(credential: AppCredential, *, actor: User | None) -> None:
    """Never use this credential again and forget its secret part; the row stays for the record.

    Retiring it twice changes nothing. Retiring the last one leaves connections without a way to refresh: the page
    says so before.
    """
    with transaction.atomic():
        retired = AppCredential.objects.filter(pk=credential.pk, retired_at=None).update(
            retired_at=timezone.now(), secret=None, private_key=None
        )
        if not retired:
            return
        facts = {"app_registration": str(credential.app_registration)}
        audit.record(AuditAction.CREDENTIAL_RETIRED, credential, actor=actor, changes=facts)
    credential.refresh_from_db(fields=["retired_at", "secret", "private_key"])
