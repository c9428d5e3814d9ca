"""The steps of renewing a secret or certificate. Each can be repeated after a failure at any point.

Steps: add → store → try → use → remove. Before we send anything, we store what identifies the new credential at
Microsoft. The old credential stays until the new one has worked. Each step returns the next one, or raises
MicrosoftRefused, MicrosoftUnavailable or RenewalImpossible.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from connections.errors import MicrosoftRefused, MicrosoftUnavailable, PortalError
from connections.microsoft import application_credentials, clouds, credential_expiry, token_endpoint
from connections.microsoft.application_credentials import Caller
from connections.microsoft.classifier import Verdict
from connections.microsoft.credential_expiry import CredentialList
from connections.models import AppCredential, AppRegistration, CredentialRenewal
from connections.models.columns import set_columns
from connections.services.expiry import credential_expiry as recorded
from connections.services.registry import credential_checks, credentials

Step = CredentialRenewal.Step
RETRY = timedelta(seconds=30)  # between two attempts, until Microsoft accepts the new credential
SEND_AGAIN = timedelta(minutes=10)  # after a certificate was sent, it may still appear at Microsoft within this time
TRY_FOR = timedelta(hours=2)  # how long Microsoft may take to accept the new credential
SETTLE = timedelta(hours=1)  # the old credential stays for this long while the new one is in use
SECRET_LIFETIME = timedelta(days=180)
LOST = "The claim of this renewal has expired and another worker has it."


class RenewalImpossible(PortalError):
    """This renewal cannot succeed until someone changes something."""

    code = "renewal_impossible"


class ClaimLost(Exception):
    """Another worker has taken the renewal over."""


@dataclass(frozen=True, slots=True)
class Next:
    """The next step of a renewal, and how long to wait before it."""

    step: Step
    wait: timedelta = timedelta(0)


def write(renewal: CredentialRenewal, **values: object) -> None:
    """Update the renewal, if this worker still holds its claim. Raises ClaimLost."""
    held = CredentialRenewal.objects.filter(pk=renewal.pk, step=renewal.step, due_at=renewal.due_at, finished_at=None)
    if not held.update(**values):
        raise ClaimLost(LOST)
    set_columns(renewal, values)


def add_certificate(renewal: CredentialRenewal, now: datetime) -> Next:
    """Send the new certificate, whose key pair is already stored, to Microsoft, unless Microsoft has it."""
    new = _stored(renewal)
    if renewal.sent_at is not None:
        if is_accepted(new):
            return Next(Step.TRY)
        if now < renewal.sent_at + SEND_AGAIN:
            return Next(Step.ADD, RETRY)
    caller, listing = _caller(renewal.app_registration, now)
    if listing is None or not (listed := recorded.match(new, listing)):
        write(renewal, sent_at=now)
        key_id = application_credentials.add_key(caller, new.certificate, signed_proof=_proof(renewal.old, caller))
    else:
        key_id = listed.key_id
    _require_new_key_id(renewal, key_id)
    AppCredential.objects.filter(pk=new.pk).update(key_id=key_id[:36])
    return Next(Step.TRY)


def add_secret(renewal: CredentialRenewal, now: datetime) -> Next:
    """Let Microsoft create the new secret, and store it at once.

    First removes a secret that an interrupted attempt created but could not store, because nobody knows its value.
    """
    caller, listing = _caller(renewal.app_registration, now, needs_listing=True)
    _remove_unknown_secrets(renewal, caller, listing)
    write(renewal, sent_at=now)
    expires_at = now + SECRET_LIFETIME
    issued = application_credentials.add_password(caller, name=_name(renewal), expires_at=expires_at)
    _require_new_key_id(renewal, issued.key_id)
    try:
        with transaction.atomic():
            secret = credentials.NewSecret(issued.value, issued.expires_at, renewal.old.label)
            app = renewal.app_registration
            new = credentials.store(app, secret, actor=None, verified_at=None, now=now, key_id=issued.key_id)
            # Change both in one transaction: in the step ADD, a secret that is not stored would be removed as a
            # leftover.
            write(renewal, new=new, step=Step.TRY, step_started_at=now)
    except BaseException:
        application_credentials.remove_password(caller, issued.key_id)
        raise
    return Next(Step.TRY)


def _require_new_key_id(renewal: CredentialRenewal, key_id: str) -> None:
    """Raise RenewalImpossible if another credential has this ID, because undoing the renewal would remove that one."""
    others = renewal.app_registration.credentials.filter(~Q(pk=renewal.new_id))
    if key_id and others.filter(key_id=key_id[:36]).exists():
        raise RenewalImpossible(
            "Microsoft's response contains the key ID of another credential.",
            action="Look in Entra whether a new credential is listed, and delete it.",
        )


def try_new(renewal: CredentialRenewal, now: datetime) -> Next:
    """Wait until Microsoft accepts the new credential. From then on it is used first."""
    new = _stored(renewal)
    if new.retired_at is not None:
        raise RenewalImpossible("The new credential was retired before Microsoft accepted it.")
    verdict = _test(new)
    if verdict is None:
        credential_checks.credential_accepted(new, now=now)
        return Next(Step.SETTLE, SETTLE)
    if now >= renewal.step_started_at + TRY_FOR:
        raise MicrosoftRefused(verdict)
    return Next(Step.TRY, RETRY)


def settle(renewal: CredentialRenewal, now: datetime) -> Next:
    """Test the new credential once more before the old one is removed."""
    new = _stored(renewal)
    verdict = _test(new) if new.retired_at is None else None
    if new.retired_at is not None:
        raise RenewalImpossible("The new credential was retired.")
    if verdict is None:
        return Next(Step.REMOVE)
    if now >= renewal.step_started_at + SETTLE + TRY_FOR:
        raise MicrosoftRefused(verdict)
    return Next(Step.SETTLE, RETRY)


def remove_old(renewal: CredentialRenewal, now: datetime) -> str:
    """Remove the old credential at Microsoft, and retire it here. Returns what is left to do by hand, or "".

    The request is made with the new credential, so that nothing is removed unless the new one works.
    """
    new, old = _stored(renewal), renewal.old
    caller, listing = _caller(renewal.app_registration, now, credential=new)
    key_id = old.key_id or _find_key_id(old, listing)
    left = f"Delete the old {old.get_kind_display().lower()} in Entra." if not key_id else ""
    if key_id:
        _remove(old, key_id, caller, prover=new)
    credentials.retire(old, actor=None)
    return left


def undo(renewal: CredentialRenewal, now: datetime) -> str:
    """Remove the new credential at Microsoft, and retire it here. Returns what is left to do by hand, or ""."""
    new, left = renewal.new, ""
    if renewal.sent_at is not None:
        caller, listing = _caller(renewal.app_registration, now, credential=renewal.old)
        if new is None:
            _remove_unknown_secrets(renewal, caller, listing)
        elif new is not None and (key_id := new.key_id or _find_key_id(new, listing)):
            _remove(new, key_id, caller, prover=renewal.old)
        elif new is not None and listing is None:
            left = f"Delete the certificate {new.thumbprint[:8]} in Entra if it's listed there."
    if new is not None:
        credentials.retire(new, actor=None)
    return left


def _stored(renewal: CredentialRenewal) -> AppCredential:
    if renewal.new is None:
        raise RenewalImpossible("The new credential is missing.")
    return renewal.new


def is_accepted(credential: AppCredential) -> bool:
    return _test(credential) is None


def _test(credential: AppCredential) -> Verdict | None:
    """Return the verdict with which Microsoft rejects the credential, or None if it is accepted.

    Raises MicrosoftUnavailable during an outage, because nothing is known then.
    """
    result = credential_checks.probe(credential.app_registration, credential_checks.decrypt_credential(credential))
    if not isinstance(result, Verdict):
        return None
    if isinstance(error := credential_checks.refusal_error(result), MicrosoftUnavailable):
        raise error
    return result


def _caller(
    app: AppRegistration, now: datetime, *, credential: AppCredential | None = None, needs_listing: bool = False
) -> tuple[Caller, CredentialList | None]:
    """Return the application as a caller of Graph, and Entra's list of its credentials if it may read that list."""
    if credential is None:
        token = credential_checks.request_app_only_token(app, now=now)
    else:
        application = credential_checks.build_application(app, credential_checks.decrypt_credential(credential))
        token = token_endpoint.request_app_only_token(application)
    cloud = clouds.cloud(app.tenant.environment)
    listing = recorded.read_listing(app, token) if credential_expiry.may_read_itself(token.granted) else None
    if listing is None and needs_listing:
        raise RenewalImpossible(
            "The application isn't allowed to change its own client secrets.",
            action="In Entra, grant it Application.ReadWrite.OwnedBy and make its service principal an owner of the "
            "application.",
        )
    object_id = listing.object_id if listing is not None else app.object_id
    if not object_id:
        raise RenewalImpossible(
            "The application's object ID isn't known, and the application isn't allowed to read it.",
            action="Enter the object ID on the app registration's Edit page.",
        )
    if object_id != app.object_id:
        AppRegistration.objects.filter(pk=app.pk).update(object_id=object_id)
    return Caller(cloud, token.access_token, object_id), listing


