"""Describe policy rules in words: for the audit trail, for members, and to compare two versions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from connections.microsoft import capabilities, clouds
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import rules as policy_rules
from connections.services.policy.evaluate import TYPE_WORDS
from connections.services.policy.rules import Effect, Rules


def lines(rules: Rules, *, tenants: Mapping[str, str] | None = None, of_app: bool = False) -> dict[str, str]:
    """Return every rule as label and value. ``tenants`` maps tenant keys to names.

    ``of_app`` omits rules that only the organisation has.
    """
    types = {kind.value: words for kind, words in TYPE_WORDS.items()}
    result = {"allowed connection types": _join(rules.authentication_types, types, len(AuthenticationType))}
    if not of_app:
        result["allowed environments"] = _join(rules.environments, _environment_labels())
        result["allowed tenants"] = _join(rules.tenants, tenants or {})
        result["automatic renewal of credentials"] = _allowed(rules.credential_renewal)
        result["app registrations of members"] = _allowed(rules.member_apps)
    labels = {key: capability.label for key, capability in capabilities.CAPABILITIES.items()}
    for effect, word in ((Effect.FORBIDDEN, "not allowed"), (Effect.APPROVAL, "that require approval")):
        result[f"capabilities {word}"] = _with_effect(rules.capabilities, effect, labels)
        result[f"permissions {word}"] = _with_effect(rules.permissions, effect, {})
    result["permission exceptions"] = _with_effect(rules.permissions, Effect.ALLOWED, {})
    days = rules.longest_share_days
    return result | {
        "personal Microsoft accounts": _allowed(rules.personal_accounts),
        "accounts from other directories": _allowed(rules.other_tenants),
        "automatic tenant registration": "on" if rules.register_tenants else "off",
        "sharing with people": _allowed(rules.share_with_people),
        "sharing app-only connections": _allowed(rules.share_app_only),
        "maximum share duration": "no limit" if days is None else policy_rules.days_text(days),
        "second IT admin for app-only connections": "approval required"
        if rules.app_only_second_admin
        else "not required",
    }


def _allowed(value: bool) -> str:
    return "allowed" if value else "not allowed"


def _environment_labels() -> dict[str, str]:
    return {key: cloud.label for key, cloud in clouds.CLOUDS.items()}


def _join(chosen: Collection[str] | None, names: Mapping[str, str], total: int = 0) -> str:
    if chosen is None or len(chosen) == total != 0:
        return "all"
    return ", ".join(sorted(names.get(key, key) for key in chosen)) or "none"


def _with_effect(rules: Mapping[str, Effect], effect: Effect, labels: Mapping[str, str]) -> str:
    return ", ".join(labels.get(name, name) for name, value in rules.items() if value is effect) or "none"


def differences(before: Rules, after: Rules) -> dict[str, list[Any]]:
    """Return the rules that differ, as text: {label: [before, after]}."""
    names = tenant_names() if before.tenants != after.tenants else {}
    old, new = lines(before, tenants=names), lines(after, tenants=names)
    return {label: [old[label], new[label]] for label in old if old[label] != new[label]}


@dataclass(frozen=True, slots=True)
class Summary:
    """The restrictions in sentences and short names, for people who connect."""

    forbidden: list[str]
    approval: list[str]
    allowed: list[str]  # exceptions to the restrictions
    limits: list[str]

    def __bool__(self) -> bool:
        return bool(self.forbidden or self.approval or self.limits)


def summary(rules: Rules) -> Summary:
    named: dict[Effect, list[str]] = {effect: [] for effect in Effect}
    for key, capability in capabilities.CAPABILITIES.items():
        named[rules.of_capability(key)].append(capability.label)
    named[Effect.ALLOWED] = []  # capabilities have no patterns, so they need no exceptions
    for name, effect in rules.permissions.items():
        text = f"permissions that begin with {name[:-1]}" if name.endswith("*") else f"the permission {name}"
        named[effect].append("every other permission" if name == "*" else text)
    return Summary(named[Effect.FORBIDDEN], named[Effect.APPROVAL], named[Effect.ALLOWED], _limits(rules))


def _limits(rules: Rules) -> list[str]:
    types, days = rules.authentication_types, rules.longest_share_days
    sentences = []
    if types is not None:
        sentences += [
            f"{words.capitalize()} are not allowed." for kind, words in TYPE_WORDS.items() if kind not in types
        ]
    if rules.environments is not None:
        environments = _join(rules.environments, _environment_labels())
        sentences.append(f"Connections are allowed in these environments only: {environments}.")
    if rules.tenants is not None:
        tenants = _join(rules.tenants, tenant_names())
        sentences.append(f"Connections are allowed in these tenants only: {tenants}.")
    limited = (
        (rules.app_only_second_admin, "App-only connections need a second IT admin's approval."),
        (not rules.personal_accounts, "Personal Microsoft accounts can't be connected."),
        (not rules.other_tenants, "Accounts from directories that aren't tenants in this portal can't be connected."),
        (not rules.share_with_people, "Connections can be shared only with teams."),
        (not rules.share_app_only, "App-only connections can't be shared."),
    )
    sentences += [sentence for applies, sentence in limited if applies]
    return sentences if days is None else [*sentences, f"Shares expire after at most {policy_rules.days_text(days)}."]


def tenant_names() -> dict[str, str]:
    return {policy_rules.tenant_key(tenant): tenant.name for tenant in Tenant.objects.all()}
