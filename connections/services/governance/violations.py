"""What exists already and breaks the policy: found by asking the policy again, never stored, so never out of date.

Connections that are switched off or were never connected break nothing; they are asked when they are enabled or
signed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from connections import audit
from connections.models import Approval, Connection, Share, User
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.incidents import incidents
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, PolicySet
from connections.services.policy.rules import Effect
from connections.services.sharing import shares as sharing_service

LISTED = 50  # of each kind on a preview; the counts tell of all
BATCH = 500
_LIVE = (
    Connection.Status.ACTIVE,
    Connection.Status.RECONNECT_NEEDED,
    Connection.Status.CONSENT_NEEDED,
    Connection.Status.BLOCKED,
)
_COLUMNS = (
    "name",
    "owner",
    "app_registration",
    "authentication_type",
    "capabilities",
    "extra_scopes",
    "granted_scopes",
    "account_tid",
    "account_username",
    "status",
    "connected_at",
)


@dataclass(frozen=True, slots=True)
class ConnectionViolation:
    """A connection that breaks the policy, and why."""

    connection: Connection
    sentences: tuple[str, ...]
    effect: Effect  # forbidden, or only not approved (yet)


@dataclass(frozen=True, slots=True)
class ShareViolation:
    """A share that breaks the policy, and why. ``shorten_to``: its only fault is that it lasts too long."""

    share: Share
    sentences: tuple[str, ...]
    shorten_to: datetime | None


# --- Finding --------------------------------------------------------------------------------------


class ViolationFinder:
    """Asks the policy about many connections; what it needs from the database is read once."""

    def __init__(self, rules: PolicySet) -> None:
        self.rules = rules
        self._tids: dict[str, frozenset[str]] = {}
        self._approved: dict[int, Approval] | None = None

    def of(self, connection: Connection) -> ConnectionViolation | None:
        """Why the connection breaks the policy; None if it does not."""
        policies = self.rules.of(connection.app_registration)
        wish = evaluate.request_of(connection)
        decision = evaluate.evaluate_connection(policies, wish, connection.granted)
        if connection.account_tid:
            decision += evaluate.evaluate_account(policies, connection.account_tid, self._registered(wish))
        open_reasons: tuple[evaluate.Reason, ...] = ()
        if decision.approval:
            open_reasons = approvals.unapproved_reasons(decision, wish, self._approvals().get(connection.pk))
        left = Decision((*decision.forbidden, *open_reasons))
        return ConnectionViolation(connection, left.sentences, left.effect) if left.reasons else None

    def _registered(self, wish: evaluate.ConnectionRequest) -> frozenset[str]:
        if wish.environment not in self._tids:
            self._tids[wish.environment] = evaluate.registered_tids(wish.environment)
        return self._tids[wish.environment]

    def _approvals(self) -> dict[int, Approval]:
        """The latest approval of every connection that has one."""
        if self._approved is None:
            given = Approval.objects.filter(state=Approval.State.APPROVED, connection__isnull=False).order_by("pk")
            self._approved = {one.connection_id: one for one in given if one.connection_id is not None}
        return self._approved


def connection_violations(rules: PolicySet, *, owner: User | None = None) -> Iterator[ConnectionViolation]:
    """Live connections that break the rules, by name."""
    if not rules.restricts:
        return
    judge = ViolationFinder(rules)
    live = Connection.objects.filter(status__in=_LIVE).only(*_COLUMNS).order_by("name", "pk")
    if owner is not None:
        live = live.filter(owner=owner)
    for connection in live.prefetch_related("owner", "app_registration__tenant").iterator(BATCH):
        broken = judge.of(connection)
        if broken is not None:
            yield broken


def share_violations(rules: PolicySet, *, now: datetime) -> Iterator[ShareViolation]:
    """Shares that count now and break the rules, by their connection's name."""
    if not rules.restricts:
        return
    active = Share.objects.active(now).exclude(connection__status=Connection.Status.DISABLED)
    ordered = active.order_by("connection__name", "pk").prefetch_related(
        "person", "team", "connection__app_registration__tenant", "connection__owner"
    )
    for share in ordered.iterator(BATCH):
        decision = evaluate_share(rules, share, now=now)
        if decision.reasons:
            yield ShareViolation(share, decision.sentences, _shorter(rules, share, decision, now))


def evaluate_share(rules: PolicySet, share: Share, *, now: datetime) -> Decision:
    """What the rules say to a share that exists."""
    return evaluate.evaluate_share(
        rules.of(share.connection.app_registration),
        authentication_type=share.connection.authentication_type,
        with_team=share.team_id is not None,
        until=share.until,
        now=now,
    )


