"""Writing down what Microsoft answered: tokens stored, dead grants flagged, troubles waited out.

What may change a connection's status: a certain no, or a doubtful one that a second answer confirms. An outage,
throttling, a dead app registration or a missing encryption key never does.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Mod

from connections import audit
from connections.errors import UnreadableSecret
from connections.microsoft import mailbox_errors, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AppRegistration, Connection, MailboxAccess
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.consent import request_status
from connections.services.incidents import incidents
from connections.services.people import offboarding
from connections.services.registry import credential_checks
from connections.services.tokens import store
from connections.services.tokens.batch_client import Answer, DueConnection, RefreshBatchResult

logger = logging.getLogger(__name__)

CONFIRM_AFTER = timedelta(minutes=1)  # a doubtful answer counts if one this much later says the same
RETRY_FLAGGED = timedelta(minutes=30)  # consent and policy may be mended without the owner's doing
THROTTLE_DEFAULT = timedelta(minutes=1)  # Microsoft sends Retry-After with most, not all, of its 429
LONGEST_WAIT = timedelta(minutes=15)
OUTAGE_AFTER = 3  # useless answers in a row
NO_OUTAGE_WITHIN = timedelta(minutes=5)  # of a token from the same environment
SPREAD = 20  # time slots over which many connections are spread when they have to wait together

STATUS_OF = {
    Kind.REAUTH: Connection.Status.RECONNECT_NEEDED,
    Kind.CONSENT: Connection.Status.CONSENT_NEEDED,
    Kind.POLICY: Connection.Status.BLOCKED,
    Kind.APP_CONFIG: Connection.Status.BLOCKED,
}

NO_ROLES = Verdict(
    kind=Kind.CONSENT,
    code="no-roles",
    cause="Microsoft issued a token for the application, but it carries no permission at all.",
    action="Grant admin consent for the app registration, or let Exchange admit it to the attached mailboxes. It can "
    "take some minutes until tokens show consent, and up to two hours until Exchange acts on its own grant.",
    who=Who.IT_ADMIN,
    certain=True,
)


@dataclass(slots=True)
class Summary:
    """What was done, for the log and the benchmark."""

    claimed: int = 0
    renewed: int = 0
    flagged: int = 0
    waiting: int = 0

    def __iadd__(self, other: Summary) -> Summary:
        self.claimed += other.claimed
        self.renewed += other.renewed
        self.flagged += other.flagged
        self.waiting += other.waiting
        return self


def apply(refresh_batch_results: Sequence[RefreshBatchResult], *, now: datetime) -> Summary:
    """Write down all answers of a batch."""
    done = Summary(
        claimed=sum(
            len(refresh_batch_result.answers) + len(refresh_batch_result.held_back)
            for refresh_batch_result in refresh_batch_results
        )
    )
    done.renewed = _store(refresh_batch_results, now)
    for refresh_batch_result in refresh_batch_results:
        _judge_app(refresh_batch_result, now)
        _judge_microsoft(refresh_batch_result, now)
        for due, answer in refresh_batch_result.answers:
            if isinstance(answer, token_endpoint.TokenSet):
                continue
            done.flagged += _judge(refresh_batch_result.app, due, answer, now)
        if refresh_batch_result.held_back:
            _wait(refresh_batch_result.held_back, refresh_batch_result.held_back_by, now, asked=False)
        done.waiting += len(refresh_batch_result.held_back)
    return done


# --- Good answers ---------------------------------------------------------------------------------


def _store(refresh_batch_results: Sequence[RefreshBatchResult], now: datetime) -> int:
    good = [
        (due, answer)
        for refresh_batch_result in refresh_batch_results
        for due, answer in refresh_batch_result.answers
        if isinstance(answer, token_endpoint.TokenSet)
    ]
    written = store.store_renewed(
        [store.RenewedToken(due.pk, due.token_version, answer, _worked(due)) for due, answer in good], now=now
    )
    # As they are now: one may have been flagged by another answer since it was claimed.
    settled = (Connection.Status.ACTIVE, Connection.Status.DISABLED)
    flagged = set(Connection.objects.filter(pk__in=written).exclude(status__in=settled).values_list("pk", flat=True))
    well: list[int] = []
    for due, answer in good:
        if due.pk not in written:
            continue
        if _lacks_roles(due, answer):
            # Only asking tells whether Exchange lets the application in, so its mailboxes are asked as often.
            MailboxAccess.objects.filter(connection_id=due.pk).update(probe_after=now)
            settle_without_roles(due.pk, now=now, version=due.token_version + 1)
            continue
        if due.pk in flagged:
            restore(due.pk, now=now, version=due.token_version + 1)
        well.append(due.pk)
    if good:
        request_status.tokens_received(written, now=now)
        incidents.connections_recovered(well, now=now)
        incidents.microsoft_reachable(_environments_that_answered(refresh_batch_results), now=now)
    return len(written)


def _environments_that_answered(refresh_batch_results: Sequence[RefreshBatchResult]) -> set[str]:
    return {
        refresh_batch_result.app.tenant.environment
        for refresh_batch_result in refresh_batch_results
        if any(isinstance(answer, token_endpoint.TokenSet) for _, answer in refresh_batch_result.answers)
    }


def _worked(due: DueConnection) -> str | None:
    return due.token_in_use if due.authentication_type == AuthenticationType.AUTHORIZATION_CODE else None


def _lacks_roles(due: DueConnection, answer: token_endpoint.TokenSet) -> bool:
    """App-only tokens can come without any role (identity-platform/v2-oauth2-client-creds-grant-flow)."""
    app_only = due.authentication_type == AuthenticationType.CLIENT_CREDENTIALS
    return app_only and bool(due.scopes) and not answer.granted


def is_proven(pk: int) -> bool:
    """Whether the connection reaches a shared mailbox, and so works whatever its token says."""
    return MailboxAccess.objects.filter(connection_id=pk, state=MailboxAccess.State.REACHABLE).exists()


def settle_without_roles(pk: int, *, now: datetime, version: int) -> None:
    """An app-only token carries no role: the connection is well if Exchange lets it into a mailbox, else flagged.

    Exchange's own grants show in no token (Microsoft: application-rbac). A mailbox that could not be asked about,
    because Microsoft did not answer, changes nothing.
    """
    if is_proven(pk):
        restore(pk, now=now, version=version)
        incidents.connections_recovered([pk], now=now)
        return
    unanswered = MailboxAccess.objects.filter(connection_id=pk, state=MailboxAccess.State.UNKNOWN)
    if not unanswered.exclude(code=mailbox_errors.NOT_TESTED).exists():
        flag(pk, NO_ROLES, now=now, version=version)


# --- Answers about the app registration -----------------------------------------------------------


def _judge_app(refresh_batch_result: RefreshBatchResult, now: datetime) -> None:
    for credential, verdict in refresh_batch_result.rejected:
        credential_checks.credential_refused(credential, verdict, now=now)
    verdicts = [answer for _, answer in refresh_batch_result.answers if isinstance(answer, Verdict)]
    if isinstance(refresh_batch_result.held_back_by, Verdict):
        verdicts.append(refresh_batch_result.held_back_by)
    broken = next((verdict for verdict in verdicts if verdict.app_wide), None)
    if broken is not None and not _has_new_credential(refresh_batch_result):
        credential_checks.reject_app(refresh_batch_result.app, broken, now=now)
    elif refresh_batch_result.app.rejected_at is not None and any(
        _proves_app(answer) for _, answer in refresh_batch_result.answers
    ):
        credential_checks.restore_app(refresh_batch_result.app, now=now)
    throttled = [verdict for verdict in verdicts if verdict.kind is Kind.THROTTLED]
    if throttled:
        wait = max((verdict.retry_after or THROTTLE_DEFAULT.total_seconds()) for verdict in throttled)
        until = now + min(timedelta(seconds=wait), timedelta(hours=1))
        AppRegistration.objects.filter(pk=refresh_batch_result.app.pk).update(paused_until=until)


def _has_new_credential(refresh_batch_result: RefreshBatchResult) -> bool:
    """Whether Microsoft has accepted a credential these answers know nothing of: it was added in the meantime."""
    if refresh_batch_result.tried is None:
        return False
    live = refresh_batch_result.app.credentials.filter(retired_at=None, rejected_at=None, verified_at__isnull=False)
    return live.exclude(pk__in=refresh_batch_result.tried).exists()


def _judge_microsoft(refresh_batch_result: RefreshBatchResult, now: datetime) -> None:
    """Open an outage when several tries in a row got no useful answer; one alone is an ordinary hiccup.

    While others get tokens from the same environment, the trouble is one directory's or one account's.
    """
    for due, answer in refresh_batch_result.answers:
        if isinstance(answer, Verdict) and answer.kind is Kind.TRANSIENT and due.trouble_count + 1 >= OUTAGE_AFTER:
            environment = refresh_batch_result.app.tenant.environment
            there = Connection.objects.filter(app_registration__tenant__environment=environment)
            if not there.filter(refreshed_at__gt=now - NO_OUTAGE_WITHIN, refreshed_at__lte=now).exists():
                incidents.microsoft_unreachable(environment, answer, now=now)
            return


def _proves_app(answer: Answer) -> bool:
    """Whether this answer shows that Microsoft accepts the app registration, even if it refuses the grant."""
    if isinstance(answer, token_endpoint.TokenSet):
        return True
    return isinstance(answer, Verdict) and not answer.app_wide and answer.flags()


# --- Answers about one connection -----------------------------------------------------------------


def _judge(app: AppRegistration, due: DueConnection, answer: Answer, now: datetime) -> int:
    """Flag, suspect or wait. Returns 1 if the connection was flagged."""
    if isinstance(answer, Verdict) and answer.flags() and not answer.app_wide:
        if answer.certain or _confirms(due, now):
            return int(flag(due.pk, answer, now=now, version=due.token_version))
        _suspect(due, answer, now)
        return 0
    _wait([due], answer, now, asked=True)
    return 0


def _confirms(due: DueConnection, now: datetime) -> bool:
    return due.suspected_at is not None and now - due.suspected_at >= CONFIRM_AFTER


def _suspect(due: DueConnection, verdict: Verdict, now: datetime) -> None:
    """Remember a doubtful no and ask again soon; the first doubt's time stands."""
    Connection.objects.filter(pk=due.pk, token_version=due.token_version).update(
        suspected_code=verdict.code,
        suspected_at=due.suspected_at or now,
        refresh_after=now + CONFIRM_AFTER * random.uniform(1.0, 1.3),
        checked_at=now,
    )


