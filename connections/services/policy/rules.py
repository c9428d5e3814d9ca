"""What a policy consists of: one frozen bundle of rules, its plain dict form, and their validation.

The dict form is a contract (docs/policy.md): it is what stands in the database and what configuration files carry.
A rule that is missing restricts nothing, and the defaults restrict nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from connections.errors import InvalidInput
from connections.microsoft import capabilities
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType

MOST_PATTERNS = 200
LONGEST_SHARE = 3 * 365  # days; services.sharing allows none that is longer


class Effect(StrEnum):
    """What a rule says, from lenient to strict."""

    ALLOWED = "allowed"
    APPROVAL = "approval"
    FORBIDDEN = "forbidden"


_STRICTNESS = list(Effect)


def strictest(effects: Iterable[Effect]) -> Effect:
    """The strictest of them; allowed if there is none."""
    return max(effects, key=_STRICTNESS.index, default=Effect.ALLOWED)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the organisation, or of one app registration. None stands for "all, and those to come"."""

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
        """Whether any rule differs from the default."""
        return self != Rules()

    def of_capability(self, key: str) -> Effect:
        """What the rule about the capability itself says."""
        return self.capabilities.get(key, Effect.ALLOWED)

    def of_permission(self, name: str) -> tuple[Effect, str]:
        """What is said about a scope or role, and by which name or pattern.

        The most exact rule counts: the name itself, then the longest pattern. Entra ignores case, and so does this.
        """
        wanted = name.lower()
        best = ""
        for pattern in self.permissions:
            if matches(pattern, wanted) and _exactness(pattern) > _exactness(best):
                best = pattern
        return (self.permissions[best], best) if best else (Effect.ALLOWED, "")


def matches(pattern: str, name: str) -> bool:
    """Whether a rule's name or pattern is about this permission. ``Mail.*`` is about all that begins with "Mail."."""
    pattern, name = pattern.lower(), name.lower()
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def _exactness(pattern: str) -> tuple[bool, int]:
    return (bool(pattern) and not pattern.endswith("*"), len(pattern))


def tenant_key(tenant: Tenant) -> str:
    """How rules name a tenant: environment and directory, which do not change while it is in use; its name may."""
    return f"{tenant.environment}/{tenant.directory_id}"


def stricter(one: Rules, other: Rules) -> Rules:
    """One bundle that says what both say together: for each rule the stricter of the two."""
    names = {*one.permissions, *other.permissions}
    keys = {*one.capabilities, *other.capabilities}
    days = [rules.longest_share_days for rules in (one, other) if rules.longest_share_days is not None]
    return Rules(
        authentication_types=_common(one.authentication_types, other.authentication_types),
        environments=_common(one.environments, other.environments),
        tenants=_common(one.tenants, other.tenants),
        capabilities={key: strictest([one.of_capability(key), other.of_capability(key)]) for key in sorted(keys)},
        permissions={
            name: strictest([one.of_permission(name)[0], other.of_permission(name)[0]]) for name in sorted(names)
        },
        personal_accounts=one.personal_accounts and other.personal_accounts,
        other_tenants=one.other_tenants and other.other_tenants,
        share_with_people=one.share_with_people and other.share_with_people,
        share_app_only=one.share_app_only and other.share_app_only,
        longest_share_days=min(days, default=None),
        app_only_second_admin=one.app_only_second_admin or other.app_only_second_admin,
    )


