"""May this be? Pure answers of the policy: allowed, only with approval, or forbidden, each with its reasons.

The rules of the organisation and those of the app registration are asked one after the other and every reason
counts, so the stricter one wins for each rule, and no app registration can loosen what the organisation forbids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta

from connections.errors import PolicyForbids
from connections.microsoft import capabilities, clouds
from connections.microsoft.clouds import CONSUMERS_TID
from connections.microsoft.permissions import spelling
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import AppRegistration, Connection, Policy, Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import permission_drift
from connections.services.policy import rules as policy_rules
from connections.services.policy.rules import Effect, Rules

APP_ONLY = AuthenticationType.CLIENT_CREDENTIALS
TYPE_WORDS = {AuthenticationType.AUTHORIZATION_CODE: "delegated connections", APP_ONLY: "app-only connections"}


# --- Answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that is against it, or wants an approval. ``item`` is what exactly the rule is about.

    ``granted``: nobody wished for it here, but Microsoft granted it.
    """

    effect: Effect
    rule: str
    item: str
    sentence: str
    granted: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says; allowed if there is no reason against it."""

    reasons: tuple[Reason, ...] = ()

    @property
    def effect(self) -> Effect:
        """The strictest of the reasons."""
        return policy_rules.strictest(reason.effect for reason in self.reasons)

    @property
    def forbidden(self) -> tuple[Reason, ...]:
        """What cannot be approved by anybody."""
        return tuple(reason for reason in self.reasons if reason.effect is Effect.FORBIDDEN)

    @property
    def approval(self) -> tuple[Reason, ...]:
        """What wants an approval."""
        return tuple(reason for reason in self.reasons if reason.effect is Effect.APPROVAL)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The reasons for people, the strictest first, each once."""
        return tuple(dict.fromkeys(reason.sentence for reason in (*self.forbidden, *self.approval)))

    def __add__(self, other: Decision) -> Decision:
        return Decision(self.reasons + other.reasons)


def refuse_forbidden(decision: Decision, *, field: str = "") -> None:
    """Raise PolicyForbids with every reason, unless nothing is forbidden."""
    if decision.forbidden:
        sentences = Decision(decision.forbidden).sentences
        action = _NOT_WISHED if all(reason.granted for reason in decision.forbidden) else _WISHED
        raise PolicyForbids(" ".join(sentences), action=action, field=field)


_WISHED = "Leave it out, or ask an IT admin to change the policy."
# Microsoft: identity-platform/permissions-consent-overview, a token carries every scope consented to before.
_NOT_WISHED = (
    "Microsoft grants everything that was ever consented to for the app registration. An administrator can take that "
    "consent back in Entra, or an IT admin can change the policy; then sign in again."
)


# --- Which rules are in force ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Rules with the name of the policy they stand in, as sentences use it."""

    rules: Rules
    name: str = "the organisation's policy"


Policies = Sequence[Source]


@dataclass(frozen=True)
class PolicySet:
    """All policies as they are in force, or as somebody considers putting them in force."""

    organisation: Rules = field(default_factory=Rules)
    apps: dict[int, Rules] = field(default_factory=dict)

    def of(self, app_registration: AppRegistration) -> Policies:
        """Those that count for the app registration."""
        own = self.apps.get(app_registration.pk)
        if own is None:
            return (Source(self.organisation),)
        return (Source(self.organisation), Source(own, f"the policy for {app_registration.name}"))

    @property
    def restricts(self) -> bool:
        """Whether anything is restricted at all."""
        return self.organisation.restricts or any(rules.restricts for rules in self.apps.values())


def load_policies() -> PolicySet:
    """The policies as they stand in the database; one query."""
    organisation, apps = Rules(), dict[int, Rules]()
    for row in Policy.objects.only("app_registration", "rules"):
        if row.app_registration_id is None:
            organisation = policy_rules.from_database(row.rules)
        else:
            apps[row.app_registration_id] = policy_rules.from_database(row.rules)
    return PolicySet(organisation, apps)


