"""The rules of a policy: a frozen bundle, its plain dict form, and their validation.

The dict form is a contract (docs/policy.md), used by the database and configuration files. Missing rules and defaults
restrict nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from connections.errors import InvalidInput
from connections.microsoft import capabilities
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType

MOST_PATTERNS = 200
LONGEST_SHARE = 3 * 365  # days; services.sharing rejects longer shares


class Effect(StrEnum):
    """The effect of a rule, from lenient to strict."""

    ALLOWED = "allowed"
    APPROVAL = "approval"
    FORBIDDEN = "forbidden"


_STRICTNESS = list(Effect)


def strictest(effects: Iterable[Effect]) -> Effect:
    return max(effects, key=_STRICTNESS.index, default=Effect.ALLOWED)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the organisation, or of one app registration. None means "all, including future ones"."""

    authentication_types: tuple[str, ...] | None = None
    environments: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None  # see tenant_key
    capabilities: Mapping[str, Effect] = field(default_factory=dict)
    permissions: Mapping[str, Effect] = field(default_factory=dict)  # by name or pattern
    personal_accounts: bool = True
    other_tenants: bool = True
    share_with_people: bool = True
    share_app_only: bool = True
    longest_share_days: int | None = None
    app_only_second_admin: bool = False

    @property
    def restricts(self) -> bool:
        return self != Rules()

    def of_capability(self, key: str) -> Effect:
        return self.capabilities.get(key, Effect.ALLOWED)

    def of_permission(self, name: str) -> tuple[Effect, str]:
        """Return the effect on a scope or role, and the most specific name or pattern it comes from, ignoring case."""
        matching = (pattern for pattern in self.permissions if matches(pattern, name))
        best = max(matching, key=lambda pattern: (not pattern.endswith("*"), len(pattern)), default="")
        return (self.permissions[best], best) if best else (Effect.ALLOWED, "")


def matches(pattern: str, name: str) -> bool:
    """Whether a rule's name or pattern matches this permission: ``Mail.*`` matches all that begin with "Mail."."""
    pattern, name = pattern.lower(), name.lower()
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def tenant_key(tenant: Tenant) -> str:
    """Return the name of a tenant in rules: environment and directory, which do not change while it is in use."""
    return f"{tenant.environment}/{tenant.directory_id}"


def days_text(days: int) -> str:
    return f"{days} day{'' if days == 1 else 's'}"


def stricter(first: Rules, second: Rules) -> Rules:
    names = {*first.permissions, *second.permissions}
    keys = {*first.capabilities, *second.capabilities}
    days = [rules.longest_share_days for rules in (first, second) if rules.longest_share_days is not None]
    values: dict[str, Any] = {name: _common(getattr(first, name), getattr(second, name)) for name in _LISTS}
    values |= {name: getattr(first, name) and getattr(second, name) for name in _PERMITS}
    return Rules(
        **values,
        capabilities={key: strictest([first.of_capability(key), second.of_capability(key)]) for key in sorted(keys)},
        permissions={
            name: strictest([first.of_permission(name)[0], second.of_permission(name)[0]]) for name in sorted(names)
        },
        longest_share_days=min(days, default=None),
        app_only_second_admin=first.app_only_second_admin or second.app_only_second_admin,
    )


def _common(first: tuple[str, ...] | None, second: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if first is None or second is None:
        return second if first is None else first
    return tuple(name for name in first if name in second)


# An app registration has one tenant in one environment, so it has no rules about these.
ORGANISATION_ONLY = ("environments", "tenants")
_LISTS = ("authentication_types", *ORGANISATION_ONLY)
_PERMITS = ("personal_accounts", "other_tenants", "share_with_people", "share_app_only")  # true: not restricted


def to_dict(rules: Rules) -> dict[str, Any]:
    """Return all rules as plain JSON values, in the order in which the page shows them."""
    return {field.name: _to_json(getattr(rules, field.name)) for field in fields(Rules)}


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: str(effect) for name, effect in sorted(value.items())}
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: Any, *, of_app: bool = False) -> Rules:
    """Parse rules from a dict. Raises InvalidInput for the first unknown or invalid rule, which ``field`` names."""
    if not isinstance(values, Mapping):
        raise InvalidInput("The rules of a policy are a mapping of names to values.")
    unknown = sorted(str(name) for name in values if name not in _PARSERS)
    if unknown:
        action = f"Rules are: {', '.join(field.name for field in fields(Rules))}."
        raise InvalidInput(f"The policy has no rule “{unknown[0][:60]}”.", action=action)
    if of_app and any(values.get(name) is not None for name in ORGANISATION_ONLY):
        raise InvalidInput("Environments and tenants are rules of the organisation.", field="tenants")
    return Rules(**{name: _PARSERS[name](value, name) for name, value in values.items()})


