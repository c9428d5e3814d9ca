"""The rules of a policy in words: for the audit trail, for members, and for comparing two states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from connections.microsoft import capabilities, clouds
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import rules as policy_rules
from connections.services.policy.evaluate import TYPE_WORDS
from connections.services.policy.rules import Effect, Rules

NONE = "none"
LABELS = {
    "authentication_types": "allowed kinds of connections",
    "environments": "allowed environments",
    "tenants": "allowed tenants",
    "personal_accounts": "personal Microsoft accounts",
    "other_tenants": "accounts of directories not registered here",
    "share_with_people": "sharing with single people",
    "share_app_only": "sharing app-only connections",
    "longest_share_days": "longest share",
    "app_only_second_admin": "second IT admin for app-only connections",
}


def lines(rules: Rules, *, tenants: Mapping[str, str] | None = None, of_app: bool = False) -> dict[str, str]:
    """Every rule as label and value. ``tenants`` gives names for tenant keys; ``of_app`` leaves out what only the
    organisation can say.
    """
    names = tenants or {}
    allowed: Callable[[bool], str] = lambda yes: "allowed" if yes else "forbidden"  # noqa: E731
    types = {kind.value: words for kind, words in TYPE_WORDS.items()}
    found = {LABELS["authentication_types"]: _list(rules.authentication_types, types, len(AuthenticationType))}
    if not of_app:
        places = {key: cloud.label for key, cloud in clouds.CLOUDS.items()}
        found[LABELS["environments"]] = _list(rules.environments, places)
        found[LABELS["tenants"]] = _list(rules.tenants, names)
    labels = {key: known.label for key, known in capabilities.CAPABILITIES.items()}
    for effect, word in ((Effect.FORBIDDEN, "forbidden"), (Effect.APPROVAL, "need approval")):
        found[f"capabilities, {word}"] = _with(rules.capabilities, effect, labels)
        found[f"permissions, {word}"] = _with(rules.permissions, effect, {})
    found["permissions, allowed in spite of a pattern"] = _with(rules.permissions, Effect.ALLOWED, {})
    days = rules.longest_share_days
    return found | {
        LABELS["personal_accounts"]: allowed(rules.personal_accounts),
        LABELS["other_tenants"]: allowed(rules.other_tenants),
        LABELS["share_with_people"]: allowed(rules.share_with_people),
        LABELS["share_app_only"]: allowed(rules.share_app_only),
        LABELS["longest_share_days"]: "no limit" if days is None else f"{days} day{'' if days == 1 else 's'}",
        LABELS["app_only_second_admin"]: "must approve" if rules.app_only_second_admin else "not needed",
    }


def differences(before: Rules, after: Rules) -> dict[str, list[Any]]:
    """The rules that differ, in words: {label: [before, after]}."""
    names = tenant_names() if before.tenants != after.tenants else {}
    old, new = lines(before, tenants=names), lines(after, tenants=names)
    return {label: [old[label], new[label]] for label in old if old[label] != new[label]}


@dataclass(frozen=True, slots=True)
class Summary:
    """What is restricted, for people who only connect: sentences and short names."""

    forbidden: list[str]
    approval: list[str]
    allowed: list[str]  # exceptions from the other two
    limits: list[str]

    def __bool__(self) -> bool:
        return bool(self.forbidden or self.approval or self.limits)


def summary(rules: Rules) -> Summary:
    """The rules in a few words."""
    return Summary(
        forbidden=_named(rules, Effect.FORBIDDEN),
        approval=_named(rules, Effect.APPROVAL),
        allowed=_named(rules, Effect.ALLOWED),
        limits=_limits(rules),
    )


def _named(rules: Rules, effect: Effect) -> list[str]:
    known = capabilities.CAPABILITIES.items()
    labels = [one.label for key, one in known if effect is not Effect.ALLOWED and rules.of_capability(key) is effect]
    return [*labels, *(_spelt_out(name) for name, one in rules.permissions.items() if one is effect)]


def _spelt_out(name: str) -> str:
    if name == "*":
        return "every other permission"
    return f"permissions that begin with {name[:-1]}" if name.endswith("*") else f"the permission {name}"


def _limits(rules: Rules) -> list[str]:
    found = []
    for kind, words in TYPE_WORDS.items():
        if rules.authentication_types is not None and kind not in rules.authentication_types:
            found.append(f"{words.capitalize()} are not allowed.")
    if rules.environments is not None:
        places = {key: cloud.label for key, cloud in clouds.CLOUDS.items()}
        found.append(f"Connections are allowed in these environments only: {_list(rules.environments, places)}.")
    if rules.tenants is not None:
        found.append(f"Connections are allowed in these tenants only: {_list(rules.tenants, tenant_names())}.")
    days = rules.longest_share_days
    limited = (
        (rules.app_only_second_admin, "App-only connections need the approval of a second IT admin."),
        (not rules.personal_accounts, "Personal Microsoft accounts cannot be connected."),
        (not rules.other_tenants, "Accounts of directories that are not registered here cannot be connected."),
        (not rules.share_with_people, "Connections can be shared with teams only, not with single people."),
        (not rules.share_app_only, "App-only connections cannot be shared."),
        (days is not None, f"A share lasts {days} day{'' if days == 1 else 's'} at most."),
    )
    return [*found, *(sentence for applies, sentence in limited if applies)]


def tenant_names() -> dict[str, str]:
    """Names of the registered tenants by their keys; one query."""
    return {policy_rules.tenant_key(tenant): tenant.name for tenant in Tenant.objects.all()}


def _list(chosen: Collection[str] | None, names: Mapping[str, str], total: int = 0) -> str:
    if chosen is None or len(chosen) == total != 0:
        return "all"
    return ", ".join(sorted(names.get(one, one) for one in chosen)) or NONE


def _with(rules: Mapping[str, Effect], effect: Effect, labels: Mapping[str, str]) -> str:
    return ", ".join(labels.get(name, name) for name, one in rules.items() if one is effect) or NONE
