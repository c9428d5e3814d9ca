"""Add and retire app registrations' credentials. Stored secrets are never shown again."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from connections import audit
from connections.errors import InvalidInput, MicrosoftUnavailable
from connections.microsoft import certificates, token_endpoint
from connections.models import AppCredential, AppRegistration, Tenant, User
from connections.models.audit import AuditAction
from connections.services.registry import credential_checks, issuer

DEFAULT_MONTHS = 12
# Kinds of federated credentials, as forms and the API name them.
FEDERATED_KINDS = {"federated": AppCredential.Source.PORTAL, "token_file": AppCredential.Source.FILE}


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A client secret to store. ``expires_at`` is the date that Entra shows, in UTC."""

    value: str = field(repr=False)
    expires_at: datetime | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A certificate to store. ``at_microsoft`` is True if its public part has been uploaded to Entra."""

    pair: certificates.CertificateWithKey
    label: str = ""
    at_microsoft: bool = True


@dataclass(frozen=True, slots=True)
class NewFederated:
    """A federated credential to add. It has no secret; its trust is set up in Entra."""

    source: str = AppCredential.Source.PORTAL
    label: str = ""


NewCredential = NewSecret | NewCertificate | NewFederated


def credential_from_form(values: dict[str, Any], *, name: str) -> NewCredential:
    """Return the credential from a form's cleaned data (forms/credentials.py).

    ``name`` is for a generated certificate.
    """
    if values["kind"] == "secret":
        return NewSecret(values["secret"], values["expires_at"], values["label"])
    if values["kind"] == "upload":
        return NewCertificate(values["pair"], values["label"])
    if values["kind"] in FEDERATED_KINDS:
        return NewFederated(FEDERATED_KINDS[values["kind"]], values["label"])
    pair = certificates.generate(name, months=values["months"], now=timezone.now())
    return NewCertificate(pair, values["label"], at_microsoft=False)


def add_federated(
    app_registration: AppRegistration,
    *,
    actor: User | None,
    source: str = AppCredential.Source.PORTAL,
    label: str = "",
    now: datetime | None = None,
) -> AppCredential:
    """Add a federated credential, which has no secret and never expires. If there is one already, returns that.

    It is not tested, because the trust in Entra needs the new subject (issuer.trust_of). Raises InvalidInput if
    Microsoft couldn't read the portal's keys, or if there is no token file.
    """
    new = NewFederated(source, label)
    check_possible(new, app_registration.tenant)
    with transaction.atomic():
        AppRegistration.objects.select_for_update(no_key=True).get(pk=app_registration.pk)
        existing = app_registration.credentials.live().defer("secret", "private_key")
        same = existing.filter(kind=AppCredential.Kind.FEDERATED, source=source).first()
        return same or store(app_registration, new, actor=actor, verified_at=None, now=now)


def check_possible(new: NewCredential, tenant: Tenant) -> None:
    """Raise InvalidInput if a federated credential could never work in this tenant's environment."""
    if not isinstance(new, NewFederated):
        return
    if new.source == AppCredential.Source.FILE:
        if not settings.FEDERATED_TOKEN_PATH:
            action = "An operator needs to set FEDERATED_TOKEN_PATH. Until then, choose another credential."
            raise InvalidInput("The portal has no token file.", action=action, field="credential")
    elif reason := issuer.unavailable_reason(tenant.environment):
        raise InvalidInput(reason, action="Choose another credential.", field="credential")


def next_certificate(app_registration: AppRegistration, *, actor: User) -> AppCredential:
    """Return the certificate to upload next, generating it if necessary.

    After Microsoft accepts it, it is used first.
    """
    certificates_only = app_registration.credentials.live().filter(kind=AppCredential.Kind.CERTIFICATE)
    live = certificates_only.defer("secret", "private_key")
    waiting = next((credential for credential in live if credential_checks.awaits_upload(credential)), None)
    return waiting or add_generated_certificate(app_registration, actor=actor)