def flag(pk: int, verdict: Verdict, *, now: datetime, version: int) -> bool:
    """Put a connection into the status its verdict means, unless somebody has signed in since it was asked.

    The refresh token stays: Microsoft takes some answers back. Returns whether the status is news.
    """
    status = STATUS_OF[verdict.kind]
    with transaction.atomic():
        locked = Connection.objects.select_for_update(of=("self",), no_key=True)
        related = locked.select_related("app_registration__tenant", "owner")
        found = related.filter(pk=pk, token_version=version).first()
        if found is None or found.status == Connection.Status.DISABLED:
            return False
        news = (found.status, found.status_code) != (status, verdict.code)
        again = None if status == Connection.Status.RECONNECT_NEEDED else now + RETRY_FLAGGED * random.uniform(0.7, 1.0)
        values: dict[str, object] = {"refresh_after": again, "checked_at": now}
        if verdict.max_age_s is not None:
            values["sign_in_max_age"] = verdict.max_age_s
        if news:
            before = found.status
            values |= status_columns(
                status,
                code=verdict.code,
                cause=verdict.cause,
                action=verdict.action,
                who=verdict.who.value,
                reference=incidents.support_reference(verdict),
                since=now,
            )
            values |= {"suspected_code": "", "suspected_at": None}
            audit.record(
                AuditAction.CONNECTION_FLAGGED,
                found,
                actor=None,
                changes={"status": [before, status], "code": verdict.code, "cause": verdict.cause},
            )
            incidents.connection_flagged(found, verdict, now=now)
            offboarding.account_refused(found, verdict, now=now)
        Connection.objects.filter(pk=pk).update(**values)
    return news


