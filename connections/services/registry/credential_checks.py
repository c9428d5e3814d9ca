"""Test the credentials of app registrations at Microsoft, and reject or restore the app registrations.

A rejected app registration is a single problem: its connections wait and keep their status.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from connections import audit
from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable, UnreadableSecret
from connections.microsoft import certificates, clouds, credential_probe, federation, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AppConsent, AppCredential, AppRegistration, AuditEvent, Tenant, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.registry import app_consents, issuer
from connections.services.registry.app_consents import CANARY_DELAY, NO_REJECTION

NO_CREDENTIAL = Verdict(
    kind=Kind.APP_CONFIG,
    code="no-credential",
    cause="This app registration has no credential.",
    action="Add a credential to the app registration.",
    who=Who.IT_ADMIN,
    certain=True,
    app_wide=True,
)
# It takes up to this long until a new federated credential is known everywhere at Microsoft.
PROPAGATION = timedelta(minutes=10)
TEST_FOR = timedelta(days=1)
TEST_AT_ONCE = 20
PROPAGATING = Verdict(
    kind=Kind.TRANSIENT,
    code="federated-credential-new",
    cause="Microsoft doesn't know the new federated credential yet. This can take ten minutes.",
    action="Create it in Entra if you haven't yet. The portal retries automatically.",
    who=Who.NOBODY,
)


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """The result of testing one credential. Without a ``verdict``, it was accepted, and its token has these roles."""

    credential: AppCredential
    roles: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def inconclusive(self) -> bool:
        """Whether Microsoft was unavailable, so that the test shows nothing about the credential."""
        return self.verdict is not None and self.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED)


def build_application(
    app_registration: AppRegistration, credential: token_endpoint.Credential, tenant: Tenant | None = None
) -> token_endpoint.Application:
    """Return the application as a client in ``tenant`` (default: the home tenant). Its rows may be unsaved.

    Raises InvalidInput if the tenant's environment is not configured.
    """
    tenant = tenant or app_registration.tenant
    if tenant.environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{tenant.environment}” of the tenant {tenant} isn't configured in this portal.",
            action="An operator needs to configure it again, or an IT admin needs to add the tenant again.",
            field="tenant",
        )
    return token_endpoint.Application(
        clouds.cloud(tenant.environment), tenant.authority_id, app_registration.client_id, credential
    )


def decrypt_credential(credential: AppCredential) -> token_endpoint.Credential:
    """Return the credential in the form for requests, decrypted. Raises UnreadableSecret if it can't be used."""
    if credential.kind == AppCredential.Kind.FEDERATED:
        if credential.source == AppCredential.Source.FILE:
            return token_endpoint.TokenFile(settings.FEDERATED_TOKEN_PATH)
        key = issuer.signing_key(now=timezone.now())
        return token_endpoint.PortalAssertion(key, issuer.issuer_url(), credential.subject)
    if credential.kind == AppCredential.Kind.CERTIFICATE and credential.private_key:
        return token_endpoint.ClientCertificate(credential.private_key, credential.thumbprint)
    if credential.kind == AppCredential.Kind.SECRET and credential.secret:
        return token_endpoint.ClientSecret(credential.secret)
    raise UnreadableSecret


def live_applications(
    app_registration: AppRegistration, tenant: Tenant | None = None
) -> list[tuple[AppCredential, token_endpoint.Application]]:
    """Return live credentials in the order to try them, each with the application as a client in ``tenant``.

    The default is the home tenant. Raises UnreadableSecret if none of them can be decrypted.
    """
    applications: list[tuple[AppCredential, token_endpoint.Application]] = []
    unreadable: UnreadableSecret | None = None
    # Decrypt them one by one, because one unreadable value would make a query for all of them fail.
    for credential in in_trial_order(app_registration.credentials.live().defer("secret", "private_key")):
        try:
            opened = decrypt_credential(credential)
            applications.append((credential, build_application(app_registration, opened, tenant)))
        except UnreadableSecret as error:
            unreadable = error
    if unreadable is not None and not applications:
        raise unreadable
    return applications


def in_trial_order(credentials: Iterable[AppCredential]) -> list[AppCredential]:
    """Sort credentials: usable ones first, then those that may not be in Entra yet, and rejected ones last."""
    return sorted(credentials, key=lambda credential: (credential.rejected_at is not None, awaits_upload(credential)))


def awaits_upload(credential: AppCredential) -> bool:
    """Whether the credential is untested and Microsoft may not know it yet.

    That is a certificate or federated credential that has to be added in Entra, or a secret that the portal itself has
    added there (it has a key ID).
    """
    is_untested = credential.verified_at is None and credential.rejected_at is None
    return is_untested and (credential.kind != AppCredential.Kind.SECRET or credential.key_id != "")


