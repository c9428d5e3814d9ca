"""The rules of a policy as a frozen dataclass and as a plain dict, and their validation.

The dict is a contract (docs/policy.md), because the database and configuration files contain it. A missing rule or a
default does not restrict anything.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from connections.errors import InvalidInput
from connections.microsoft import capabilities, resources
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType

MOST_PATTERNS = 200
_TYPED_RESOURCES = "https://*"  # all permissions of resources that are entered by address
LONGEST_SHARE = 3 * 365  # days; services.sharing rejects longer shares


class Effect(StrEnum):
    """The effect of a rule, from lenient to strict."""

    ALLOWED = "allowed"
    APPROVAL = "approval"
    FORBIDDEN = "forbidden"


_STRICTNESS = list(Effect)


def strictest(effects: Iterable[Effect]) -> Effect:
    return max(effects, key=_STRICTNESS.index, default=Effect.ALLOWED)


# Rules that allow something which is off by default. Only the organisation has them.
_PERMISSIVE = ("credential_renewal", "member_apps", "register_tenants")


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
    # Rules that allow something; all are off by default.
    # Whether the portal may renew the secrets and certificates of app registrations that have renewal switched on.
    credential_renewal: bool = False
    # Whether members may bring their own app registrations.
    member_apps: bool = False
    # Whether to register the directory of an account that signs in through a shared endpoint.
    register_tenants: bool = False

    @property
    def restricts(self) -> bool:
        return replace(self, credential_renewal=False, member_apps=False, register_tenants=False) != Rules()

    def of_capability(self, key: str) -> Effect:
        return self.capabilities.get(key, Effect.ALLOWED)

    def of_permission(self, name: str) -> tuple[Effect, str]:
        """Return the effect on a scope or role, and the most specific name or pattern that causes it. Ignores case."""
        matching = (pattern for pattern in self.permissions if matches(pattern, name))
        best = max(matching, key=lambda pattern: (not pattern.endswith("*"), len(pattern)), default="")
        return (self.permissions[best], best) if best else (Effect.ALLOWED, "")


def matches(pattern: str, name: str) -> bool:
    """Whether a rule's name or pattern matches this permission, for example ``Mail.*`` and ``Mail.Read``.

    A pattern without a resource also matches permissions of this name of resources other than Graph.
    """
    pattern, name = pattern.lower(), name.lower()
    if "/" not in pattern:
        name = resources.short(name)
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def tenant_key(tenant: Tenant) -> str:
    """Return the tenant's name in rules: environment and directory, which do not change while the tenant is in use."""
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
        # Only the organisation has these rules.
        **{name: getattr(first, name) or getattr(second, name) for name in _PERMISSIVE},
    )


def loosened(before: Rules, after: Rules) -> tuple[str, ...]:
    """Return the names of the rules that allow more, or require fewer approvals, than before."""
    return tuple(field.name for field in fields(Rules) if _IS_LOOSER[field.name](before, after))


def _is_list_looser(name: str) -> Callable[[Rules, Rules], bool]:
    def is_looser(before: Rules, after: Rules) -> bool:
        old, new = getattr(before, name), getattr(after, name)
        return old is not None and (new is None or not set(new) <= set(old))

    return is_looser


def _is_flag_looser(name: str, *, loose: bool) -> Callable[[Rules, Rules], bool]:
    return lambda before, after: getattr(before, name) is not loose and getattr(after, name) is loose


def _are_capabilities_looser(before: Rules, after: Rules) -> bool:
    return any(_is_milder(after.of_capability(key), effect) for key, effect in before.capabilities.items())


def _are_permissions_looser(before: Rules, after: Rules) -> bool:
    """Compare the effects on a sample of names, one for each set of patterns that can match a permission.

    The samples are all exact names and, for each pattern, a name that begins like the pattern but equals no exact name.
    """
    samples = {
        pattern[:-1] + "\0" if pattern.endswith("*") else pattern for pattern in ("*", *_patterns(before, after))
    }
    return any(_is_milder(after.of_permission(name)[0], before.of_permission(name)[0]) for name in samples)


def _patterns(*several: Rules) -> Iterable[str]:
    return (pattern for rules in several for pattern in rules.permissions)


def _is_milder(effect: Effect, than: Effect) -> bool:
    return _STRICTNESS.index(effect) < _STRICTNESS.index(than)