def restore(pk: int, *, now: datetime, version: int) -> None:
    """A flagged connection got a token: it is well again."""
    with transaction.atomic():
        connection = Connection.objects.select_for_update(no_key=True).filter(pk=pk, token_version=version).first()
        if connection is None or connection.status in (Connection.Status.ACTIVE, Connection.Status.DISABLED):
            return
        audit.record(
            AuditAction.CONNECTION_HEALED, connection, actor=None, changes={"status": [connection.status, "active"]}
        )
        Connection.objects.filter(pk=pk).update(**store.healthy_columns(now))


# --- Waiting --------------------------------------------------------------------------------------


def _wait(dues: Sequence[DueConnection], answer: Answer | None, now: datetime, *, asked: bool) -> None:
    """Nobody is to blame: put connections back into the queue for a better moment, spread out."""
    if isinstance(answer, Verdict) and answer.app_wide:
        # They stay due; the claim skips them until the app registration has healed.
        Connection.objects.filter(pk__in=[due.pk for due in dues]).update(refresh_after=now)
        return
    code = answer.code if isinstance(answer, Verdict | UnreadableSecret) else ""
    if isinstance(answer, UnreadableSecret):
        logger.error("A stored secret cannot be opened with the configured keys.", extra={"connections": len(dues)})
        incidents.secrets_unreadable([due.pk for due in dues], now=now)
    delay = _delay(answer, max(due.trouble_count for due in dues))
    seen: dict[str, object] = {"checked_at": now} if asked else {}
    for slot in _slots(dues):
        Connection.objects.filter(pk__in=[due.pk for due in slot]).update(
            refresh_after=now + delay * random.uniform(0.7, 1.3),
            trouble_code=code,
            trouble_at=now,
            trouble_count=F("trouble_count") + 1,
            **seen,
        )


