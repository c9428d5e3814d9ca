"""The policy as a whole: read it, change it, and decide what happens to what breaks it already.

``current`` and ``apply`` are the plain form that configuration files carry; docs/policy.md describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import IntegrityError, transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import Conflict, InvalidInput
from connections.models import AppRegistration, Policy, User
from connections.models.audit import AuditAction
from connections.services.governance import violations
from connections.services.governance.violations import Impact
from connections.services.policy import describe, evaluate
from connections.services.policy import rules as policy_rules
from connections.services.policy.evaluate import PolicySet
from connections.services.policy.rules import Rules


class ConnectionAction(StrEnum):
    """What happens to connections that break the new rules."""

    LEAVE = "leave"
    DISABLE = "disable"


class ShareAction(StrEnum):
    """What happens to shares that break the new rules."""

    LEAVE = "leave"
    MEND = "mend"  # end them; shorten those that only last too long


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change did. ``changed``: whether any rule is different now."""

    changed: bool = False
    disabled: int = 0
    ended: int = 0
    shortened: int = 0
    left_connections: int = 0
    left_shares: int = 0


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The rules of the organisation or of one app registration, and the version a form stands on (0: none yet)."""

    rules: Rules = field(default_factory=Rules)
    version: int = 0
    changed_at: datetime | None = None
    changed_by: str = ""


def stored_policy(app_registration: AppRegistration | None = None) -> StoredPolicy:
    """What stands in the database now."""
    policy = Policy.objects.select_related("changed_by").filter(app_registration=app_registration).first()
    if policy is None:
        return StoredPolicy()
    rules = policy_rules.from_database(policy.rules)
    return StoredPolicy(rules, policy.version, policy.changed_at, str(policy.changed_by or ""))


def policies_with(app_registration: AppRegistration | None, rules: Rules) -> PolicySet:
    """All policies as they would be with these rules."""
    now = evaluate.load_policies()
    if app_registration is None:
        return replace(now, organisation=rules)
    return replace(now, apps={**now.apps, app_registration.pk: rules})


def preview(app_registration: AppRegistration | None, rules: Rules, *, now: datetime) -> Impact:
    """What would break these rules; nothing is changed."""
    return violations.impact(policies_with(app_registration, rules), now=now)


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
    """Put rules in force, for the organisation or (stricter only, by nature) for one app registration.

    ``version`` and ``seen`` (the fingerprint of a preview) are what the decision stands on: if another change, or
    another connection, came between, nothing is changed and ChangedMeanwhile says so. Raises NotAllowed, InvalidInput.
    """
    roles.require(permissions.can_change_policy(actor), cause="IT admins make the policy.", action="Ask one of them.")
    # Through the plain form, so that whatever is stored can be read again.
    rules = policy_rules.from_dict(policy_rules.to_dict(rules), of_app=app_registration is not None)
    disable, mend = ConnectionAction(on_connections), ShareAction(on_shares)
    try:
        with transaction.atomic():
            before = _replace(app_registration, rules, actor=actor, now=now, version=version)
            outcome = _treat(disable, mend, seen, actor=actor, now=now)
            outcome = replace(outcome, changed=before != rules)
            _record(app_registration, before, rules, outcome, actor)
    except IntegrityError as twice:
        raise _changed() from twice
    return outcome


def _replace(
    app_registration: AppRegistration | None, rules: Rules, *, actor: User, now: datetime, version: int | None
) -> Rules:
    """Write the rules; returns those that stood there before."""
    policy = Policy.objects.select_for_update().filter(app_registration=app_registration).first()
    if version is not None and version != (policy.version if policy else 0):
        raise _changed()
    before = policy_rules.from_database(policy.rules) if policy else Rules()
    if before == rules:
        return before
    values = {"rules": policy_rules.to_dict(rules), "changed_at": now, "changed_by": actor}
    if policy is None:
        Policy.objects.create(app_registration=app_registration, **values)
    else:
        Policy.objects.filter(pk=policy.pk).update(**values, version=policy.version + 1)
    return before


def _treat(disable: ConnectionAction, mend: ShareAction, seen: str | None, *, actor: User, now: datetime) -> Outcome:
    """What was decided about the existing, with the rules that are in force from now on."""
    hit = violations.impact(evaluate.load_policies(), now=now, keep=None)
    if seen is not None and seen != hit.fingerprint:
        raise Conflict(
            "What would break the policy is not what it was when you looked. Nothing was changed.",
            action="Look at the list again, then save.",
        )
    outcome = Outcome(left_connections=hit.connection_count, left_shares=hit.share_count)
    if mend is ShareAction.MEND:
        done = violations.fix_shares(hit.shares, actor=actor, now=now)
        outcome = replace(outcome, ended=done.ended, shortened=done.shortened, left_shares=0)
    if disable is ConnectionAction.DISABLE:
        disabled = violations.disable_connections(hit.connections, actor=actor, now=now)
        outcome = replace(outcome, disabled=disabled, left_connections=0)
    return outcome


def _record(
    app_registration: AppRegistration | None, before: Rules, rules: Rules, outcome: Outcome, actor: User
) -> None:
    changes: dict[str, Any] = describe.differences(before, rules)
    for name in ("disabled", "ended", "shortened"):
        if count := getattr(outcome, name):
            changes[{"disabled": "connections disabled"}.get(name, f"shares {name}")] = count
    if changes:
        row = Policy.objects.filter(app_registration=app_registration).first()
        target = row or Policy(app_registration=app_registration)
        audit.record(AuditAction.POLICY_CHANGED, target, actor=actor, changes=changes)


def _changed() -> Conflict:
    return Conflict(
        "Somebody else has changed this policy while you were looking at it. Nothing was changed.",
        action="Look at the rules as they are now, then change them.",
    )


# --- The plain form -------------------------------------------------------------------------------


def current() -> dict[str, Any]:
    """The policy as plain JSON values: ``{"organisation": {…}, "app_registrations": {name: {…}}}``.

    App registrations without rules of their own are left out. ``apply(current())`` changes nothing.
    """
    rows = Policy.objects.exclude(app_registration=None).select_related("app_registration")
    apps = {str(row.app_registration): policy_rules.from_database(row.rules) for row in rows}
    own = {name: policy_rules.to_dict(rules) for name, rules in sorted(apps.items()) if rules.restricts}
    for rules in own.values():
        for name in policy_rules.ORGANISATION_ONLY:
            del rules[name]
    return {"organisation": policy_rules.to_dict(stored_policy().rules), "app_registrations": own}


def apply(
    wanted: Mapping[str, Any],
    *,
    actor: User,
    now: datetime,
    on_connections: str = ConnectionAction.LEAVE,
    on_shares: str = ShareAction.LEAVE,
    dry_run: bool = False,
) -> dict[str, dict[str, list[Any]]]:
    """Bring the policy to what ``wanted`` says, all of it or nothing; the form is that of ``current``.

    A policy that is not named stays as it is; one that is named is replaced as a whole, so a rule left out goes back
    to its default. Returns the differences in words by policy ("organisation", "app registration NAME");
    ``dry_run`` changes nothing. Raises NotAllowed, InvalidInput.
    """
    roles.require(permissions.can_change_policy(actor), cause="IT admins make the policy.", action="Ask one of them.")
    targets = _targets(wanted)
    differences = {}
    with transaction.atomic():
        for name, (app_registration, rules) in targets.items():
            found = describe.differences(stored_policy(app_registration).rules, rules)
            if not found:
                continue
            differences[name] = found
            if not dry_run:
                change(
                    app_registration,
                    rules,
                    actor=actor,
                    now=now,
                    on_connections=on_connections,
                    on_shares=on_shares,
                )
    return differences


def _targets(wanted: Mapping[str, Any]) -> dict[str, tuple[AppRegistration | None, Rules]]:
    unknown = sorted(set(wanted) - {"organisation", "app_registrations"})
    if unknown:
        raise InvalidInput(
            f"A policy has no part “{unknown[0][:60]}”.", action="Parts are organisation and app_registrations."
        )
    found: dict[str, tuple[AppRegistration | None, Rules]] = {}
    if "organisation" in wanted:
        found["organisation"] = (None, policy_rules.from_dict(wanted["organisation"]))
    own = wanted.get("app_registrations", {})
    if not isinstance(own, Mapping):
        raise InvalidInput("app_registrations must be a mapping of names to rules.")
    apps = {app.name: app for app in AppRegistration.objects.filter(name__in=list(own)).select_related("tenant")}
    for name, rules in own.items():
        if name not in apps:
            raise InvalidInput(f"There is no app registration “{str(name)[:120]}”.")
        found[f"app registration {name}"] = (apps[name], policy_rules.from_dict(rules, of_app=True))
    return found
