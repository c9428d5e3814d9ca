"""Renew secrets and certificates before they expire, if the policy and the app registration allow it.

The row in CredentialRenewal is the queue. A worker claims it by adding a lease to ``due_at`` in one conditional update,
and writes each step only while it holds this claim. If the worker is killed at any point, another one resumes the
renewal.
"""

import logging
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q

from connections import audit
from connections.errors import MicrosoftRefused, MicrosoftUnavailable, PortalError, UnreadableSecret
from connections.microsoft import certificates
from connections.models import AppCredential, AppRegistration, AuditEvent, CredentialRenewal, Incident
from connections.models.audit import AuditAction
from connections.services.expiry import forecast, renewal_rules, renewal_steps
from connections.services.expiry.renewal_rules import AT_MOST_EVERY, BEFORE
from connections.services.expiry.renewal_steps import ClaimLost, Next, Step
from connections.services.incidents import incidents
from connections.services.policy import evaluate
from connections.services.registry import credentials

logger = logging.getLogger(__name__)

LEASE = timedelta(minutes=5)  # longer than any step can take
AFTER_OUTAGE = timedelta(minutes=2)
GIVE_UP_AFTER = timedelta(days=2)  # length of an outage after which the renewal is undone and fails
BATCH = 20
BY_HAND = {
    AppCredential.Kind.CERTIFICATE: "Manual steps: generate the next certificate on the app registration's page, upload its "
    "public part to Entra, then test it.",
    AppCredential.Kind.SECRET: "Manual steps: create a client secret in Entra under Certificates & secrets, then add it on "
    "the app registration's page.",
}


def run_due(*, now: datetime) -> None:
    """Start the renewals that are due, and continue those whose next step is due."""
    _close_settled(now)
    if evaluate.load_policies().organisation.credential_renewal:
        _start_due(now)
    waiting = CredentialRenewal.objects.filter(finished_at=None, due_at__lte=now).order_by("due_at", "pk")
    for renewal in waiting[:BATCH]:
        unclaimed = CredentialRenewal.objects.filter(pk=renewal.pk, due_at=renewal.due_at, finished_at=None)
        if not unclaimed.update(due_at=now + LEASE):
            continue  # another worker has it
        try:
            _advance(renewal.pk, now)
        except UnreadableSecret:  # an operator must add the encryption key; other renewals continue
            logger.warning("Renewal %s waits, because a stored secret can't be decrypted.", renewal.pk)


def _start_due(now: datetime) -> None:
    expiring = AppCredential.objects.filter(retired_at=None, expires_at__gt=now, expires_at__lte=now + BEFORE)
    apps = AppRegistration.objects.filter(
        pk__in=expiring.values("app_registration"), renews_credentials=True, rejected_at=None, verified_at__isnull=False
    )
    recent = CredentialRenewal.objects.filter(Q(finished_at=None) | Q(finished_at__gt=now - AT_MOST_EVERY))
    rows = list(apps.exclude(pk__in=recent.values("app_registration")).select_related("tenant").order_by("pk"))
    live = forecast.credentials_of([app.pk for app in rows])
    renewable = [(app, old) for app in rows if (old := renewal_rules.to_renew(app, live[app.pk], now=now))]
    for app, old in renewable[:BATCH]:
        _start(app, old, now)


def _start(app: AppRegistration, old: AppCredential, now: datetime) -> None:
    """Record the renewal. A certificate's key pair is stored before anything is sent."""
    certificate = None
    if old.kind == AppCredential.Kind.CERTIFICATE:
        pair = certificates.generate(app.name, months=credentials.DEFAULT_MONTHS, now=now)
        certificate = credentials.NewCertificate(pair, old.label, at_microsoft=False)
    try:
        with transaction.atomic():
            renewal = CredentialRenewal.objects.create(
                app_registration=app, old=old, started_at=now, step_started_at=now, due_at=now
            )
            if certificate is not None:
                renewal.new = credentials.store(app, certificate, actor=None, verified_at=None, now=now)
                renewal.save(update_fields=["new"])
            changes = {"credential": str(old), "kind": old.kind}
            audit.record(AuditAction.CREDENTIAL_RENEWAL_STARTED, app, actor=None, changes=changes)
    except IntegrityError:
        logger.info("Another worker has just started the renewal for app registration %s.", app.pk)


def _advance(pk: int, now: datetime) -> None:
    """Take steps until the renewal is done or has to wait. Holds no lock in between."""
    claimed = CredentialRenewal.objects.filter(pk=pk, due_at=now + LEASE, finished_at=None)
    while (renewal := claimed.select_related("app_registration__tenant").first()) is not None:
        for credential in (renewal.old, renewal.new):
            if credential is not None:
                credential.app_registration = renewal.app_registration
        try:
            following = _take_step(renewal, now)
            if following is None:
                return
            values: dict[str, object] = {"due_at": now + (following.wait or LEASE)}
            if following.step != renewal.step:
                values |= {"step": following.step, "step_started_at": now}
            renewal_steps.write(renewal, **values)
        except ClaimLost:
            return
        if following.wait:
            return


