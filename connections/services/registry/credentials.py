"""Add and retire app registrations' client secrets and certificates. Stored secrets are never shown again."""

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
    """A client secret to store. ``expires_at`` is the date that Entra shows, in UTC."""

    value: str = field(repr=False)
    expires_at: datetime | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A certificate to store. ``at_microsoft`` says whether its public part has been uploaded to Entra."""

    pair: certificates.CertificateWithKey
    label: str = ""
    at_microsoft: bool = True


NewCredential = NewSecret | NewCertificate


def credential_from_form(values: dict[str, Any], *, name: str) -> NewCredential:
    """Return the credential in a form's cleaned data (forms/credentials.py). Generated certificates get ``name``."""
    if values["kind"] == "secret":
        return NewSecret(values["secret"], values["expires_at"], values["label"])
    if values["kind"] == "upload":
        return NewCertificate(values["pair"], values["label"])
    pair = certificates.generate(name, months=values["months"], now=timezone.now())
    return NewCertificate(pair, values["label"], at_microsoft=False)


def add_secret(
    app_registration: AppRegistration,
    *,
    value: str,
    expires_at: datetime | None,
    actor: User | None,
    label: str = "",
    allow_untried: bool = False,
) -> AppCredential:
    return add(app_registration, NewSecret(value, expires_at, label), actor=actor, allow_untried=allow_untried)


def next_certificate(app_registration: AppRegistration, *, actor: User) -> AppCredential:
    """Return the certificate to upload next, generating it if necessary. Once accepted, it is tried first."""
    live = app_registration.credentials.live().defer("secret", "private_key")
    waiting = next((credential for credential in live if credential_checks.awaits_upload(credential)), None)
    return waiting or add_generated_certificate(app_registration, actor=actor)


def add_generated_certificate(
    app_registration: AppRegistration, *, actor: User | None, months: int = DEFAULT_MONTHS, label: str = ""
) -> AppCredential:
    """Generate a key and a certificate valid for ``months``, to be used once its public part is uploaded to Entra.

    The private key never leaves the database. Raises InvalidInput if ``months`` is out of range.
    """
    new = credential_from_form({"kind": "generate", "months": months, "label": label}, name=app_registration.name)
    return add(app_registration, new, actor=actor)


def add(
    app_registration: AppRegistration,
    new: NewCredential,
    *,
    actor: User | None,
    allow_untried: bool = False,
    accepted: bool | None = None,
) -> AppCredential:
    """Test a credential at Microsoft, then store it. If it is accepted, a rejected registration works again.

    Raises MicrosoftRefused or MicrosoftUnavailable and stores nothing; with ``allow_untried`` it is stored untested if
    Microsoft is unavailable. ``accepted`` is the result of is_accepted if the caller has already called it.
    """
    if accepted is None:
        accepted = is_accepted(app_registration, new, allow_untried=allow_untried)
    now = timezone.now()
    with transaction.atomic():
        credential = store(app_registration, new, actor=actor, verified_at=now if accepted else None)
        if accepted:
            credential_checks.restore_app(app_registration, now=now, actor=actor)
    return credential


def is_accepted(app_registration: AppRegistration, new: NewCredential, *, allow_untried: bool) -> bool:
    """Whether Microsoft accepts the credential; False if it was not tested. Raises the same errors as ``add``."""
    if isinstance(new, NewSecret):
        credential: token_endpoint.Credential = token_endpoint.ClientSecret(new.value)
    elif new.at_microsoft:
        credential = token_endpoint.ClientCertificate(new.pair.private_key, new.pair.thumbprint)
    else:
        return False
    try:
        credential_checks.check_credential(app_registration, credential)
    except MicrosoftUnavailable:
        if not allow_untried:
            raise
        return False
    return True


def store(
    app_registration: AppRegistration, new: NewCredential, *, actor: User | None, verified_at: datetime | None
) -> AppCredential:
    """Save the credential and its audit event, in the caller's transaction."""
    columns: dict[str, object]
    if isinstance(new, NewSecret):
        columns = {"kind": AppCredential.Kind.SECRET, "secret": new.value, "hint": new.value[:3]}
        expires_at = new.expires_at
    else:
        columns = {
            "kind": AppCredential.Kind.CERTIFICATE,
            "private_key": new.pair.private_key,
            "certificate": new.pair.certificate,
            "thumbprint": new.pair.thumbprint,
        }
        expires_at = new.pair.expires_at
    credential = AppCredential.objects.create(
        app_registration=app_registration,
        label=new.label,
        created_by=actor,
        verified_at=verified_at,
        expires_at=expires_at,
        **columns,
    )
    changes = {
        "app_registration": str(app_registration),
        "kind": credential.kind,
        "expires_at": expires_at.isoformat() if expires_at else None,
        "accepted": verified_at is not None,
    }
    audit.record(AuditAction.CREDENTIAL_ADDED, credential, actor=actor, changes=changes)
    AppRegistration.objects.filter(pk=app_registration.pk).update(read_expiries_after=None)
    return credential


def retire(credential: AppCredential, *, actor: User | None) -> None:
    """Stop using the credential, even the last one; delete its secret part but keep the row. Safe to repeat."""
    with transaction.atomic():
        unretired = AppCredential.objects.filter(pk=credential.pk, retired_at=None)
        if not unretired.update(retired_at=timezone.now(), secret=None, private_key=None):
            return
        changes = {"app_registration": str(credential.app_registration)}
        audit.record(AuditAction.CREDENTIAL_RETIRED, credential, actor=actor, changes=changes)
    credential.refresh_from_db(fields=["retired_at", "secret", "private_key"])
