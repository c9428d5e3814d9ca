"""Test app registrations' credentials at Microsoft, and reject or restore the registrations.

A rejected registration is one problem, not one per connection: its connections wait and keep their status.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from connections import audit
from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable, UnreadableSecret
from connections.microsoft import clouds, credential_probe, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents

CANARY_DELAY = timedelta(seconds=60)
RECOVERY_WITHIN = timedelta(seconds=60)
RECOVERY_AT_ONCE = 25  # at least this many connections in each time slot after a recovery
RECOVERY_SLOTS = 20
RECOVERY_BATCH = 1000  # rows per statement
NO_CREDENTIAL = Verdict(
    kind=Kind.APP_CONFIG,
    code="no-credential",
    cause="This app registration has no client secret or certificate, so Microsoft cannot be asked.",
    action="Add a client secret or a certificate to the app registration.",
    who=Who.IT_ADMIN,
    certain=True,
    app_wide=True,
)
_NO_REJECTION = {"rejected_at": None, "rejected_code": "", "rejected_cause": "", "rejected_action": ""}


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """The result of testing one credential. If ``verdict`` is None, it was accepted and its token has ``roles``."""

    credential: AppCredential
    roles: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def inconclusive(self) -> bool:
        """Whether Microsoft was unavailable, so that the test shows nothing about the credential."""
        return self.verdict is not None and self.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED)


def build_application(
    app_registration: AppRegistration, credential: token_endpoint.Credential
) -> token_endpoint.Application:
    """Return a (maybe unsaved) registration's client. Raises InvalidInput if its environment is not configured."""
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
    """Raises UnreadableSecret if there is nothing to decrypt."""
    if credential.kind == AppCredential.Kind.CERTIFICATE and credential.private_key:
        return token_endpoint.ClientCertificate(credential.private_key, credential.thumbprint)
    if credential.kind == AppCredential.Kind.SECRET and credential.secret:
        return token_endpoint.ClientSecret(credential.secret)
    raise UnreadableSecret


def live_applications(app_registration: AppRegistration) -> list[tuple[AppCredential, token_endpoint.Application]]:
    """Return live credentials, in the order to try them, with clients. Raises UnreadableSecret if none is readable."""
    applications: list[tuple[AppCredential, token_endpoint.Application]] = []
    unreadable: UnreadableSecret | None = None
    # Decrypted one by one, because a single unreadable value would make a query for all of them fail.
    for credential in in_trial_order(app_registration.credentials.live().defer("secret", "private_key")):
        try:
            applications.append((credential, build_application(app_registration, decrypt_credential(credential))))
        except UnreadableSecret as error:
            unreadable = error
    if unreadable is not None and not applications:
        raise unreadable
    return applications


def in_trial_order(credentials: Iterable[AppCredential]) -> list[AppCredential]:
    """Sort credentials: usable ones first, then certificates that may not be in Entra yet, and rejected ones last."""
    return sorted(credentials, key=lambda credential: (credential.rejected_at is not None, awaits_upload(credential)))


def awaits_upload(credential: AppCredential) -> bool:
    """Whether this is an untested certificate, whose public part may not have been uploaded to Entra yet."""
    is_untested = credential.verified_at is None and credential.rejected_at is None
    return is_untested and credential.kind == AppCredential.Kind.CERTIFICATE


def request_app_only_token(app: AppRegistration, *, now: datetime) -> token_endpoint.TokenSet:
    """Return an app-only token, trying every credential. Raises MicrosoftRefused if Microsoft accepts none."""
    refusal = MicrosoftRefused(NO_CREDENTIAL)
    for credential, application in live_applications(app):
        try:
            return token_endpoint.request_app_only_token(application)
        except MicrosoftRefused as error:
            if not error.verdict.credential:
                raise
            credential_refused(credential, error.verdict, now=now)
            refusal = error
    raise refusal


def app_only_token(app: AppRegistration, *, now: datetime) -> token_endpoint.TokenSet | None:
    """Like request_app_only_token, but return None if Microsoft refuses; a later sweep flags the connections."""
    try:
        return request_app_only_token(app, now=now)
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused:
        return None


def check_credential(app_registration: AppRegistration, credential: token_endpoint.Credential) -> None:
    """Test a credential without storing anything. Call it outside any transaction.

    Raises MicrosoftUnavailable, or MicrosoftRefused with the form's ``field``.
    """
    result = _probe(app_registration, credential)
    if isinstance(result, Verdict):
        raise refusal_error(result)


def refusal_error(verdict: Verdict) -> MicrosoftRefused:
    """Return the verdict on a credential as an exception with advice for the admin."""
    if verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        return MicrosoftUnavailable(verdict)
    error = MicrosoftRefused(verdict)
    advice = credential_probe.advice(verdict)
    error.cause, error.action, error.field = f"{advice.cause} ({verdict.code})", advice.action, advice.entry
    return error


def verify(
    app_registration: AppRegistration, *, actor: User | None, credential: AppCredential | None = None
) -> list[CredentialCheck]:
    """Test every live credential (or only ``credential``) at Microsoft, then store and return the results.

    Certificates that still have to be uploaded are skipped unless there is nothing else or ``credential`` is one. One
    accepted credential restores the registration; it is rejected only if all of them were. Raises UnreadableSecret,
    InvalidInput if there is nothing to test, MicrosoftRefused if nothing was accepted, or MicrosoftUnavailable if that
    is unknown.
    """
    live = in_trial_order(app_registration.credentials.live())
    if credential is not None:
        chosen = [candidate for candidate in live if candidate.pk == credential.pk]
    else:
        chosen = [candidate for candidate in live if not awaits_upload(candidate)] or live
    if not chosen:
        raise InvalidInput(
            "There is no credential to try.", action="Add a client secret or a certificate.", field="credential"
        )
    checks = []
    for candidate in chosen:
        result = _probe(app_registration, decrypt_credential(candidate))
        if isinstance(result, Verdict):
            checks.append(CredentialCheck(candidate, verdict=result))
        else:
            checks.append(CredentialCheck(candidate, roles=result))
    _store_checks(app_registration, checks, is_complete=len(chosen) == len(live), actor=actor)
    if all(check.verdict is not None for check in checks):
        raise refusal_error(_decisive_verdict(checks))
    return checks