def from_database(values: Any) -> Rules:
    """Load rules from the database, ignoring rules and capabilities that this version does not know."""
    known = {name: values[name] for name in values if name in _PARSERS} if isinstance(values, Mapping) else {}
    if isinstance(known.get("capabilities"), Mapping):
        effects = known["capabilities"].items()
        known["capabilities"] = {key: effect for key, effect in effects if key in capabilities.CAPABILITIES}
    return from_dict(known)


def _invalid(name: str, expected: str) -> InvalidInput:
    return InvalidInput(f"The rule {name} must be {expected}.", field=name)


def _parse_flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, "true or false")
    return value


def _parse_names(value: Any, name: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and 0 < len(text) <= 300 for text in value):
        raise _invalid(name, "null (all of them) or a list of names")
    return tuple(sorted(set(value)))


def _parse_types(value: Any, name: str) -> tuple[str, ...] | None:
    types = _parse_names(value, name)
    if types is not None and not set(types) <= set(AuthenticationType.values):
        raise _invalid(name, f"null or a list of {' and '.join(AuthenticationType.values)}")
    return types


def _parse_days(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LONGEST_SHARE:
        raise _invalid(name, f"null (no limit) or a number of days from 1 to {LONGEST_SHARE}")
    return value


def _parse_effects(value: Any, name: str) -> dict[str, Effect]:
    if not isinstance(value, Mapping) or not all(effect in _STRICTNESS for effect in value.values()):
        raise _invalid(name, "a mapping of names to allowed, approval or forbidden")
    return {str(key): Effect(effect) for key, effect in value.items()}


def _parse_capabilities(value: Any, name: str) -> dict[str, Effect]:
    effects = _parse_effects(value, name)
    for key in effects:
        if key not in capabilities.CAPABILITIES:
            raise InvalidInput(f"There is no capability “{key[:60]}”.", field=name)
    return {key: effect for key, effect in sorted(effects.items()) if effect is not Effect.ALLOWED}


def _parse_permissions(value: Any, name: str) -> dict[str, Effect]:
    effects: dict[str, Effect] = {}
    for text, effect in _parse_effects(value, name).items():
        for pattern in parse_patterns(text):
            if effects.setdefault(pattern, effect) is not effect:
                raise InvalidInput(f"“{pattern}” is named twice with different rules.", field=name)
    if len(effects) > MOST_PATTERNS:
        raise InvalidInput(f"At most {MOST_PATTERNS} permissions can have rules.", field=name)
    return dict(sorted(effects.items()))


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "authentication_types": _parse_types,
    "environments": _parse_names,
    "tenants": _parse_names,
    "capabilities": _parse_capabilities,
    "permissions": _parse_permissions,
    **dict.fromkeys(_PERMITS, _parse_flag),
    "longest_share_days": _parse_days,
    "app_only_second_admin": _parse_flag,
}


def parse_patterns(text: str) -> tuple[str, ...]:
    """Parse names and patterns (``*`` or ``Mail.*``) in Microsoft's spelling, each once. Raises InvalidInput."""
    patterns: list[str] = []
    for word in capabilities.describe(text):
        if word.endswith(".*"):
            capabilities.parse_scopes(f"{word[:-1]}X")  # valid only if a name can begin like this
        elif "*" in word and word != "*":
            raise InvalidInput(
                f"“{word[:60]}” is no pattern.", action="A star stands alone or behind a full stop, as in Mail.*"
            )
        names = [word] if word.endswith("*") else capabilities.parse_scopes(word)
        for name in names:
            if name in OIDC_SCOPES:
                raise InvalidInput(
                    f"{name} belongs to every sign-in, so it has no rule.",
                    action="To stop sign-ins, forbid delegated connections.",
                )
        patterns += names
    return tuple(dict.fromkeys(patterns))
