"""Find connections and shares that violate the policy. The result is computed for every request and never stored.

A list checks them in steps, so that no page reads the whole organisation; a preview and a change check all.

Connections that are disabled or were never connected are not checked until someone enables them or signs in.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db.models import QuerySet

from connections import audit, keyset
from connections.models import Approval, Connection, Share, User
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.incidents import incidents
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, PolicySet
from connections.services.policy.rules import Effect
from connections.services.sharing import shares as sharing_service

R = TypeVar("R", Connection, Share)
V = TypeVar("V")

LISTED = 50  # of each kind in a preview; the counts include all of them
BATCH = 500
CHECKED = 2000  # connections, and shares, that one step of a list checks at most
IN_ORDER = ("name", "pk")  # of connections
_LIVE = (
    Connection.Status.ACTIVE,
    Connection.Status.RECONNECT_NEEDED,
    Connection.Status.CONSENT_NEEDED,
    Connection.Status.BLOCKED,
)
_COLUMNS = (
    "name", "owner", "app_registration", "tenant", "authentication_type", "capabilities", "extra_scopes",
    "granted_scopes", "other_granted", "account_tid", "account_username", "status", "connected_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConnectionViolation:
    connection: Connection
    sentences: tuple[str, ...]
    effect: Effect  # forbidden, or not approved (yet)


@dataclass(frozen=True, slots=True)
class ShareViolation:
    share: Share
    sentences: tuple[str, ...]
    shorten_to: datetime | None  # set if the share only lasts too long


class ViolationFinder:
    """Checks many connections against the policy, reading what they have in common from the database only once."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = policies
        self._tids: dict[str, frozenset[str]] = {}

    def of(self, connection: Connection) -> ConnectionViolation | None:
        policies = self.policies.of(connection.app_registration)
        request = evaluate.request_of(connection)
        decision = evaluate.evaluate_connection(policies, request, connection.granted)
        if connection.account_tid:
            if request.environment not in self._tids:
                self._tids[request.environment] = evaluate.registered_tids(request.environment)
            registered = self._tids[request.environment]
            decision += evaluate.evaluate_account(policies, connection.account_tid, registered)
        unapproved: tuple[evaluate.Reason, ...] = ()
        if decision.approval:
            unapproved = approvals.unapproved_reasons(decision, request, self._approvals.get(connection.pk))
        remaining = Decision((*decision.forbidden, *unapproved))
        return ConnectionViolation(connection, remaining.sentences, remaining.effect) if remaining.reasons else None

    @cached_property
    def _approvals(self) -> dict[int | None, Approval]:
        permitted = Approval.objects.filter(state=Approval.State.APPROVED, account_oid="")
        approved = permitted.filter(connection__isnull=False).order_by("pk")
        return {approval.connection_id: approval for approval in approved}


def _live() -> QuerySet[Connection]:
    live = Connection.objects.filter(status__in=_LIVE).only(*_COLUMNS)
    return live.prefetch_related("owner", "app_registration", "tenant")


def _active_shares(now: datetime) -> QuerySet[Share]:
    active = Share.objects.active(now).exclude(connection__status=Connection.Status.DISABLED)
    return active.prefetch_related(
        "person", "team", "connection__app_registration", "connection__tenant", "connection__owner"
    )


def _share_violation(policies: PolicySet, share: Share, now: datetime) -> ShareViolation | None:
    sources = policies.of(share.connection.app_registration)
    kind, with_team = share.connection.authentication_type, share.team_id is not None
    decision = evaluate.evaluate_share(
        sources, authentication_type=kind, with_team=with_team, until=share.until, now=now
    )
    if not decision.reasons:
        return None
    days = evaluate.longest_share(sources)
    only_too_long = all(reason.rule == "longest_share_days" for reason in decision.reasons)
    shorten_to = evaluate.latest_end(days, now) if only_too_long and days is not None else None
    return ShareViolation(share, decision.sentences, shorten_to)


@dataclass(frozen=True, slots=True)
class Step(Generic[V]):
    """The violations that one step has found, and after which row the next one begins; None at the end."""

    violations: list[V]
    checked: int
    next: list[Any] | None


def check_connections(policies: PolicySet, *, after: list[Any] | None, most: int) -> Step[ConnectionViolation]:
    """Check connections by name until ``most`` violate the policy. ``after`` is the last step's ``next``."""
    return _step(
        policies, ViolationFinder(policies).of, lambda key: keyset.page_rows(_live(), IN_ORDER, BATCH, key=key),
        lambda connection: [connection.name, connection.pk], after, most,
    )  # fmt: skip


def check_shares(policies: PolicySet, *, after: list[Any] | None, most: int, now: datetime) -> Step[ShareViolation]:
    """Check shares, the oldest first, until ``most`` violate the policy. ``after`` is the last step's ``next``."""
    return _step(
        policies, lambda share: _share_violation(policies, share, now),
        lambda key: keyset.page_rows(_active_shares(now), ("pk",), BATCH, key=key), lambda share: [share.pk], after, most,
    )  # fmt: skip


