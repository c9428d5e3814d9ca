"""Evaluate the policy: is something allowed, allowed only with approval, or forbidden? Every decision has its reasons.

The rules of the organisation and of the app registration both apply, so the stricter rule wins.
"""

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


@dataclass(frozen=True, slots=True)
class Reason:
    effect: Effect
    rule: str
    item: str  # the key, name or value that the rule is about
    sentence: str
    granted: bool = False  # about a permission that Microsoft granted although the connection did not request it


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of evaluating the policy. Without reasons, everything is allowed."""

    reasons: tuple[Reason, ...] = ()

    @property
    def effect(self) -> Effect:
        return policy_rules.strictest(reason.effect for reason in self.reasons)

    @property
    def forbidden(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.effect is Effect.FORBIDDEN)

    @property
    def approval(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.effect is Effect.APPROVAL)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The reasons in words, strictest first, without duplicates."""
        return tuple(dict.fromkeys(reason.sentence for reason in (*self.forbidden, *self.approval)))

    def __add__(self, other: "Decision") -> "Decision":
        return Decision(self.reasons + other.reasons)


def refuse_forbidden(decision: Decision, *, field: str = "") -> None:
    """Raise PolicyForbids with every reason if anything is forbidden."""
    if not decision.forbidden:
        return
    action = "Change your selection, or ask an IT admin to change the policy."
    if all(reason.granted for reason in decision.forbidden):
        # A token carries every scope consented to before (Microsoft: identity-platform/permissions-consent-overview).
        action = (
            "Microsoft grants all permissions that ever got consent for the app registration. An administrator can "
            "revoke the consent in Entra, or an IT admin can change the policy. Then sign in again."
        )
    raise PolicyForbids(" ".join(Decision(decision.forbidden).sentences), action=action, field=field)


@dataclass(frozen=True, slots=True)
class Source:
    rules: Rules
    name: str = "the organisation's policy"

    def forbids(self, rule: str, item: str, words: str, through: str = "", *, plural: bool = False) -> Reason:
        verb = "aren't" if plural else "isn't"
        sentence = f"{_capitalized(words)} {verb} allowed by {self.name}{through}."
        return Reason(Effect.FORBIDDEN, rule, item, sentence)


Policies = Sequence[Source]


@dataclass(frozen=True)
class PolicySet:
    """All policies, either those in force or those of a preview."""

    organisation: Rules = field(default_factory=Rules)
    apps: dict[int, Rules] = field(default_factory=dict)

    def of(self, app_registration: AppRegistration) -> Policies:
        own = self.apps.get(app_registration.pk)
        if own is None:
            return (Source(self.organisation),)
        return (Source(self.organisation), Source(own, f"the policy for {app_registration.name}"))

    @property
    def restricts(self) -> bool:
        return self.organisation.restricts or any(rules.restricts for rules in self.apps.values())


def load_policies() -> PolicySet:
    organisation, apps = Rules(), dict[int, Rules]()
    for row in Policy.objects.only("app_registration", "rules"):
        rules = policy_rules.from_database(row.rules)
        if row.app_registration_id is None:
            organisation = rules
        else:
            apps[row.app_registration_id] = rules
    return PolicySet(organisation, apps)


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    authentication_type: str
    environment: str
    tenant: str  # see rules.tenant_key
    tenant_name: str
    capabilities: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()  # everything that the capabilities and manually entered scopes need


def _request(tenant: Tenant, kind: str, keys: Iterable[str] = (), names: Iterable[str] = ()) -> ConnectionRequest:
    key = policy_rules.tenant_key(tenant)
    return ConnectionRequest(kind, tenant.environment, key, tenant.name, tuple(keys), tuple(names))


def request_of(connection: Connection) -> ConnectionRequest:
    names = map(spelling, permission_drift.required_permissions(connection))
    tenant = connection.tenant
    return _request(tenant, connection.authentication_type, connection.capabilities, names)


def evaluate_connection(policies: Policies, request: ConnectionRequest, granted: Iterable[str] = ()) -> Decision:
    """Decide about a connection's type, tenant, capabilities and permissions, and what Microsoft granted beyond."""
    beyond = sorted({spelling(name) for name in granted} - set(request.permissions) - OIDC_SCOPES)
    reasons: list[Reason] = []
    for source in policies:
        reasons += [*_type_and_place(source, request), *_capabilities(source, request.capabilities)]
        reasons += _permissions(source, request.permissions)
        phrase = "{name}, which Microsoft also granted,"
        reasons += (replace(reason, granted=True) for reason in _permissions(source, beyond, phrase))
    return Decision(tuple(reasons))


def why_closed(policies: Policies, app_registration: AppRegistration, tenant: Tenant | None = None) -> str:
    """Explain why the app registration can't have any connection in ``tenant`` (default: its own).

    Returns "" if at least one type of connection is possible.
    """
    sentences: list[str] = []
    for kind in filter(app_registration.allows, AuthenticationType.values):
        request = _request(tenant or app_registration.tenant, kind)
        forbidden = Decision(evaluate_connection(policies, request).forbidden)
        if not forbidden.reasons:
            return ""
        sentences += forbidden.sentences
    return " ".join(dict.fromkeys(sentences))


def is_kind_forbidden(policies: Policies, authentication_type: str) -> bool:
    allowed = (source.rules.authentication_types for source in policies)
    return any(kinds is not None and authentication_type not in kinds for kinds in allowed)