def unless_propagating(credential: AppCredential, verdict: Verdict, *, now: datetime) -> Verdict:
    """Return the verdict, or PROPAGATING if Microsoft may not know a new federated credential yet."""
    is_new = credential.kind == AppCredential.Kind.FEDERATED and now - credential.created_at < PROPAGATION
    return PROPAGATING if is_new and verdict.code in federation.NOT_MATCHED else verdict


def request_app_only_token(
    app: AppRegistration,
    *,
    now: datetime,
    tenant: Tenant | None = None,
    audience: token_endpoint.Audience | None = None,
) -> token_endpoint.TokenSet:
    """Return an app-only token in ``tenant`` (default: the home tenant). Without ``audience``, it is for Graph.

    Tries every credential. Raises MicrosoftRefused if Microsoft accepts none of them, MicrosoftUnavailable,
    UnreadableSecret or InvalidInput.
    """
    refusal = MicrosoftRefused(NO_CREDENTIAL)
    for credential, application in live_applications(app, tenant):
        try:
            token = token_endpoint.request_app_only_token(application, audience=audience)
        except MicrosoftRefused as error:
            verdict = unless_propagating(credential, error.verdict, now=now)
            if verdict is PROPAGATING:
                refusal = MicrosoftUnavailable(verdict)
                continue
            if not verdict.credential:
                raise
            if not awaits_upload(credential):
                credential_refused(credential, verdict, now=now)
            refusal = error
        else:
            credential_accepted(credential, now=now)
            app_consents.accept(app, tenant or app.tenant, roles=token.granted, now=now)
            return token
    raise refusal


def app_only_token(
    app: AppRegistration, *, now: datetime, tenant: Tenant | None = None
) -> token_endpoint.TokenSet | None:
    """Return a token as ``request_app_only_token`` does, or None if Microsoft refuses.

    In that case, a later sweep flags the connections.
    """
    try:
        return request_app_only_token(app, tenant=tenant, now=now)
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused:
        return None


def check_credential(app_registration: AppRegistration, credential: token_endpoint.Credential) -> None:
    """Test a credential without storing it.

    Raises MicrosoftUnavailable, or MicrosoftRefused with the form's ``field``.
    """
    result = probe(app_registration, credential)
    if isinstance(result, Verdict):
        raise refusal_error(result)