def postpone(refresh_batch_results: Sequence[RefreshBatchResult], *, now: datetime) -> None:
    """Where a canary found Microsoft down, let everything else that is due of its app registration wait, too.

    Otherwise every batch of a sweep would send a canary of its own and wait for its time-out.
    """
    for refresh_batch_result in refresh_batch_results:
        verdict = refresh_batch_result.held_back_by
        if not isinstance(verdict, Verdict) or verdict.kind is not Kind.TRANSIENT:
            continue
        delay = _delay(verdict, max((due.trouble_count for due, _ in refresh_batch_result.answers), default=0))
        waiting = refresh_batch_result.app.connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
        if not waiting.exists():
            continue
        for slot in range(SPREAD):
            share = waiting.annotate(slot=Mod(F("pk"), SPREAD)).filter(slot=slot)
            waiting.filter(pk__in=share.values("pk")).update(
                refresh_after=now + delay * random.uniform(0.7, 1.3),
                trouble_code=verdict.code,
                trouble_at=now,
                trouble_count=F("trouble_count") + 1,
            )


def _delay(answer: Answer | None, count: int) -> timedelta:
    told = answer.retry_after if isinstance(answer, Verdict) else None
    grown = timedelta(seconds=20) * (1 << min(count, 6))
    return min(LONGEST_WAIT, max(grown, timedelta(seconds=min(told or 0, 900))))


def _slots(dues: Sequence[DueConnection]) -> Iterable[Sequence[DueConnection]]:
    size = max(1, -(-len(dues) // SPREAD))
    return (dues[start : start + size] for start in range(0, len(dues), size))