def is_tenant_forbidden(policies: Policies, tenant: Tenant) -> bool:
    key = policy_rules.tenant_key(tenant)
    return any(source.rules.tenants is not None and key not in source.rules.tenants for source in policies)


def evaluate_capability(
    policies: Policies, key: str, app_registration: AppRegistration, kinds: Sequence[str]
) -> Decision:
    """Decide about a capability before an authentication type is chosen: the mildest decision for any of ``kinds``."""
    capability = capabilities.CAPABILITIES[key]
    decisions = []
    for kind in kinds:
        names = capabilities.needs(capability, kind)
        if names:
            reasons = evaluate_connection(policies, _request(app_registration.tenant, kind, (key,), names)).reasons
            about_it = (reason for reason in reasons if reason.rule in ("capabilities", "permissions"))
            decisions.append(Decision(tuple(about_it)))
    return min(decisions, key=lambda decision: list(Effect).index(decision.effect), default=Decision())


def requires_approvals(policies: Policies) -> bool:
    return any(
        source.rules.app_only_second_admin
        or Effect.APPROVAL in (*source.rules.capabilities.values(), *source.rules.permissions.values())
        for source in policies
    )


def _type_and_place(source: Source, request: ConnectionRequest) -> Iterator[Reason]:
    rules, kind = source.rules, request.authentication_type
    if rules.authentication_types is not None and kind not in rules.authentication_types:
        yield source.forbids("authentication_types", kind, TYPE_WORDS[AuthenticationType(kind)], plural=True)
    if rules.app_only_second_admin and kind == APP_ONLY:
        sentence = f"App-only connections need a second IT admin's approval under {source.name}."
        yield Reason(Effect.APPROVAL, "app_only_second_admin", "", sentence)
    if rules.environments is not None and request.environment not in rules.environments:
        cloud = clouds.CLOUDS.get(request.environment)
        words = f"connections in the environment {cloud.label if cloud else request.environment}"
        yield source.forbids("environments", request.environment, words, plural=True)
    if rules.tenants is not None and request.tenant not in rules.tenants:
        yield source.forbids("tenants", request.tenant, f"connections in the tenant {request.tenant_name}", plural=True)


def _capabilities(source: Source, keys: Iterable[str]) -> Iterator[Reason]:
    for key in keys:
        capability = capabilities.CAPABILITIES.get(key)
        if capability is not None:
            effect = source.rules.of_capability(key)
            yield from _reasons(source, effect, "capabilities", key, f"“{capability.label}”")


def _permissions(source: Source, names: Iterable[str], phrase: str = "{name}") -> Iterator[Reason]:
    for name in names:
        effect, pattern = source.rules.of_permission(name)
        through = "" if pattern.lower() == name.lower() else f" through the rule {pattern}"
        yield from _reasons(source, effect, "permissions", name, phrase.format(name=name), through)


def _reasons(source: Source, effect: Effect, rule: str, item: str, words: str, through: str = "") -> Iterator[Reason]:
    if effect is Effect.FORBIDDEN:
        yield source.forbids(rule, item, words, through)
    elif effect is Effect.APPROVAL:
        sentence = f"{_capitalized(words)} needs an IT admin's approval under {source.name}{through}."
        yield Reason(Effect.APPROVAL, rule, item, sentence)


def _capitalized(words: str) -> str:
    return words[:1].upper() + words[1:]


def evaluate_account(policies: Policies, tid: str, registered: Collection[str]) -> Decision:
    """Decide whether accounts from the directory ``tid`` may be connected.

    ``registered`` are the IDs of our tenants.
    """
    reasons = []
    for source in policies:
        if tid == CONSUMERS_TID:
            if not source.rules.personal_accounts:
                words = "connecting personal Microsoft accounts"
                reasons.append(source.forbids("personal_accounts", tid, words))
        elif not source.rules.other_tenants and tid not in registered:
            words = "connecting accounts from unregistered directories"
            reasons.append(source.forbids("other_tenants", tid, words))
    return Decision(tuple(reasons))


def registered_tids(environment: str) -> frozenset[str]:
    tenants = Tenant.objects.filter(environment=environment).exclude(tid="")
    return frozenset(tid.lower() for tid in tenants.values_list("tid", flat=True))


def evaluate_share(
    policies: Policies, *, authentication_type: str, with_team: bool, until: datetime | None, now: datetime
) -> Decision:
    reasons = []
    for source in policies:
        rules, days = source.rules, source.rules.longest_share_days
        if authentication_type == APP_ONLY and not rules.share_app_only:
            reasons.append(source.forbids("share_app_only", "", "sharing app-only connections"))
        if not with_team and not rules.share_with_people:
            words = "sharing with people instead of teams"
            reasons.append(source.forbids("share_with_people", "", words))
        if days is not None and (until is None or until > latest_end(days, now)):
            words = f"sharing for longer than {policy_rules.days_text(days)}"
            reasons.append(source.forbids("longest_share_days", str(days), words))
    return Decision(tuple(reasons))


def longest_share(policies: Policies) -> int | None:
    """Return the maximum number of days that a share may last, or None if there is no limit."""
    limits = (source.rules.longest_share_days for source in policies)
    return min((days for days in limits if days), default=None)


def latest_end(days: int, now: datetime) -> datetime:
    """Return the latest end of a share that is limited to ``days`` days. Shares end at the end of a day (UTC)."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=days + 1), time.min, UTC)