def _step(
    policies: PolicySet,
    check: Callable[[R], V | None],
    read: Callable[[list[Any] | None], list[R]],
    key_of: Callable[[R], list[Any]],
    key: list[Any] | None,
    most: int,
) -> Step[V]:
    violations: list[V] = []
    checked = 0
    while policies.restricts and checked < CHECKED:
        rows = read(key)
        for row in rows[:BATCH]:
            checked, key = checked + 1, key_of(row)
            violation = check(row)
            if violation is not None:
                violations.append(violation)
            if len(violations) == most:
                return Step(violations, checked, key)
        if len(rows) <= BATCH:
            return Step(violations, checked, None)
    return Step(violations, checked, key if policies.restricts else None)


@dataclass
class Impact:
    """The policy violations: the first of each kind, the number of each kind, and a fingerprint of all of them."""

    connections: list[ConnectionViolation] = field(default_factory=list)
    shares: list[ShareViolation] = field(default_factory=list)
    connection_count: int = 0
    share_count: int = 0
    fingerprint: str = ""

    def __bool__(self) -> bool:
        return bool(self.connection_count or self.share_count)


def impact(policies: PolicySet, *, now: datetime, keep: int | None = LISTED) -> Impact:
    """Return the policy violations. At most ``keep`` of each kind are listed (None: all)."""
    result, digest = Impact(), hashlib.sha256()
    if policies.restricts:
        finder = ViolationFinder(policies)
        for violation in filter(None, map(finder.of, _live().order_by(*IN_ORDER).iterator(BATCH))):
            result.connection_count += 1
            digest.update(f"c{violation.connection.pk}:{violation.effect};".encode())
            if keep is None or result.connection_count <= keep:
                result.connections.append(violation)
        shares = _active_shares(now).order_by("connection__name", "pk").iterator(BATCH)
        for share_violation in filter(None, (_share_violation(policies, share, now) for share in shares)):
            result.share_count += 1
            digest.update(f"s{share_violation.share.pk}:{share_violation.shorten_to is None};".encode())
            if keep is None or result.share_count <= keep:
                result.shares.append(share_violation)
    result.fingerprint = digest.hexdigest()
    return result


def disable_connections(violations: list[ConnectionViolation], *, actor: User, now: datetime) -> int:
    """Disable connections in few statements, keeping their grants. Returns how many. Call it in a transaction."""
    disabled = 0
    for first in range(0, len(violations), BATCH):
        batch = {violation.connection.pk: violation for violation in violations[first : first + BATCH]}
        rows = Connection.objects.select_for_update(no_key=True).filter(pk__in=batch, status__in=_LIVE).order_by("pk")
        by_cause: dict[str, list[int]] = {}
        events = []
        for pk, status in rows.values_list("pk", "status"):
            cause = f"Disabled because it violates the policy. {' '.join(batch[pk].sentences)}"
            by_cause.setdefault(cause, []).append(pk)
            changes = {"status": [status, Connection.Status.DISABLED.value], "because": cause}
            events.append((batch[pk].connection, changes))
        for cause, pks in by_cause.items():
            columns = status_columns(
                Connection.Status.DISABLED,
                code="policy",
                cause=cause,
                action="Change its permissions and enable it again, or ask an IT admin to change the policy.",
                who=Connection.Who.OWNER,
                since=now,
            )
            # With disabled_by_admin=False, the owner can fix and enable it. Enabling checks the policy again.
            Connection.objects.filter(pk__in=pks).update(
                **columns, disabled_by=actor, disabled_by_admin=False, refresh_after=None
            )
        audit.record_many(AuditAction.CONNECTION_DISABLED, events, actor=actor, at=now)
        incidents.connections_disabled([connection.pk for connection, _ in events], now=now)
        disabled += len(events)
    return disabled


def fix_shares(violations: list[ShareViolation], *, actor: User, now: datetime) -> tuple[int, int]:
    """End shares, or shorten those that only last too long. Returns the number of each. Call it in a transaction."""
    ended = shortened = 0
    for violation in violations:
        share, until, why = violation.share, violation.shorten_to, " ".join(violation.sentences)
        if until is None:
            ended += sharing_service.end_for_reason(share, why, actor=actor, now=now)
        else:
            shortened += sharing_service.shorten_for_reason(share, why, until=until, actor=actor, now=now)
    return ended, shortened


def violations_by_connection(policies: PolicySet, connections: list[Connection]) -> dict[int, ConnectionViolation]:
    if not policies.restricts:
        return {}
    finder = ViolationFinder(policies)
    checked = ((connection.pk, finder.of(connection)) for connection in connections if connection.status in _LIVE)
    return {pk: violation for pk, violation in checked if violation is not None}