def _proof(prover: AppCredential, caller: Caller) -> str:
    opened = credential_checks.decrypt_credential(prover)
    if not isinstance(opened, token_endpoint.ClientCertificate):
        raise RenewalImpossible("Only a certificate can prove that the application may change its certificates.")
    return application_credentials.proof(opened.private_key, prover.certificate, caller.object_id)


def _remove(credential: AppCredential, key_id: str, caller: Caller, *, prover: AppCredential) -> None:
    if credential.kind == AppCredential.Kind.SECRET:
        application_credentials.remove_password(caller, key_id)
    else:
        application_credentials.remove_key(caller, key_id, signed_proof=_proof(prover, caller))


def _name(renewal: CredentialRenewal) -> str:
    """Return the display name of the new secret in Entra, which is unique."""
    return f"Connection portal {renewal.reference}"


def _remove_unknown_secrets(renewal: CredentialRenewal, caller: Caller, listing: CredentialList | None) -> None:
    for listed in listing.secrets if listing is not None else ():
        if listed.name == _name(renewal) and listed.key_id:
            application_credentials.remove_password(caller, listed.key_id)


def _find_key_id(credential: AppCredential, listing: CredentialList | None) -> str:
    listed = recorded.match(credential, listing) if listing is not None else None
    return listed.key_id if listed is not None else ""
