"""What Microsoft thinks of an app registration: its credentials tried, rejected, healed.

A rejected registration is one trouble, not one per connection: its connections wait and none of them is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from connections import audit
from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable, UnreadableSecret
from connections.microsoft import clouds, credential_probe, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents

CANARY_DELAY = timedelta(seconds=60)
RECOVERY_WITHIN = timedelta(seconds=60)
RECOVERY_AT_ONCE = 25  # connections in each slot of the recovery, at least
RECOVERY_SLOTS = 20
RECOVERY_BATCH = 1000  # rows in one statement
_NO_REJECTION = {"rejected_at": None, "rejected_code": "", "rejected_cause": "", "rejected_action": ""}


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """How Microsoft answered to one credential: accepted (``verdict`` None) with these roles, or not."""

    credential: AppCredential
    roles: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def inconclusive(self) -> bool:
        """Whether Microsoft could not be asked; it says nothing about the credential."""
        return self.verdict is not None and self.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED)


# --- Who asks -------------------------------------------------------------------------------------


def build_application(
    app_registration: AppRegistration, credential: token_endpoint.Credential
) -> token_endpoint.Application:
    """The registration with one credential, as the token client wants it; the registration may be unsaved.

    Raises InvalidInput if the tenant's environment is not configured (any more).
    """
    tenant = app_registration.tenant
    if tenant.environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{tenant.environment}” of the tenant {tenant} is not configured in this portal.",
            action="An operator must configure it again, or an IT admin must register the tenant anew.",
            field="tenant",
        )
    directory = tenant.directory_id if tenant.is_shared_endpoint else tenant.tid or tenant.directory_id
    return token_endpoint.Application(
        clouds.cloud(tenant.environment), directory, app_registration.client_id, credential
    )


def decrypt_credential(credential: AppCredential) -> token_endpoint.Credential:
    """The stored credential, decrypted. Raises UnreadableSecret if there is nothing to decrypt."""
    if credential.kind == AppCredential.Kind.CERTIFICATE and credential.private_key:
        return token_endpoint.ClientCertificate(credential.private_key, credential.thumbprint)
    if credential.kind == AppCredential.Kind.SECRET and credential.secret:
        return token_endpoint.ClientSecret(credential.secret)
    raise UnreadableSecret


def live_applications(app_registration: AppRegistration) -> list[tuple[AppCredential, token_endpoint.Application]]:
    """The live credentials in order of trial, each with what the token client needs; [] if there is none.

    One that no configured key opens is passed over while another one opens. Raises UnreadableSecret if none does.
    """
    found: list[tuple[AppCredential, token_endpoint.Application]] = []
    unreadable: UnreadableSecret | None = None
    # Opened one by one: a single query over the encrypted columns would fail for all of them.
    for credential in in_trial_order(app_registration.credentials.live().defer("secret", "private_key")):
        try:
            found.append((credential, build_application(app_registration, decrypt_credential(credential))))
        except UnreadableSecret as error:
            unreadable = error
    if unreadable is not None and not found:
        raise unreadable
    return found


def in_trial_order(credentials: Iterable[AppCredential]) -> list[AppCredential]:
    """Accepted before rejected, newest first. A certificate Microsoft may not have been told of comes last."""
    return sorted(credentials, key=lambda found: (found.rejected_at is not None, awaits_upload(found)))


def awaits_upload(credential: AppCredential) -> bool:
    """Whether it is a certificate that was never tried: its public part may not have been uploaded to Entra yet."""
    return (
        credential.kind == AppCredential.Kind.CERTIFICATE
        and credential.verified_at is None
        and credential.rejected_at is None
    )


def app_only_token(app: AppRegistration, *, now: datetime) -> token_endpoint.TokenSet | None:
    """An app-only token with the first credential that Microsoft accepts; None if it has none for the application."""
    for credential, application in live_applications(app):
        try:
            return token_endpoint.request_app_only_token(application)
        except MicrosoftUnavailable:
            raise
        except MicrosoftRefused as error:
            if not error.verdict.credential:
                return None  # not installed, no consent: the sweep finds out what that means for connections
            credential_refused(credential, error.verdict, now=now)
    return None


# --- Trying ---------------------------------------------------------------------------------------


def check_credential(app_registration: AppRegistration, credential: token_endpoint.Credential) -> tuple[str, ...]:
    """Try one credential at Microsoft and return the roles its token carries (maybe none). Stores nothing.

    Raises MicrosoftUnavailable if Microsoft could not be asked, MicrosoftRefused (with ``field``: credential,
    client_id or tenant) if it said no. Never call it inside a transaction.
    """
    answer = _try_out(app_registration, credential)
    if isinstance(answer, Verdict):
        raise refusal_error(answer)
    return answer


def refusal_error(verdict: Verdict) -> MicrosoftRefused:
    """The verdict on a credential as an exception, with what the admin should do about it."""
    if verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        return MicrosoftUnavailable(verdict)
    error = MicrosoftRefused(verdict)
    advice = credential_probe.advice(verdict)
    error.cause, error.action, error.field = f"{advice.cause} ({verdict.code})", advice.action, advice.entry
    return error


def verify(
    app_registration: AppRegistration, *, actor: User | None, credential: AppCredential | None = None
) -> list[CredentialCheck]:
    """Try every live credential (or only ``credential``) at Microsoft now and record what it said.

    Certificates still waiting to be uploaded are left alone unless named or alone. One accepted credential heals
    the registration; the registration is rejected only if all of them were refused. Returns the trials, the
    accepted among them. Raises InvalidInput without a live credential, MicrosoftRefused if none was accepted,
    MicrosoftUnavailable if that could not be told, UnreadableSecret.
    """
    live = in_trial_order(app_registration.credentials.live())
    chosen = [found for found in live if credential is None or found.pk == credential.pk]
    if credential is None:
        chosen = [found for found in chosen if not awaits_upload(found)] or chosen
    if not chosen:
        raise InvalidInput(
            "There is no credential to try.", action="Add a client secret or a certificate.", field="credential"
        )
    trials = [_trial(found, _try_out(app_registration, decrypt_credential(found))) for found in chosen]
    now = timezone.now()
    with transaction.atomic():
        for tried in trials:
            _record_trial(tried, actor=actor, now=now)
        _conclude(app_registration, trials, complete=len(chosen) == len(live), actor=actor, now=now)
    if not any(tried.verdict is None for tried in trials):
        raise refusal_error(_decisive(trials))
    return trials


def _try_out(app_registration: AppRegistration, credential: token_endpoint.Credential) -> tuple[str, ...] | Verdict:
    return credential_probe.probe(
        build_application(app_registration, credential),
        shared=app_registration.tenant.is_shared_endpoint,
        multitenant=app_registration.audience == AppRegistration.Audience.MULTI,
    )


def _trial(credential: AppCredential, answer: tuple[str, ...] | Verdict) -> CredentialCheck:
    return (
        CredentialCheck(credential, verdict=answer)
        if isinstance(answer, Verdict)
        else CredentialCheck(credential, roles=answer)
    )


def _decisive(trials: list[CredentialCheck]) -> Verdict:
    """The verdict to tell: a clear no before an outage, the first credential's before the next one's."""
    verdicts = [tried for tried in trials if tried.verdict is not None]
    first = min(verdicts, key=lambda tried: tried.inconclusive)
    assert first.verdict is not None  # noqa: S101 - filtered above
    return first.verdict


def _conclude(
    app_registration: AppRegistration,
    trials: list[CredentialCheck],
    *,
    complete: bool,
    actor: User | None,
    now: datetime,
) -> None:
    """Heal or reject the registration by what its credentials' trials say, and write the trail."""
    accepted = [tried for tried in trials if tried.verdict is None]
    verdict = None if accepted else _decisive(trials)
    audit.record(
        AuditAction.APP_REGISTRATION_VERIFIED,
        app_registration,
        actor=actor,
        outcome=AuditEvent.Outcome.DONE if accepted else AuditEvent.Outcome.FAILED,
        changes={
            "accepted": audit.join_values(tried.credential for tried in accepted),
            "code": verdict.code if verdict else "",
        },
    )
    if accepted:
        restore_app(app_registration, now=now, actor=actor)
        AppRegistration.objects.filter(pk=app_registration.pk).update(verified_at=now)
        app_registration.verified_at = now
    elif verdict is not None and complete and not any(tried.inconclusive for tried in trials):
        reject_app(app_registration, verdict, now=now, actor=actor)