# --- Connecting -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """What a connection is or wants to be. ``permissions`` are those its capabilities and typed scopes come to."""

    authentication_type: str
    environment: str
    tenant: str  # its key
    tenant_name: str
    capabilities: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()

    @property
    def is_app_only(self) -> bool:
        """Whether no person signs in."""
        return self.authentication_type == APP_ONLY


def request_of(connection: Connection) -> ConnectionRequest:
    """The wish of a connection, whether it is stored or not."""
    tenant: Tenant = connection.app_registration.tenant
    return ConnectionRequest(
        connection.authentication_type,
        tenant.environment,
        policy_rules.tenant_key(tenant),
        tenant.name,
        tuple(connection.capabilities),
        tuple(spelling(name) for name in permission_drift.required_permissions(connection)),
    )


def evaluate_connection(policies: Policies, wish: ConnectionRequest, granted: Iterable[str] = ()) -> Decision:
    """Whether a connection may be what it wishes to be, and may have what Microsoft granted on top of that."""
    beyond = sorted({spelling(name) for name in granted} - set(wish.permissions) - OIDC_SCOPES)
    return Decision(
        tuple(
            reason
            for source in policies
            for reason in (
                *_kind(source, wish),
                *_place(source, wish),
                *_capabilities(source, wish),
                *_permissions(source, wish.permissions),
                *(replace(permission, granted=True) for permission in _permissions(source, beyond, _GRANTED)),
            )
        )
    )


def why_closed(policies: Policies, app_registration: AppRegistration) -> str:
    """Why no connection at all may be made through the app registration; empty if some may."""
    tenant = app_registration.tenant
    found: list[str] = []
    for kind in AuthenticationType.values:
        if app_registration.allows(kind):
            wish = ConnectionRequest(kind, tenant.environment, policy_rules.tenant_key(tenant), tenant.name)
            forbidden = Decision(evaluate_connection(policies, wish).forbidden)
            if not forbidden.reasons:
                return ""
            found += forbidden.sentences
    return " ".join(dict.fromkeys(found))


def is_kind_forbidden(policies: Policies, authentication_type: str) -> bool:
    """Whether connections of this kind are forbidden."""
    allowed = (source.rules.authentication_types for source in policies)
    return any(kinds is not None and authentication_type not in kinds for kinds in allowed)


def evaluate_capability(
    policies: Policies, key: str, app_registration: AppRegistration, kinds: Sequence[str]
) -> Decision:
    """What a form says about one capability before anything is chosen; the mildest answer of the possible kinds.

    What is forbidden in one of two kinds only is told when that kind is chosen.
    """
    known = capabilities.CAPABILITIES[key]
    tenant = app_registration.tenant
    found = []
    for kind in kinds:
        names = capabilities.needs(known, kind)
        if names:
            wish = ConnectionRequest(
                kind, tenant.environment, policy_rules.tenant_key(tenant), tenant.name, (key,), names
            )
            said = evaluate_connection(policies, wish).reasons
            found.append(Decision(tuple(one for one in said if one.rule in ("capabilities", "permissions"))))
    return min(found, key=lambda one: list(Effect).index(one.effect), default=Decision())


def requires_approvals(policies: Policies) -> bool:
    """Whether anything at all needs approval."""
    return any(
        source.rules.app_only_second_admin
        or Effect.APPROVAL in (*source.rules.capabilities.values(), *source.rules.permissions.values())
        for source in policies
    )


def _kind(source: Source, wish: ConnectionRequest) -> Iterator[Reason]:
    rules = source.rules
    words = TYPE_WORDS[AuthenticationType(wish.authentication_type)]
    if rules.authentication_types is not None and wish.authentication_type not in rules.authentication_types:
        yield _forbidden(source, "authentication_types", wish.authentication_type, words, plural=True)
    if rules.app_only_second_admin and wish.is_app_only:
        sentence = f"App-only connections need the approval of a second IT admin under {source.name}."
        yield Reason(Effect.APPROVAL, "app_only_second_admin", "", sentence)