def _common(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(name for name in one if name in other)


# --- The dict form --------------------------------------------------------------------------------

# What an app registration's own rules cannot say: it has one tenant, whose environment is given.
ORGANISATION_ONLY = ("environments", "tenants")


def to_dict(rules: Rules) -> dict[str, Any]:
    """All rules as plain JSON values, in the order of the page."""
    return {field.name: _plain(getattr(rules, field.name)) for field in fields(Rules)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: str(effect) for name, effect in sorted(value.items())}
    return list(value) if isinstance(value, tuple) else value


def from_dict(given: Any, *, of_app: bool = False) -> Rules:
    """The rules of a dict. Raises InvalidInput naming the rule that cannot be used (``field`` has its name)."""
    if not isinstance(given, Mapping):
        raise InvalidInput("The rules of a policy are a mapping of names to values.")
    known = {field.name: field for field in fields(Rules)}
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise InvalidInput(f"The policy has no rule “{unknown[0][:60]}”.", action=f"Rules are: {', '.join(known)}.")
    if of_app and any(given.get(name) is not None for name in ORGANISATION_ONLY):
        raise InvalidInput("Environments and tenants are rules of the organisation.", field="tenants")
    return Rules(**{name: _PARSERS[name](value, name) for name, value in given.items()})


def from_database(given: Any) -> Rules:
    """Rules out of the database; what this version does not know any more is left out instead of breaking everything."""
    known = {field.name for field in fields(Rules)}
    kept = {name: value for name, value in given.items() if name in known} if isinstance(given, Mapping) else {}
    if isinstance(kept.get("capabilities"), Mapping):
        kept["capabilities"] = {
            key: effect for key, effect in kept["capabilities"].items() if key in capabilities.CAPABILITIES
        }
    return from_dict(kept)


def _wrong(name: str, expected: str) -> InvalidInput:
    return InvalidInput(f"The rule {name} must be {expected}.", field=name)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return value


def _names(value: Any, name: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and 0 < len(one) <= 300 for one in value):
        raise _wrong(name, "null (all of them) or a list of names")
    return tuple(sorted(set(value)))


def _types(value: Any, name: str) -> tuple[str, ...] | None:
    found = _names(value, name)
    if found is not None and not set(found) <= set(AuthenticationType.values):
        raise _wrong(name, f"null or a list of {' and '.join(AuthenticationType.values)}")
    return found


def _days(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LONGEST_SHARE:
        raise _wrong(name, f"null (no limit) or a number of days from 1 to {LONGEST_SHARE}")
    return value


def _effects(value: Any, name: str) -> dict[str, Effect]:
    if not isinstance(value, Mapping) or not all(effect in _STRICTNESS for effect in value.values()):
        raise _wrong(name, "a mapping of names to allowed, approval or forbidden")
    return {str(key): Effect(effect) for key, effect in value.items()}


def _capabilities(value: Any, name: str) -> dict[str, Effect]:
    found = _effects(value, name)
    for key in found:
        if key not in capabilities.CAPABILITIES:
            raise InvalidInput(f"There is no capability “{key[:60]}”.", field=name)
    return {key: effect for key, effect in sorted(found.items()) if effect is not Effect.ALLOWED}


def _permissions(value: Any, name: str) -> dict[str, Effect]:
    found: dict[str, Effect] = {}
    for typed, effect in _effects(value, name).items():
        for pattern in parse_patterns(typed):
            if found.setdefault(pattern, effect) is not effect:
                raise InvalidInput(f"“{pattern}” is named twice with different rules.", field=name)
    if len(found) > MOST_PATTERNS:
        raise InvalidInput(f"At most {MOST_PATTERNS} permissions can have rules.", field=name)
    return dict(sorted(found.items()))


_PARSERS: dict[str, Any] = {
    "authentication_types": _types,
    "environments": _names,
    "tenants": _names,
    "capabilities": _capabilities,
    "permissions": _permissions,
    "personal_accounts": _flag,
    "other_tenants": _flag,
    "share_with_people": _flag,
    "share_app_only": _flag,
    "longest_share_days": _days,
    "app_only_second_admin": _flag,
}


def parse_patterns(text: str) -> tuple[str, ...]:
    """Typed names and patterns of permissions, each once, names in Microsoft's spelling.

    A pattern is ``*`` (everything) or the beginning of a name up to a full stop: ``Mail.*``. Raises InvalidInput.
    """
    found: list[str] = []
    for word in capabilities.describe(text):
        if word == "*":
            found.append(word)
        elif word.endswith(".*"):
            # Checked as a name is: what stands before the star must be able to begin one.
            capabilities.parse_scopes(f"{word[:-1]}X")
            found.append(word)
        elif "*" in word:
            raise InvalidInput(
                f"“{word[:60]}” is no pattern.", action="A star stands alone or behind a full stop, as in Mail.*"
            )
        else:
            found.extend(_named(word))
    return tuple(dict.fromkeys(found))


def _named(word: str) -> tuple[str, ...]:
    names = capabilities.parse_scopes(word)
    signing_in = [name for name in names if name in OIDC_SCOPES]
    if signing_in:
        raise InvalidInput(
            f"{signing_in[0]} belongs to every sign-in, so it has no rule.",
            action="To stop sign-ins, forbid delegated connections.",
        )
    return names
