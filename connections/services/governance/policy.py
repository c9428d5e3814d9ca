"""Read and change the policy, and handle existing connections and shares that violate it."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from connections import audit
from connections.access import permissions, roles
from connections.errors import Conflict
from connections.models import AppRegistration, Policy, User
from connections.models.audit import AuditAction
from connections.services.governance import violations
from connections.services.governance.violations import Impact
from connections.services.policy import describe, evaluate, four_eyes, loosening
from connections.services.policy import rules as policy_rules
from connections.services.policy.rules import Rules
from connections.uniqueness import atomic_or


class ConnectionAction(StrEnum):
    LEAVE = "leave"
    DISABLE = "disable"


class ShareAction(StrEnum):
    LEAVE = "leave"
    MEND = "mend"  # end these shares, or shorten those that are only too long


@dataclass(frozen=True, slots=True)
class Outcome:
    changed: bool = False  # whether any rule has changed
    disabled: int = 0
    ended: int = 0
    shortened: int = 0
    left_connections: int = 0
    left_shares: int = 0


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    rules: Rules = field(default_factory=Rules)
    version: int = 0  # 0 before the first change
    changed_at: datetime | None = None
    changed_by: str = ""


def stored_policy(app_registration: AppRegistration | None = None) -> StoredPolicy:
    policy = Policy.objects.select_related("changed_by").filter(app_registration=app_registration).first()
    if policy is None:
        return StoredPolicy()
    rules = policy_rules.from_database(policy.rules)
    return StoredPolicy(rules, policy.version, policy.changed_at, str(policy.changed_by or ""))


def preview(app_registration: AppRegistration | None, rules: Rules, *, now: datetime) -> Impact:
    policies = evaluate.load_policies()
    if app_registration is None:
        policies = replace(policies, organisation=rules)
    else:
        policies = replace(policies, apps={**policies.apps, app_registration.pk: rules})
    return violations.impact(policies, now=now)


def change(
    app_registration: AppRegistration | None,
    rules: Rules,
    *,
    actor: User,
    now: datetime,
    on_connections: str = ConnectionAction.LEAVE,
    on_shares: str = ShareAction.LEAVE,
    version: int | None = None,
    seen: str | None = None,
) -> Outcome:
    """Replace the rules of an app registration (None: the organisation), and handle what now violates the policy.

    Raises NotAllowed, InvalidInput, SecondPersonNeeded for looser rules while app-only connections need a second IT
    admin, or Conflict if ``version`` or ``seen`` (the fingerprint of a preview) is out of date.
    """
    roles.require(
        permissions.can_change_policy(actor), cause="Only IT admins can change the policy.", action="Ask an IT admin."
    )
    # Convert to plain values and back, so that only rules that can be read again are stored.
    rules = policy_rules.from_dict(policy_rules.to_dict(rules), of_app=app_registration is not None)
    disable = ConnectionAction(on_connections) is ConnectionAction.DISABLE
    fix = ShareAction(on_shares) is ShareAction.MEND
    with atomic_or(lambda: _changed_meanwhile()):
        before = _replace(app_registration, rules, actor=actor, now=now, version=version)
        outcome = _apply_to_existing(seen, disable=disable, fix=fix, actor=actor, now=now)
        changes: dict[str, Any] = describe.differences(before, rules)
        for label, count in (
            ("connections disabled", outcome.disabled),
            ("shares ended", outcome.ended),
            ("shares shortened", outcome.shortened),
        ):
            if count:
                changes[label] = count
        if changes:
            target = Policy.objects.filter(app_registration=app_registration).first()
            target = target or Policy(app_registration=app_registration)
            audit.record(AuditAction.POLICY_CHANGED, target, actor=actor, changes=changes)
            loosening.record(target, before, rules, actor=actor, now=now)
    return replace(outcome, changed=before != rules)


def _replace(
    app_registration: AppRegistration | None, rules: Rules, *, actor: User, now: datetime, version: int | None
) -> Rules:
    policy = Policy.objects.select_for_update().filter(app_registration=app_registration).first()
    if version is not None and version != (policy.version if policy else 0):
        raise _changed_meanwhile()
    before = policy_rules.from_database(policy.rules) if policy else Rules()
    if before == rules:
        return before
    change = loosening.needs_second_admin(app_registration, before, rules)
    four_eyes.require(change, actor=actor, now=now)
    values = {"rules": policy_rules.to_dict(rules), "changed_at": now, "changed_by": actor}
    if policy is None:
        Policy.objects.create(app_registration=app_registration, **values)
    else:
        Policy.objects.filter(pk=policy.pk).update(**values, version=policy.version + 1)
    return before


def _apply_to_existing(seen: str | None, *, disable: bool, fix: bool, actor: User, now: datetime) -> Outcome:
    impact = violations.impact(evaluate.load_policies(), now=now, keep=None)
    if seen is not None and seen != impact.fingerprint:
        raise Conflict(
            "The policy violations have changed since your preview. Nothing was changed.",
            action="Review the list again, then save.",
        )
    outcome = Outcome(left_connections=impact.connection_count, left_shares=impact.share_count)
    if fix:
        ended, shortened = violations.fix_shares(impact.shares, actor=actor, now=now)
        outcome = replace(outcome, ended=ended, shortened=shortened, left_shares=0)
    if disable:
        disabled = violations.disable_connections(impact.connections, actor=actor, now=now)
        outcome = replace(outcome, disabled=disabled, left_connections=0)
    return outcome


def _changed_meanwhile() -> Conflict:
    return Conflict(
        "Someone else changed this policy in the meantime. Nothing was changed.",
        action="Review the current rules, then change them.",
    )


def current() -> dict[str, Any]:
    """Return the policy as plain JSON values (docs/policy.md). Omits app registrations without rules."""
    rows = Policy.objects.exclude(app_registration=None).select_related("app_registration")
    apps = {str(row.app_registration): policy_rules.from_database(row.rules) for row in rows}
    own = {name: policy_rules.to_dict(rules) for name, rules in sorted(apps.items()) if rules.restricts}
    for rules in own.values():
        for name in policy_rules.ORGANISATION_ONLY:
            del rules[name]
    return {"organisation": policy_rules.to_dict(stored_policy().rules), "app_registrations": own}