def add_generated_certificate(
    app_registration: AppRegistration, *, actor: User | None, months: int = DEFAULT_MONTHS, label: str = ""
) -> AppCredential:
    """Generate a certificate that is valid for ``months``. Its private key never leaves the portal."""
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
    """Test a credential at Microsoft, then store it. If it is accepted, a rejected app registration works again.

    Raises InvalidInput, MicrosoftRefused or MicrosoftUnavailable, without storing anything. With ``allow_untried``, it
    is stored untested if Microsoft is unavailable. If the caller has already called ``is_accepted``, ``accepted`` is
    its result.
    """
    if isinstance(new, NewFederated):
        return add_federated(app_registration, actor=actor, source=new.source, label=new.label)
    if accepted is None:
        accepted = is_accepted(app_registration, new, allow_untried=allow_untried)
    now = timezone.now()
    with transaction.atomic():
        credential = store(app_registration, new, actor=actor, verified_at=now if accepted else None)
        if accepted:
            credential_checks.restore_app(app_registration, now=now, actor=actor)
    return credential


def is_accepted(app_registration: AppRegistration, new: NewCredential, *, allow_untried: bool) -> bool:
    """Whether Microsoft accepts the credential. False if it could not be tested. Raises the same errors as ``add``."""
    if isinstance(new, NewFederated) or (isinstance(new, NewCertificate) and not new.at_microsoft):
        return False
    try:
        credential_checks.check_credential(app_registration, to_present(new))
    except MicrosoftUnavailable:
        if not allow_untried:
            raise
        return False
    return True


def to_present(new: NewCredential) -> token_endpoint.Credential:
    """Return the credential in the form for requests to Microsoft.

    Raises InvalidInput for a federated credential, which needs a stored row.
    """
    if isinstance(new, NewFederated):
        raise InvalidInput("Add a federated credential once the app registration is here.", field="credential")
    if isinstance(new, NewSecret):
        return token_endpoint.ClientSecret(new.value)
    return token_endpoint.ClientCertificate(new.pair.private_key, new.pair.thumbprint)


def store(
    app_registration: AppRegistration,
    new: NewCredential,
    *,
    actor: User | None,
    verified_at: datetime | None,
    now: datetime | None = None,
    key_id: str = "",
) -> AppCredential:
    """Save the credential and its audit event, in the caller's transaction."""
    credential = AppCredential.objects.create(
        app_registration=app_registration,
        label=new.label,
        created_by=actor,
        verified_at=verified_at,
        key_id=key_id,
        created_at=now or timezone.now(),
        **_columns(new),
    )
    changes = {
        "app_registration": str(app_registration),
        "kind": credential.kind,
        "expires_at": credential.expires_at.isoformat() if credential.expires_at else None,
        "accepted": verified_at is not None,
    }
    audit.record(AuditAction.CREDENTIAL_ADDED, credential, actor=actor, changes=changes)
    AppRegistration.objects.filter(pk=app_registration.pk).update(read_expiries_after=None)
    return credential


def _columns(new: NewCredential) -> dict[str, Any]:
    if isinstance(new, NewFederated):
        return {"kind": AppCredential.Kind.FEDERATED, "source": new.source}
    if isinstance(new, NewSecret):
        kind = AppCredential.Kind.SECRET
        return {"kind": kind, "secret": new.value, "hint": new.value[:3], "expires_at": new.expires_at}
    return {
        "kind": AppCredential.Kind.CERTIFICATE,
        "private_key": new.pair.private_key,
        "certificate": new.pair.certificate,
        "thumbprint": new.pair.thumbprint,
        "expires_at": new.pair.expires_at,
    }


def retire(credential: AppCredential, *, actor: User | None) -> None:
    """Stop using the credential, even if it is the last one. Deletes its secret but keeps the row. Safe to repeat."""
    with transaction.atomic():
        unretired = AppCredential.objects.filter(pk=credential.pk, retired_at=None)
        if not unretired.update(retired_at=timezone.now(), secret=None, private_key=None):
            return
        changes = {"app_registration": str(credential.app_registration)}
        audit.record(AuditAction.CREDENTIAL_RETIRED, credential, actor=actor, changes=changes)
    credential.refresh_from_db(fields=["retired_at", "secret", "private_key"])