def _record_trial(tried: CredentialCheck, *, actor: User | None, now: datetime) -> None:
    if tried.verdict is None:
        credential_accepted(tried.credential, now=now)
    elif tried.verdict.credential and not tried.inconclusive:
        credential_refused(tried.credential, tried.verdict, now=now, actor=actor)


# --- Recording ------------------------------------------------------------------------------------


def credential_accepted(credential: AppCredential, *, now: datetime) -> None:
    """Microsoft accepted this credential; any earlier rejection of it is over."""
    credential.verified_at, credential.rejected_at, credential.rejected_code = now, None, ""
    credential.save(update_fields=["verified_at", "rejected_at", "rejected_code"])


def credential_refused(
    credential: AppCredential, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Microsoft rejected this credential. The first time is kept and audited; later ones change nothing."""
    with transaction.atomic():
        first = AppCredential.objects.filter(pk=credential.pk, rejected_at=None).update(
            rejected_at=now, rejected_code=verdict.code
        )
        if not first:
            return
        credential.rejected_at, credential.rejected_code = now, verdict.code
        facts = {"app_registration": str(credential.app_registration), "code": verdict.code}
        audit.record(AuditAction.CREDENTIAL_REJECTED, credential, actor=actor, changes=facts)


def reject_app(
    app_registration: AppRegistration, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> bool:
    """Microsoft rejects the registration: its connections wait, and one canary call a minute later looks again.

    ``rejected_at`` stays that of the first rejection, which alone is audited. Returns whether this was the first.
    """
    said = {
        "rejected_code": verdict.code,
        "rejected_cause": verdict.cause,
        "rejected_action": verdict.action,
        "canary_after": now + CANARY_DELAY,
    }
    with transaction.atomic():
        this = AppRegistration.objects.filter(pk=app_registration.pk)
        first = bool(this.filter(rejected_at=None).update(rejected_at=now, **said))
        if first:
            facts = {"code": verdict.code, "cause": verdict.cause}
            audit.record(AuditAction.APP_REGISTRATION_REJECTED, app_registration, actor=actor, changes=facts)
            incidents.app_rejected(app_registration, verdict, now=now)
        else:
            this.update(**said)
    app_registration.refresh_from_db(fields=["rejected_at", *said])
    return first


def restore_app(app_registration: AppRegistration, *, now: datetime, actor: User | None = None) -> bool:
    """Microsoft accepts the registration again (or for the first time): its connections go on by themselves.

    Audited once; a registration in good standing is left as it is. Returns whether anything changed.
    """
    with transaction.atomic():
        this = AppRegistration.objects.filter(pk=app_registration.pk)
        was_rejected = this.exclude(rejected_at=None).update(**_NO_REJECTION, canary_after=None, verified_at=now)
        changed = was_rejected or this.filter(verified_at=None).update(verified_at=now)
        if was_rejected:
            audit.record(AuditAction.APP_REGISTRATION_HEALED, app_registration, actor=actor)
            _spread_waiting(app_registration, now)
            incidents.app_accepted(app_registration, now=now)
    if changed:
        app_registration.refresh_from_db(fields=[*_NO_REJECTION, "canary_after", "verified_at"])
    return bool(changed)


def _spread_waiting(app_registration: AppRegistration, now: datetime) -> None:
    """All connections waited for the same moment: give the first ones it now, and the others soon, a slot each.

    About ten a second, and all within a minute: healthy again fast, and no herd at Microsoft.
    """
    waiting = app_registration.connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
    pks = list(waiting.order_by("pk").values_list("pk", flat=True))
    slots = min(RECOVERY_SLOTS, len(pks) // RECOVERY_AT_ONCE)
    for slot in range(1, slots):
        share = pks[slot::slots]
        for start in range(0, len(share), RECOVERY_BATCH):
            some = Connection.objects.filter(pk__in=share[start : start + RECOVERY_BATCH])
            some.update(refresh_after=now + RECOVERY_WITHIN * slot / slots)