def _shorter(rules: PolicySet, share: Share, decision: Decision, now: datetime) -> datetime | None:
    if any(reason.rule != "longest_share_days" for reason in decision.reasons):
        return None
    days = evaluate.longest_share(rules.of(share.connection.app_registration))
    return evaluate.latest_end(days, now) if days is not None else None


# --- What a change would hit ----------------------------------------------------------------------


@dataclass
class Impact:
    """What breaks the rules: the first few of each kind, the counts, and a fingerprint of all of them."""

    connections: list[ConnectionViolation] = field(default_factory=list)
    shares: list[ShareViolation] = field(default_factory=list)
    connection_count: int = 0
    share_count: int = 0
    fingerprint: str = ""

    def __bool__(self) -> bool:
        return bool(self.connection_count or self.share_count)


def impact(rules: PolicySet, *, now: datetime, keep: int | None = LISTED) -> Impact:
    """Everything that breaks the rules. ``keep`` bounds what is held of each kind; None holds all."""
    found, digest = Impact(), hashlib.sha256()
    for broken in connection_violations(rules):
        found.connection_count += 1
        digest.update(f"c{broken.connection.pk}:{broken.effect};".encode())
        if keep is None or found.connection_count <= keep:
            found.connections.append(broken)
    for share in share_violations(rules, now=now):
        found.share_count += 1
        digest.update(f"s{share.share.pk}:{share.shorten_to is None};".encode())
        if keep is None or found.share_count <= keep:
            found.shares.append(share)
    found.fingerprint = digest.hexdigest()
    return found


# --- Doing something about it ---------------------------------------------------------------------


@dataclass
class ShareChanges:
    """What became of shares."""

    ended: int = 0
    shortened: int = 0


def disable_connections(broken: list[ConnectionViolation], *, actor: User, now: datetime) -> int:
    """Switch connections off because of the policy; their grants are kept. Call inside a transaction.

    Few statements for many: those that break the same rules get the same words.
    """
    done = 0
    for first in range(0, len(broken), BATCH):
        some = {one.connection.pk: one for one in broken[first : first + BATCH]}
        rows = Connection.objects.select_for_update(no_key=True).filter(pk__in=some, status__in=_LIVE).order_by("pk")
        live = dict(rows.values_list("pk", "status"))
        by_cause: dict[str, list[int]] = {}
        for pk in live:
            by_cause.setdefault(_cause(some[pk]), []).append(pk)
        for cause, pks in by_cause.items():
            Connection.objects.filter(pk__in=pks).update(**_switched_off(cause, actor, now))
        told = (
            (some[pk].connection, {"status": [status, Connection.Status.DISABLED.value], "because": _cause(some[pk])})
            for pk, status in live.items()
        )
        audit.record_many(AuditAction.CONNECTION_DISABLED, told, actor=actor, at=now)
        incidents.connections_disabled(list(live), now=now)
        done += len(live)
    return done


def _cause(broken: ConnectionViolation) -> str:
    return f"Disabled because it breaks the policy. {' '.join(broken.sentences)}"


def _switched_off(cause: str, actor: User, now: datetime) -> dict[str, Any]:
    return {
        **status_columns(
            Connection.Status.DISABLED,
            code="policy",
            cause=cause,
            action="Change what it should do and enable it again, or ask an IT admin to change the policy.",
            who=Connection.Who.OWNER,
            since=now,
        ),
        # The owner may mend it: the policy is asked again before it is enabled.
        "disabled_by": actor,
        "disabled_by_admin": False,
        "refresh_after": None,
    }


def fix_shares(broken: list[ShareViolation], *, actor: User, now: datetime) -> ShareChanges:
    """Shorten the shares that only last too long, and end the others. Call inside a transaction."""
    done = ShareChanges()
    for one in broken:
        why = " ".join(one.sentences)
        if one.shorten_to is None:
            done.ended += sharing_service.end_for_reason(one.share, why, actor=actor, now=now)
        else:
            done.shortened += sharing_service.shorten_for_reason(
                one.share, why, until=one.shorten_to, actor=actor, now=now
            )
    return done


def violations_by_connection(rules: PolicySet, page: list[Connection]) -> dict[int, ConnectionViolation]:
    """Those of a page's connections that break the rules, by primary key."""
    if not rules.restricts:
        return {}
    judge = ViolationFinder(rules)
    found = ((one.pk, judge.of(one)) for one in page if one.status in _LIVE)
    return {pk: broken for pk, broken in found if broken is not None}