def refusal_error(verdict: Verdict) -> MicrosoftRefused:
    """Return the verdict on a credential as an error with advice for the IT admin."""
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

    Credentials that still have to be added in Entra are skipped, unless there are no others or ``credential`` is one.
    One accepted credential restores the app registration, which is rejected only if all credentials were rejected.

    Raises UnreadableSecret, InvalidInput if there is nothing to test, MicrosoftRefused if no credential was accepted,
    or MicrosoftUnavailable if that could not be found out.
    """
    live = in_trial_order(app_registration.credentials.live())
    if credential is not None:
        chosen = [candidate for candidate in live if candidate.pk == credential.pk]
    else:
        chosen = [candidate for candidate in live if not awaits_upload(candidate)] or live
    if not chosen:
        raise InvalidInput("There is no credential to test.", action="Add a credential.", field="credential")
    checks = []
    for candidate in chosen:
        result = probe(app_registration, decrypt_credential(candidate))
        if isinstance(result, Verdict):
            result = unless_propagating(candidate, result, now=timezone.now())
            checks.append(CredentialCheck(candidate, verdict=result))
        else:
            checks.append(CredentialCheck(candidate, roles=result))
    _store_checks(app_registration, checks, is_complete=len(chosen) == len(live), actor=actor)
    if all(check.verdict is not None for check in checks):
        error = refusal_error(verdict := _decisive_verdict(checks))
        if verdict.credential and (reason := _not_yet_valid(app_registration, timezone.now())):
            error.cause = f"{error.cause} {reason}"
        raise error
    return checks


def probe(app_registration: AppRegistration, credential: token_endpoint.Credential) -> tuple[str, ...] | Verdict:
    """Test a credential. Returns the application's roles, or Microsoft's verdict. Changes nothing."""
    return credential_probe.probe(
        build_application(app_registration, credential),
        shared=app_registration.tenant.is_shared_endpoint,
        multitenant=app_registration.audience == AppRegistration.Audience.MULTI,
    )


def _decisive_verdict(checks: list[CredentialCheck]) -> Verdict:
    """Return the verdict to show: the first rejection or, if nothing was rejected, the first outage."""
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
            reject(app_registration, app_registration.tenant, verdict, now=now, actor=actor)


def check_tenant(consent: AppConsent, *, now: datetime) -> tuple[str, ...]:
    """Request an app-only token in this tenant, store the result, and return the token's roles.

    A token without roles still shows that the application exists there. Raises MicrosoftRefused, MicrosoftUnavailable,
    UnreadableSecret or InvalidInput.
    """
    app, tenant = consent.app_registration, consent.tenant
    try:
        return request_app_only_token(app, tenant=tenant, now=now).granted
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused as error:
        if error.verdict.tenant_wide:
            reject(app, tenant, error.verdict, now=now)
        raise


def try_waiting(*, now: datetime) -> None:
    """Test new federated credentials again, so that they are used as soon as their trust in Entra exists."""
    waiting = AppCredential.objects.live().filter(
        kind=AppCredential.Kind.FEDERATED, verified_at=None, rejected_at=None, created_at__gt=now - TEST_FOR
    )
    for credential in waiting.select_related("app_registration__tenant")[:TEST_AT_ONCE]:
        app = credential.app_registration
        try:
            answer = probe(app, decrypt_credential(credential))
        except (UnreadableSecret, InvalidInput):  # the next refresh reports both
            continue
        if isinstance(answer, Verdict):
            continue
        with transaction.atomic():
            credential_accepted(credential, now=now)
            restore_app(app, now=now)


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


def credential_accepted(credential: AppCredential, *, now: datetime) -> None:
    """Record that Microsoft accepts a credential that it had rejected, or that had to be added in Entra first."""
    if credential.rejected_at is None and not awaits_upload(credential):
        return
    with transaction.atomic():
        unaccepted = AppCredential.objects.filter(pk=credential.pk)
        unaccepted = unaccepted.filter(Q(rejected_at__isnull=False) | Q(verified_at=None))
        if unaccepted.update(rejected_at=None, rejected_code="", verified_at=now):
            credential.rejected_at, credential.rejected_code, credential.verified_at = None, "", now
            changes = {"app_registration": str(credential.app_registration)}
            audit.record(AuditAction.CREDENTIAL_ACCEPTED, credential, actor=None, changes=changes)


def reject(
    app_registration: AppRegistration, tenant: Tenant, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Reject what the verdict concerns: the app registration, or only its use in ``tenant``."""
    verdict = app_consents.narrowed(verdict, app_registration, tenant)
    if verdict.app_wide and verdict.tenant_wide:
        app_consents.reject(app_registration, tenant, verdict, now=now, actor=actor)
    elif verdict.app_wide:
        reject_app(app_registration, verdict, now=now, actor=actor)


def reject_app(
    app_registration: AppRegistration, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Make the app's connections wait. After a minute, one is tried again.

    Only the first rejection is dated and audited.
    """
    reason = _not_yet_valid(app_registration, now) if verdict.credential else ""
    cause = f"{verdict.cause} {reason}".strip()
    values = {
        "rejected_code": verdict.code,
        "rejected_cause": cause,
        "rejected_action": verdict.action,
        "canary_after": now + CANARY_DELAY,
    }
    with transaction.atomic():
        rows = AppRegistration.objects.filter(pk=app_registration.pk)
        if rows.filter(rejected_at=None).update(rejected_at=now, **values):
            changes = {"code": verdict.code, "cause": cause}
            audit.record(AuditAction.APP_REGISTRATION_REJECTED, app_registration, actor=actor, changes=changes)
            incidents.app_rejected(app_registration, replace(verdict, cause=cause), now=now)
        else:
            rows.update(**values)
    app_registration.refresh_from_db(fields=["rejected_at", *values])


def _not_yet_valid(app_registration: AppRegistration, now: datetime) -> str:
    """Return a sentence about live certificates that are not valid yet, because Microsoft's refusal doesn't say so."""
    stored = app_registration.credentials.live().exclude(certificate="").values_list("certificate", flat=True)
    return " ".join(filter(None, (certificates.not_yet_valid(certificate, now=now) for certificate in stored)))


def restore_app(app_registration: AppRegistration, *, now: datetime, actor: User | None = None) -> None:
    """Record that Microsoft accepts the app registration (again), so that its connections continue. Audited once."""
    with transaction.atomic():
        rows = AppRegistration.objects.filter(pk=app_registration.pk)
        was_rejected = rows.exclude(rejected_at=None).update(**NO_REJECTION, canary_after=None, verified_at=now)
        changed = was_rejected or rows.filter(verified_at=None).update(verified_at=now)
        if was_rejected:
            audit.record(AuditAction.APP_REGISTRATION_HEALED, app_registration, actor=actor)
            app_consents.spread_waiting(app_registration.connections.all(), now)
            incidents.app_accepted(app_registration, now=now)
    if changed:
        app_registration.refresh_from_db(fields=[*NO_REJECTION, "canary_after", "verified_at"])