def _are_shares_longer(before: Rules, after: Rules) -> bool:
    old, new = before.longest_share_days, after.longest_share_days
    return old is not None and (new is None or new > old)


def _common(first: tuple[str, ...] | None, second: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if first is None or second is None:
        return second if first is None else first
    return tuple(name for name in first if name in second)


# App registrations don't have these rules: each has one environment, and tenants belong to the organisation.
ORGANISATION_ONLY = ("environments", "tenants", *_PERMISSIVE)
_LISTS = ("authentication_types", "environments", "tenants")
_PERMITS = ("personal_accounts", "other_tenants", "share_with_people", "share_app_only")  # True means not restricted
# For each rule, whether a change makes it looser.
_IS_LOOSER: dict[str, Callable[[Rules, Rules], bool]] = {
    **{name: _is_list_looser(name) for name in _LISTS},
    **{name: _is_flag_looser(name, loose=True) for name in _PERMITS},
    "capabilities": _are_capabilities_looser,
    "permissions": _are_permissions_looser,
    "longest_share_days": _are_shares_longer,
    "app_only_second_admin": _is_flag_looser("app_only_second_admin", loose=False),
    **{name: _is_flag_looser(name, loose=True) for name in _PERMISSIVE},
}


def to_dict(rules: Rules) -> dict[str, Any]:
    """Return all rules as plain JSON values, in the order in which the page shows them."""
    return {field.name: _to_json(getattr(rules, field.name)) for field in fields(Rules)}


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: str(effect) for name, effect in sorted(value.items())}
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: Any, *, of_app: bool = False) -> Rules:
    """Parse rules from a dict.

    Raises InvalidInput for the first unknown or invalid rule; its ``field`` names the rule.
    """
    if not isinstance(values, Mapping):
        raise InvalidInput("A policy's rules must be a mapping of names to values.")
    unknown = sorted(str(name) for name in values if name not in _PARSERS)
    if unknown:
        action = f"Available rules: {', '.join(field.name for field in fields(Rules))}."
        raise InvalidInput(f"The policy has no rule “{unknown[0][:60]}”.", action=action)
    for name in ORGANISATION_ONLY:
        if of_app and values.get(name) not in (None, False):
            raise InvalidInput(f"The rule {name} can be set only in the organisation's policy.", field=name)
    return Rules(**{name: _PARSERS[name](value, name) for name, value in values.items()})


def from_database(values: Any) -> Rules:
    """Load rules from the database. Ignores rules and capabilities that this version does not know."""
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
            raise InvalidInput(f"The capability “{key[:60]}” doesn't exist.", field=name)
    return {key: effect for key, effect in sorted(effects.items()) if effect is not Effect.ALLOWED}


def _parse_permissions(value: Any, name: str) -> dict[str, Effect]:
    effects: dict[str, Effect] = {}
    for text, effect in _parse_effects(value, name).items():
        for pattern in parse_patterns(text):
            if effects.setdefault(pattern, effect) is not effect:
                raise InvalidInput(f"“{pattern}” is listed twice with different rules.", field=name)
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
    **dict.fromkeys(_PERMISSIVE, lambda value, name: value is not None and _parse_flag(value, name)),
}


def parse_patterns(text: str) -> tuple[str, ...]:
    """Parse names and patterns (``*`` or ``Mail.*``) in Microsoft's spelling, without duplicates.

    Raises InvalidInput.
    """
    patterns: list[str] = []
    for word in capabilities.describe(text):
        if word.endswith((".*", "/*")) and word != _TYPED_RESOURCES:
            capabilities.parse_scopes(f"{word[:-1]}X")  # valid only if a name can begin like this
        elif "*" in word and word not in ("*", _TYPED_RESOURCES):
            raise InvalidInput(
                f"“{word[:60]}” isn't a valid pattern.",
                action="Use a star alone or at the end, as in Mail.* or exchange/*",
            )
        names = [word] if word.endswith("*") else capabilities.parse_scopes(word)
        for name in names:
            if name in OIDC_SCOPES:
                raise InvalidInput(
                    f"{name} is part of every sign-in, so it can't have a rule.",
                    action="To stop sign-ins, forbid delegated connections.",
                )
        patterns += names
    return tuple(dict.fromkeys(patterns))
