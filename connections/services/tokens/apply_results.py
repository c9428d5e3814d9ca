"""Process Microsoft's responses: save tokens, flag connections whose grant has ended, and retry after temporary errors.

A connection's status changes only after a definite refusal, or after an ambiguous refusal that a second response
confirms. Outages, throttling, a rejected app registration and a missing encryption key never change it.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self, TypeGuard

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Mod

from connections import audit
from connections.errors import AlteredSecret, OutdatedKeys, UnreadableSecret
from connections.microsoft import mailbox_errors, resources, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import Connection, MailboxAccess
from connections.models.audit import AuditAction
from connections.models.connections import RELATED, status_columns
from connections.services.consent import request_status
from connections.services.incidents import incidents
from connections.services.operations import running_keys, secret_check
from connections.services.people import microsoft_accounts, offboarding
from connections.services.policy import next_steps
from connections.services.registry import app_consents, credential_checks
from connections.services.tokens import account_names, store
from connections.services.tokens.batch_results import Answer, DueConnection, RefreshBatchResult

logger = logging.getLogger(__name__)

CONFIRM_AFTER = timedelta(minutes=1)  # an ambiguous refusal is confirmed by another refusal at least this much later
RETRY_FLAGGED = timedelta(minutes=30)  # consent and policies can be fixed without the owner signing in again
RETRY_ELSEWHERE = timedelta(seconds=20)  # if this process can't decrypt the tokens because its keys are outdated
THROTTLE_DEFAULT = timedelta(minutes=1)  # Microsoft sends Retry-After with most, but not all, of its 429 responses
LONGEST_WAIT = timedelta(minutes=15)
OUTAGE_AFTER = 3  # failed attempts in a row
NO_OUTAGE_WITHIN = timedelta(minutes=5)  # no outage is reported if the environment issued a token this recently
SPREAD = 20  # number of time slots for postponed connections

STATUS_OF = {
    Kind.REAUTH: Connection.Status.RECONNECT_NEEDED,
    Kind.CONSENT: Connection.Status.CONSENT_NEEDED,
    Kind.POLICY: Connection.Status.BLOCKED,
    Kind.APP_CONFIG: Connection.Status.BLOCKED,
}

NO_ROLES = Verdict(
    kind=Kind.CONSENT,
    code="no-roles",
    cause="Microsoft issued a token for the application, but it contains no permissions.",
    action="Grant admin consent for the app registration, or give it access to the attached mailboxes in Exchange. "
    "Consent can take a few minutes to take effect, and Exchange up to two hours.",
    who=Who.IT_ADMIN,
    certain=True,
)


@dataclass(slots=True)
class Summary:
    claimed: int = 0
    renewed: int = 0
    flagged: int = 0
    waiting: int = 0

    def __iadd__(self, other: Self) -> Self:
        self.claimed += other.claimed
        self.renewed += other.renewed
        self.flagged += other.flagged
        self.waiting += other.waiting
        return self


def apply(results: Sequence[RefreshBatchResult], *, now: datetime) -> Summary:
    summary = Summary(claimed=sum(len(result.answers) + len(result.held_back) for result in results))
    summary.renewed = _store_tokens(results, now)
    for result in results:
        _update_app(result, now)
        _detect_outage(result, now)
        for due, answer in result.answers:
            if not isinstance(answer, token_endpoint.TokenSet):
                summary.flagged += _handle_failure(due, answer, now)
        if result.held_back:
            _retry_later(result.held_back, result.held_back_by, now)
        if result.unsent:
            _give_back(result.unsent, now)
        summary.waiting += len(result.held_back)
    return summary


def _store_tokens(results: Sequence[RefreshBatchResult], now: datetime) -> int:
    renewed: list[tuple[DueConnection, token_endpoint.TokenSet]] = []
    tokens: list[store.RenewedToken] = []
    environments: set[str] = set()
    for result in results:
        for due, answer in result.answers:
            if isinstance(answer, token_endpoint.TokenSet):
                renewed.append((due, answer))
                sent = result.sent.get(due.pk)
                tokens.append(store.RenewedToken(due.pk, due.identity, due.token_version, answer, sent))
                account_names.follow(result.app, due, answer)
                environments.add(result.app.environment)
    if not renewed:
        return 0
    written = store.store_renewed(tokens, now=now)
    recovered: list[int] = []
    for due, answer in renewed:
        stored = written.get(due.pk)
        if stored is None:
            continue
        # App-only tokens may contain no roles (identity-platform/v2-oauth2-client-creds-grant-flow).
        if due.is_app_only and resources.of_resource(due.scopes.split(), due.resource) and not answer.granted:
            # Only a probe shows whether Exchange gives the application access, so probe its mailboxes after every
            # refresh.
            MailboxAccess.objects.filter(connection_id=due.pk).update(probe_after=now)
            settle_without_roles(due.pk, now=now, version=due.token_version + 1)
            continue
        if stored.is_flagged:
            restore(due.pk, now=now, version=due.token_version + 1)
        if stored.is_flagged or stored.is_in_incident:
            recovered.append(due.pk)
    if waiting := [stored.pk for stored in written.values() if stored.has_request]:
        request_status.tokens_received(waiting, now=now)
    incidents.connections_recovered(recovered, now=now)
    incidents.microsoft_reachable(environments, now=now)
    return len(written)


def reaches_mailbox(pk: int) -> bool:
    """Whether the connection reaches a shared mailbox. This proves that it works, even if its token has no roles."""
    return MailboxAccess.objects.filter(connection_id=pk, state=MailboxAccess.State.REACHABLE).exists()


def settle_without_roles(pk: int, *, now: datetime, version: int) -> None:
    """Restore a connection without roles if it reaches a mailbox by a grant in Exchange. Otherwise, flag it.

    Does nothing while the result of a probe is unknown.
    """
    if reaches_mailbox(pk):
        restore(pk, now=now, version=version)
        incidents.connections_recovered([pk], now=now)
        return
    unanswered = MailboxAccess.objects.filter(connection_id=pk, state=MailboxAccess.State.UNKNOWN)
    if not unanswered.exclude(code=mailbox_errors.NOT_TESTED).exists():
        flag(pk, NO_ROLES, now=now, version=version)


def _update_app(result: RefreshBatchResult, now: datetime) -> None:
    for credential, verdict in result.rejected:
        if not credential_checks.awaits_upload(credential):
            credential_checks.credential_refused(credential, verdict, now=now)
    proven = any(_proves_app(answer) for _, answer in result.answers)
    if result.accepted is not None and proven and not any(each[0] is result.accepted for each in result.rejected):
        credential_checks.credential_accepted(result.accepted, now=now)
    verdicts = [answer for _, answer in result.answers if isinstance(answer, Verdict)]
    if isinstance(result.held_back_by, Verdict):
        verdicts.append(result.held_back_by)
    # A verdict about the tenant proves nothing about credentials, because it comes before Microsoft checks them.
    if there := next((verdict for verdict in verdicts if verdict.app_wide and verdict.tenant_wide), None):
        app_consents.reject(result.app, result.tenant, there, now=now)
    rejection = next((verdict for verdict in verdicts if verdict.app_wide and not verdict.tenant_wide), None)
    # Microsoft may have accepted a credential that was added after these requests were sent.
    live = result.app.credentials.filter(retired_at=None, rejected_at=None, verified_at__isnull=False)
    if rejection is not None and (result.tried is None or not live.exclude(pk__in=result.tried).exists()):
        credential_checks.reject_app(result.app, rejection, now=now)
    elif result.app.rejected_at is not None and proven:
        credential_checks.restore_app(result.app, now=now)
    if proven:
        _accept_in_tenant(result, now)
    throttled = [verdict for verdict in verdicts if verdict.kind is Kind.THROTTLED]
    if throttled:
        wait = max((verdict.retry_after or THROTTLE_DEFAULT.total_seconds()) for verdict in throttled)
        until = now + min(timedelta(seconds=wait), timedelta(hours=1))
        app_consents.pause(result.app, result.tenant, until=until)


def _accept_in_tenant(result: RefreshBatchResult, now: datetime) -> None:
    """Record that Microsoft accepts the app registration in the tenant, with the roles of the last app-only token."""
    app_only = [
        answer for due, answer in result.answers if due.is_app_only and isinstance(answer, token_endpoint.TokenSet)
    ]
    roles = app_only[-1].granted if app_only else None
    app_consents.accept(result.app, result.tenant, roles=roles, now=now, known=result.consent)


def _proves_app(answer: Answer) -> bool:
    """Whether the response proves that Microsoft accepts the app registration, even if it refuses the grant."""
    if isinstance(answer, token_endpoint.TokenSet):
        return True
    return isinstance(answer, Verdict) and not (answer.app_wide or answer.tenant_wide) and answer.flags()


def _detect_outage(result: RefreshBatchResult, now: datetime) -> None:
    """Report an outage after several failures in a row.

    It is not an outage if other connections in the environment got tokens recently.
    """
    for due, answer in result.answers:
        if answer is credential_checks.PROPAGATING:
            continue
        if isinstance(answer, Verdict) and answer.kind is Kind.TRANSIENT and due.trouble_count + 1 >= OUTAGE_AFTER:
            environment = result.app.environment
            connections = Connection.objects.filter(app_registration__environment=environment)
            if not connections.filter(refreshed_at__gt=now - NO_OUTAGE_WITHIN, refreshed_at__lte=now).exists():
                incidents.microsoft_unreachable(environment, answer, now=now)
            return


def _handle_failure(due: DueConnection, answer: Answer, now: datetime) -> bool:
    """Flag the connection, mark it as suspected, or retry later. Returns whether it was flagged."""
    if not isinstance(answer, Verdict) or not answer.flags() or answer.app_wide:
        _retry_later([due], answer, now, was_sent=True)
        return False
    is_confirmed = due.suspected_at is not None and now - due.suspected_at >= CONFIRM_AFTER
    if answer.certain or is_confirmed:
        if answer.account_wide:
            microsoft_accounts.check_siblings(due.pk, now=now)
        return flag(due.pk, answer, now=now, version=due.token_version)
    # The refusal is ambiguous, so retry soon, and keep the time of the first refusal.
    Connection.objects.filter(pk=due.pk, token_version=due.token_version).update(
        suspected_code=answer.code,
        suspected_at=due.suspected_at or now,
        refresh_after=now + CONFIRM_AFTER * random.uniform(1.0, 1.3),
        checked_at=now,
    )
    return False


def _for_owner(connection: Connection, verdict: Verdict) -> Verdict:
    """Return the verdict. If the policy prevents the owner from signing in again, name what can be done instead."""
    advice = next_steps.sign_in_advice(connection) if verdict.kind is Kind.REAUTH else None
    return verdict if advice is None else replace(verdict, action=advice.action, who=Who(advice.who))


def flag(pk: int, verdict: Verdict, *, now: datetime, version: int) -> bool:
    """Set the verdict's status, unless newer tokens have been stored. Returns whether the status or its code changed.

    The refresh token is kept.
    """
    status = STATUS_OF[verdict.kind]
    with transaction.atomic():
        locked = Connection.objects.select_for_update(of=("self",), no_key=True)
        related = locked.select_related(*RELATED, "owner")
        connection = related.filter(pk=pk, token_version=version).first()
        if connection is None or connection.status == Connection.Status.DISABLED:
            return False
        is_new = (connection.status, connection.status_code) != (status, verdict.code)
        needs_sign_in = status == Connection.Status.RECONNECT_NEEDED
        values: dict[str, object] = {
            "refresh_after": None if needs_sign_in else now + RETRY_FLAGGED * random.uniform(0.7, 1.0),
            "checked_at": now,
        }
        if verdict.max_age_s is not None:
            values["sign_in_max_age"] = verdict.max_age_s
        if is_new:
            values |= {"suspected_code": "", "suspected_at": None} | status_columns(
                status,
                code=verdict.code,
                cause=verdict.cause,
                action=verdict.action,
                who=verdict.who.value,
                reference=incidents.support_reference(verdict),
                since=now,
            )
            changes = {"status": [connection.status, status], "code": verdict.code, "cause": verdict.cause}
            audit.record(AuditAction.CONNECTION_FLAGGED, connection, actor=None, changes=changes)
            incidents.connection_flagged(connection, _for_owner(connection, verdict), now=now)
            offboarding.account_refused(connection, verdict, now=now)
        Connection.objects.filter(pk=pk).update(**values)
    return is_new


def restore(pk: int, *, now: datetime, version: int) -> None:
    """Make a flagged connection active again after it got a token."""
    with transaction.atomic():
        connection = Connection.objects.select_for_update(no_key=True).filter(pk=pk, token_version=version).first()
        if connection is None or connection.status in (Connection.Status.ACTIVE, Connection.Status.DISABLED):
            return
        changes = {"status": [connection.status, "active"]}
        audit.record(AuditAction.CONNECTION_HEALED, connection, actor=None, changes=changes)
        Connection.objects.filter(pk=pk).update(**store.healthy_columns(now))


def _retry_later(
    dues: Sequence[DueConnection], answer: Answer | None, now: datetime, *, was_sent: bool = False
) -> None:
    """Postpone these connections, spread over time. ``was_sent`` says that a request was sent for each of them."""
    if isinstance(answer, Verdict) and answer.app_wide:
        # They stay due, but nobody claims them until the app registration is restored.
        Connection.objects.filter(pk__in=[due.pk for due in dues]).update(refresh_after=now)
        return
    if isinstance(answer, UnreadableSecret):
        answer = running_keys.explain(answer, now=now)
        if isinstance(answer, OutdatedKeys):
            # Another process can refresh them, so this is not counted as a failure.
            due_again = now + RETRY_ELSEWHERE * random.uniform(0.5, 1.5)
            Connection.objects.filter(pk__in=[due.pk for due in dues]).update(refresh_after=due_again)
            return
        _report_unreadable(dues, answer, now)
    code = answer.code if isinstance(answer, Verdict | UnreadableSecret) else ""
    delay = _delay(answer, max(due.trouble_count for due in dues))
    size = max(1, -(-len(dues) // SPREAD))
    for start in range(0, len(dues), size):
        slot = Connection.objects.filter(pk__in=[due.pk for due in dues[start : start + size]])
        _postpone(slot, delay, code, now, **({"checked_at": now} if was_sent else {}))


def _give_back(dues: Sequence[DueConnection], now: datetime) -> None:
    """Make these connections due, so that another worker claims them at once. No request was sent for them."""
    Connection.objects.filter(pk__in=[due.pk for due in dues]).update(refresh_after=now)


def _report_unreadable(dues: Sequence[DueConnection], error: UnreadableSecret, now: datetime) -> None:
    if isinstance(error, AlteredSecret):
        secret_check.report([error.location], now=now)
        return
    logger.error("A stored secret cannot be opened with the configured keys.", extra={"connections": len(dues)})
    incidents.secrets_unreadable([due.pk for due in dues], now=now)


def postpone(results: Sequence[RefreshBatchResult], *, now: datetime) -> None:
    """Postpone all due connections of an app registration whose canary failed. Otherwise, every batch would time out.

    If Microsoft responded for the app registration in another tenant, only connections in the failed tenant are
    postponed.
    """
    answered = {result.app.pk for result in results if not _is_transient(result.held_back_by)}
    for result in results:
        verdict = result.held_back_by
        if not _is_transient(verdict):
            continue
        delay = _delay(verdict, max((due.trouble_count for due, _ in result.answers), default=0))
        waiting = result.app.connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
        if result.app.pk in answered:
            waiting = waiting.filter(tenant=result.tenant)
        if not waiting.exists():
            continue
        for slot in range(SPREAD):
            share = waiting.annotate(slot=Mod(F("pk"), SPREAD)).filter(slot=slot)
            _postpone(waiting.filter(pk__in=share.values("pk")), delay, verdict.code, now)


def _is_transient(answer: Answer | None) -> TypeGuard[Verdict]:
    return isinstance(answer, Verdict) and answer.kind is Kind.TRANSIENT


def _postpone(
    connections: QuerySet[Connection], delay: timedelta, code: str, now: datetime, **columns: datetime
) -> None:
    connections.update(
        refresh_after=now + delay * random.uniform(0.7, 1.3),
        trouble_code=code,
        trouble_at=now,
        trouble_count=F("trouble_count") + 1,
        **columns,
    )


def _delay(answer: Answer | None, failures: int) -> timedelta:
    retry_after = answer.retry_after if isinstance(answer, Verdict) else None
    backoff = timedelta(seconds=20) * (1 << min(failures, 6))
    return min(LONGEST_WAIT, max(backoff, timedelta(seconds=min(retry_after or 0, 900))))