def _probe(app_registration: AppRegistration, credential: token_endpoint.Credential) -> tuple[str, ...] | Verdict:
    return credential_probe.probe(
        build_application(app_registration, credential),
        shared=app_registration.tenant.is_shared_endpoint,
        multitenant=app_registration.audience == AppRegistration.Audience.MULTI,
    )


def _decisive_verdict(checks: list[CredentialCheck]) -> Verdict:
    """Return the verdict to show: the first rejection, or the first outage if nothing was rejected."""
    refused = [(check.inconclusive, check.verdict) for check in checks if check.verdict is not None]
    return min(refused, key=lambda pair: pair[0])[1]


def _store_checks(
    app_registration: AppRegistration, checks: list[CredentialCheck], *, is_complete: bool, actor: User | None
) -> None:
    now = timezone.now()
    accepted = [check.credential for check in checks if check.verdict is None]
    verdict = None if accepted else _decisive_verdict(checks)
    with transaction.atomic():
        for check in checks:
            if check.verdict is None:
                check.credential.verified_at = now
                check.credential.rejected_at, check.credential.rejected_code = None, ""
                check.credential.save(update_fields=["verified_at", "rejected_at", "rejected_code"])
            elif check.verdict.credential and not check.inconclusive:
                credential_refused(check.credential, check.verdict, now=now, actor=actor)
        audit.record(
            AuditAction.APP_REGISTRATION_VERIFIED,
            app_registration,
            actor=actor,
            outcome=AuditEvent.Outcome.DONE if accepted else AuditEvent.Outcome.FAILED,
            changes={"accepted": audit.join_values(accepted), "code": verdict.code if verdict else ""},
        )
        if verdict is None:
            restore_app(app_registration, now=now, actor=actor)
            AppRegistration.objects.filter(pk=app_registration.pk).update(verified_at=now)
            app_registration.verified_at = now
        elif is_complete and not any(check.inconclusive for check in checks):
            reject_app(app_registration, verdict, now=now, actor=actor)


def credential_refused(
    credential: AppCredential, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Record that Microsoft rejected this credential. Only the first rejection is stored and audited."""
    with transaction.atomic():
        unrejected = AppCredential.objects.filter(pk=credential.pk, rejected_at=None)
        if not unrejected.update(rejected_at=now, rejected_code=verdict.code):
            return
        credential.rejected_at, credential.rejected_code = now, verdict.code
        changes = {"app_registration": str(credential.app_registration), "code": verdict.code}
        audit.record(AuditAction.CREDENTIAL_REJECTED, credential, actor=actor, changes=changes)


def reject_app(
    app_registration: AppRegistration, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Make the app's connections wait; one is tried a minute later. Only the first rejection is dated and audited."""
    values = {
        "rejected_code": verdict.code,
        "rejected_cause": verdict.cause,
        "rejected_action": verdict.action,
        "canary_after": now + CANARY_DELAY,
    }
    with transaction.atomic():
        rows = AppRegistration.objects.filter(pk=app_registration.pk)
        if rows.filter(rejected_at=None).update(rejected_at=now, **values):
            changes = {"code": verdict.code, "cause": verdict.cause}
            audit.record(AuditAction.APP_REGISTRATION_REJECTED, app_registration, actor=actor, changes=changes)
            incidents.app_rejected(app_registration, verdict, now=now)
        else:
            rows.update(**values)
    app_registration.refresh_from_db(fields=["rejected_at", *values])


def restore_app(app_registration: AppRegistration, *, now: datetime, actor: User | None = None) -> None:
    """Record that Microsoft accepts the registration (again), so that its connections continue. Audited once."""
    with transaction.atomic():
        rows = AppRegistration.objects.filter(pk=app_registration.pk)
        was_rejected = rows.exclude(rejected_at=None).update(**_NO_REJECTION, canary_after=None, verified_at=now)
        changed = was_rejected or rows.filter(verified_at=None).update(verified_at=now)
        if was_rejected:
            audit.record(AuditAction.APP_REGISTRATION_HEALED, app_registration, actor=actor)
            _spread_waiting(app_registration, now)
            incidents.app_accepted(app_registration, now=now)
    if changed:
        app_registration.refresh_from_db(fields=[*_NO_REJECTION, "canary_after", "verified_at"])


def _spread_waiting(app_registration: AppRegistration, now: datetime) -> None:
    """Spread the waiting connections over the next minute, so that Microsoft is not flooded."""
    waiting = app_registration.connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
    pks = list(waiting.order_by("pk").values_list("pk", flat=True))
    slots = min(RECOVERY_SLOTS, len(pks) // RECOVERY_AT_ONCE)
    for slot in range(1, slots):
        share = pks[slot::slots]
        for start in range(0, len(share), RECOVERY_BATCH):
            batch = Connection.objects.filter(pk__in=share[start : start + RECOVERY_BATCH])
            batch.update(refresh_after=now + RECOVERY_WITHIN * slot / slots)