def _place(source: Source, wish: ConnectionRequest) -> Iterator[Reason]:
    rules = source.rules
    if rules.environments is not None and wish.environment not in rules.environments:
        cloud = clouds.CLOUDS.get(wish.environment)
        label = f"connections in the environment {cloud.label if cloud else wish.environment}"
        yield _forbidden(source, "environments", wish.environment, label, plural=True)
    if rules.tenants is not None and wish.tenant not in rules.tenants:
        yield _forbidden(source, "tenants", wish.tenant, f"connections in the tenant {wish.tenant_name}", plural=True)


def _capabilities(source: Source, wish: ConnectionRequest) -> Iterator[Reason]:
    for key in wish.capabilities:
        known = capabilities.CAPABILITIES.get(key)
        if known is not None:
            yield from _said(source, source.rules.of_capability(key), "capabilities", key, f"“{known.label}”")


_GRANTED = "{name}, which Microsoft granted as well,"


def _permissions(source: Source, names: Iterable[str], phrase: str = "{name}") -> Iterator[Reason]:
    for name in names:
        effect, pattern = source.rules.of_permission(name)
        through = "" if pattern.lower() == name.lower() else f" through the rule {pattern}"
        yield from _said(source, effect, "permissions", name, phrase.format(name=name), through)


def _said(source: Source, effect: Effect, rule: str, item: str, words: str, through: str = "") -> Iterator[Reason]:
    if effect is Effect.FORBIDDEN:
        yield _forbidden(source, rule, item, words, through)
    elif effect is Effect.APPROVAL:
        sentence = f"{_capital(words)} needs the approval of an IT admin under {source.name}{through}."
        yield Reason(Effect.APPROVAL, rule, item, sentence)


def _forbidden(source: Source, rule: str, item: str, words: str, through: str = "", *, plural: bool = False) -> Reason:
    sentence = f"{_capital(words)} {'are' if plural else 'is'} forbidden by {source.name}{through}."
    return Reason(Effect.FORBIDDEN, rule, item, sentence)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


# --- The account that signed in -------------------------------------------------------------------


def evaluate_account(policies: Policies, tid: str, registered: Collection[str]) -> Decision:
    """Whether an account of the directory ``tid`` may be connected; ``registered`` are the tenants' own ids."""
    found = []
    for source in policies:
        if tid == CONSUMERS_TID:
            if not source.rules.personal_accounts:
                words = "connecting personal Microsoft accounts"
                found.append(_forbidden(source, "personal_accounts", tid, words))
        elif not source.rules.other_tenants and tid not in registered:
            words = "connecting accounts of directories that are not registered here as tenants"
            found.append(_forbidden(source, "other_tenants", tid, words))
    return Decision(tuple(found))


def registered_tids(environment: str) -> frozenset[str]:
    """The directory ids behind the tenants of an environment; one query."""
    known = Tenant.objects.filter(environment=environment).exclude(tid="")
    return frozenset(tid.lower() for tid in known.values_list("tid", flat=True))


# --- Sharing --------------------------------------------------------------------------------------


def evaluate_share(
    policies: Policies, *, authentication_type: str, with_team: bool, until: datetime | None, now: datetime
) -> Decision:
    """Whether a connection may be shared like this from now on."""
    found = []
    for source in policies:
        rules = source.rules
        if authentication_type == APP_ONLY and not rules.share_app_only:
            found.append(_forbidden(source, "share_app_only", "", "sharing app-only connections"))
        if not with_team and not rules.share_with_people:
            found.append(_forbidden(source, "share_with_people", "", "sharing with single people instead of teams"))
        if rules.longest_share_days is not None and (
            until is None or until > latest_end(rules.longest_share_days, now)
        ):
            days = rules.longest_share_days
            words = f"sharing for longer than {days} day{'' if days == 1 else 's'}"
            found.append(_forbidden(source, "longest_share_days", str(days), words))
    return Decision(tuple(found))


def longest_share(policies: Policies) -> int | None:
    """The fewest days that count; None if shares may be open-ended."""
    return min(
        (policy.rules.longest_share_days for policy in policies if policy.rules.longest_share_days), default=None
    )


def latest_end(days: int, now: datetime) -> datetime:
    """The end of the last day (UTC) a share may count: shares are given by days."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=days + 1), time.min, UTC)