def _take_step(renewal: CredentialRenewal, now: datetime) -> Next | None:
    """Take one step. Returns the next one, or None if the renewal has finished."""
    try:
        match renewal.step:
            case Step.ADD if renewal.old.kind == AppCredential.Kind.CERTIFICATE:
                return renewal_steps.add_certificate(renewal, now)
            case Step.ADD:
                return renewal_steps.add_secret(renewal, now)
            case Step.TRY:
                return renewal_steps.try_new(renewal, now)
            case Step.SETTLE:
                return renewal_steps.settle(renewal, now)
            case Step.REMOVE:
                return _finish(renewal, renewal_steps.remove_old(renewal, now), now)
            case _:
                return _fail(renewal, renewal_steps.undo(renewal, now), now)
    except MicrosoftUnavailable:
        return _after_outage(renewal, now)
    except UnreadableSecret:  # an operator must add the encryption key
        return Next(Step(renewal.step), AFTER_OUTAGE)
    except PortalError as error:
        return _after_refusal(renewal, error, now)


def _after_outage(renewal: CredentialRenewal, now: datetime) -> Next | None:
    """Wait for Microsoft, but not forever. An outage proves nothing about the credentials."""
    if now < renewal.step_started_at + GIVE_UP_AFTER or renewal.step in (Step.SETTLE, Step.REMOVE):
        return Next(Step(renewal.step), AFTER_OUTAGE)
    if renewal.step == Step.UNDO:
        return _fail(renewal, "Look in Entra whether the new credential is listed there, and delete it.", now)
    cause = "Microsoft couldn't be reached for two days."
    renewal_steps.write(renewal, cause=cause, action="The portal tries again.")
    return Next(Step.UNDO)


def _after_refusal(renewal: CredentialRenewal, error: PortalError, now: datetime) -> Next | None:
    """Undo the renewal, unless the new credential is already in use."""
    cause, action = _explain(renewal, error)
    if renewal.step == Step.UNDO:
        logger.warning("Renewal %s could not be undone at Microsoft: %s", renewal.pk, error.code)
        if renewal.new is not None:
            credentials.retire(renewal.new, actor=None)
        return _fail(renewal, f"Delete the new credential in Entra. The portal couldn't delete it: {cause}", now)
    if renewal.step == Step.REMOVE:
        if not isinstance(error, MicrosoftRefused) or error.verdict.credential:
            return Next(Step.SETTLE, AFTER_OUTAGE)  # the old credential is still needed
        credentials.retire(renewal.old, actor=None)
        return _finish(renewal, f"Delete the old credential in Entra. The portal couldn't delete it: {cause}", now)
    is_refused_key = renewal.step == Step.ADD and renewal.new is not None
    sent_at = None if is_refused_key else renewal.sent_at
    renewal_steps.write(renewal, cause=cause, action=action, sent_at=sent_at)
    return Next(Step.UNDO)


def _explain(renewal: CredentialRenewal, error: PortalError) -> tuple[str, str]:
    if isinstance(error, MicrosoftRefused) and error.verdict.code == "Authorization_RequestDenied":
        if renewal.old.kind == AppCredential.Kind.SECRET:
            return (
                "Microsoft doesn't allow the application to change its own client secrets.",
                "In Entra, grant it Application.ReadWrite.OwnedBy and make its service principal an owner of the "
                "application.",
            )
        return "Microsoft doesn't accept the proof with which the application renews its certificate.", (
            "Check the object ID on the app registration's Edit page."
        )
    return error.cause, error.action


def _finish(renewal: CredentialRenewal, left: str, now: datetime) -> Next | None:
    """Record that the renewal succeeded. Returns None, because there is no next step.

    ``left`` says what remains to be done by hand.
    """
    with transaction.atomic():
        renewal_steps.write(renewal, step=Step.DONE, finished_at=now, cause="", action=left)
        app = renewal.app_registration
        changes = {"old": str(renewal.old), "new": str(renewal.new), "left_to_do": left}
        audit.record(AuditAction.CREDENTIAL_RENEWED, app, actor=None, changes=changes)
        incidents.credential_renewed(app, now=now)
    return None


def _fail(renewal: CredentialRenewal, left: str, now: datetime) -> Next | None:
    """Record and report that the renewal failed. Returns None, because there is no next step.

    ``left`` says what remains to be done by hand.
    """
    with transaction.atomic():
        steps = (left, renewal.action, BY_HAND[AppCredential.Kind(renewal.old.kind)])
        action = " ".join(filter(None, steps))
        renewal_steps.write(renewal, step=Step.FAILED, finished_at=now, cause=renewal.cause, action=action)
        app = renewal.app_registration
        audit.record(
            AuditAction.CREDENTIAL_RENEWAL_FAILED,
            app,
            actor=None,
            outcome=AuditEvent.Outcome.FAILED,
            changes={"credential": str(renewal.old), "cause": renewal.cause},
        )
        incidents.credential_not_renewed(app, str(renewal.old), renewal.cause, action, now=now)
    return None


def _close_settled(now: datetime) -> None:
    """Close incidents about credentials that someone has renewed in the meantime, or that no longer need renewal."""
    opened = Incident.objects.filter(kind=Incident.Kind.CREDENTIAL_RENEWAL, closed_at=None)
    apps = [row.app_registration for row in opened.select_related("app_registration__tenant")]
    live = forecast.credentials_of([app.pk for app in apps if app is not None])
    for app in apps:
        if app is not None and renewal_rules.to_renew(app, live[app.pk], now=now) is None:
            incidents.credential_renewed(app, now=now)
