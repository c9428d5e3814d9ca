"""Loosening the policy: who must approve it, who is informed, and what was created while rules were loose."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Q

from connections import audit
from connections.access import querysets
from connections.models import AppRegistration, AuditEvent, Connection, Policy, Share, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts
from connections.services.policy import describe, evaluate
from connections.services.policy import rules as policy_rules
from connections.services.policy.four_eyes import Change, Kind
from connections.services.policy.rules import Rules

LISTED = 100  # per kind


def needs_second_admin(app: AppRegistration | None, before: Rules, after: Rules) -> Change | None:
    """Return the change to approve if it loosens a rule while a second IT admin is required, otherwise None.

    A second IT admin is required if the organisation's rules say so, or those of the app registration. A change of the
    organisation's rules also needs approval if any app registration has this rule. There is no exception for the only
    IT admin, who could have disabled the others.
    """
    policies = evaluate.load_policies()
    own = policies.apps.values() if app is None else filter(None, [policies.apps.get(app.pk)])
    in_force = [policies.organisation, before, *own]
    if not policy_rules.loosened(before, after) or not any(rules.app_only_second_admin for rules in in_force):
        return None
    differences = describe.differences(before, after).items()
    return Change(
        Kind.POLICY,
        {
            "app_registration": app.pk if app is not None else None,
            "before": policy_rules.to_dict(before),
            "after": policy_rules.to_dict(after),
        },
        f"Loosening the policy of {app if app is not None else 'the organisation'}",
        f"/policy/apps/{app.pk}/" if app is not None else "/policy/",
        tuple(f"{label}: {old} → {new}" for label, (old, new) in differences),
    )


def record(policy: Policy, before: Rules, after: Rules, *, actor: User, now: datetime) -> None:
    """Record and announce that rules became looser or stricter. Call it in the transaction of the change.

    When rules are tightened again, the event lists what was created since they were loosened.
    """
    looser, stricter = policy_rules.loosened(before, after), policy_rules.loosened(after, before)
    created = created_since_loosening(policy, rules=stricter)
    if created is not None:
        changes = {"loose_since": str(created.since), "rules": audit.join_values(stricter), **created.facts}
        audit.record(AuditAction.POLICY_TIGHTENED, policy, actor=actor, at=now, changes=changes)
    if looser:
        changes = {"rules": audit.join_values(looser)}
        event = audit.record(AuditAction.POLICY_LOOSENED, policy, actor=actor, at=now, changes=changes)
        _announce(policy, event, describe.differences(before, after), actor=actor, now=now)


@dataclass(frozen=True, slots=True)
class CreatedWhileLoose:
    """Connections and shares that were created since the rules were loosened, according to the portal's own records."""

    since: datetime
    by: str
    connections: list[Connection] = field(default_factory=list)  # created or signed in to
    shares: list[Share] = field(default_factory=list)
    more: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "connections": audit.join_values(f"{row} ({row.pk})" for row in self.connections) or "none",
            "shares": audit.join_values(self.shares) or "none",
            **({"more": self.more} if self.more else {}),
        }


def created_since_loosening(policy: Policy | None, *, rules: Collection[str] | None = None) -> CreatedWhileLoose | None:
    """Return what was created since one of these rules (None: any rule) was loosened.

    Returns None if all of them are tight again.
    """
    first = _first_loosening(policy, rules) if policy is not None else None
    if policy is None or first is None:
        return None
    connections = Connection.objects.filter(Q(created_at__gte=first.at) | Q(connected_at__gte=first.at))
    shares = Share.objects.filter(created_at__gte=first.at)
    if policy.app_registration_id is not None:
        connections = connections.filter(app_registration=policy.app_registration_id)
        shares = shares.filter(connection__app_registration=policy.app_registration_id)
    counts = connections.count(), shares.count()
    listed = list(connections.select_related("owner").order_by("name", "pk")[:LISTED])
    rows = list(shares.select_related("connection", "person", "team").order_by("pk")[:LISTED])
    return CreatedWhileLoose(first.at, first.actor_name, listed, rows, sum(counts) - len(listed) - len(rows))


def _first_loosening(policy: Policy, rules: Collection[str] | None) -> AuditEvent | None:
    actions = (AuditAction.POLICY_LOOSENED, AuditAction.POLICY_TIGHTENED)
    events = AuditEvent.objects.filter(target_type="Policy", target_id=str(policy.pk), action__in=actions)
    loose: dict[str, AuditEvent] = {}  # the loosening of each rule that has not been tightened since
    for event in events.order_by("pk"):
        for rule in event.changes["rules"].split(", "):
            if event.action == AuditAction.POLICY_LOOSENED:
                loose.setdefault(rule, event)
            else:
                loose.pop(rule, None)
    since = [event for rule, event in loose.items() if rules is None or rule in rules]
    return min(since, key=lambda event: event.pk, default=None)


def _announce(
    policy: Policy, event: AuditEvent, differences: dict[str, list[Any]], *, actor: User, now: datetime
) -> None:
    path = f"/policy/apps/{policy.app_registration_id}/" if policy.app_registration_id else "/policy/"
    message = alerts.Message(
        subject=f"{actor} loosened the policy",
        paragraphs=(f"{actor} ({actor.username}) changed rules of the {str(policy).lower()}, which now allow more.",),
        path=path,
        button="View policy",
        why="You received this email because you are an IT admin or auditor.",
        lines=tuple(f"{label}: {old} → {new}" for label, (old, new) in differences.items()),
        lines_label="Changed rules",
        tone="warning",
    )
    people: Iterable[User] = [*querysets.it_admins(), *querysets.auditors()]
    alerts.notify(people, message, about=f"policy:{event.pk}:loosened", now=now, is_alarm=True)
