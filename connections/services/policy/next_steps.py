"""The next steps that a person can take with a connection, according to their rights, its state and the policy.

Pages, alerts, incidents and the API offer only these steps. Neither the policy nor the connection's state refuses a
step that is offered here, unless something changes before the person takes it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from connections import effective_status
from connections.access import permissions
from connections.models import AppCredential, Approval, Connection, User
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, PolicySet

Status, Who = Connection.Status, Connection.Who
AWAITS_NEW_OWNER = "handed_over"  # status_code after a transfer that deleted the connection's tokens
_EDITABLE = ("capabilities", "permissions")  # rules that the owner can satisfy by requesting less


class Step(StrEnum):
    SIGN_IN = "sign_in"
    SEND_SIGN_IN_LINK = "send_sign_in_link"
    CHECK = "check"
    ENABLE = "enable"
    ASK_APPROVAL = "ask_approval"
    CONNECT = "connect"  # request the first token of an app-only connection
    EDIT = "edit"
    SHARE = "share"
    TRANSFER = "transfer"
    DISABLE = "disable"
    KEEP_DISABLED = "keep_disabled"  # then only an IT admin can enable it
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Advice:
    """The action to take instead of a step that the policy does not allow now, and who must take it."""

    action: str
    who: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The data for decisions about several connections, read with a few queries for all of them."""

    policies: PolicySet
    with_credential: frozenset[int]  # app registrations that have a live credential
    waiting: dict[int | None, Approval]  # open approval requests by connection

    @classmethod
    def about(cls, connections: Collection[Connection]) -> "Facts":
        apps = {connection.app_registration_id for connection in connections}
        live = AppCredential.objects.live().filter(app_registration__in=apps).order_by()
        effective_status.load(connections)
        requests = Approval.objects.filter(connection__in=connections, state=Approval.State.WAITING)
        return cls(
            evaluate.load_policies(),
            frozenset(live.values_list("app_registration", flat=True)),
            {request.connection_id: request for request in requests},
        )


class Prospects:
    """What the policy allows for one connection in its current state, regardless of the person."""

    def __init__(self, connection: Connection, facts: Facts | None = None) -> None:
        self.connection = connection
        self.facts = facts or Facts.about([connection])
        self.policies = self.facts.policies
        self.open_request = self.facts.waiting.get(connection.pk)

    @cached_property
    def _now(self) -> tuple[Decision, tuple[evaluate.Reason, ...]]:
        """The decision about the requested and the granted permissions, and the reasons that need an approval."""
        return approvals.evaluate_approval(self.connection, self.connection.granted, policies=self.policies)

    @cached_property
    def _at_sign_in(self) -> tuple[Decision, tuple[evaluate.Reason, ...]]:
        """The decision about the requested permissions alone, because a new sign-in replaces the granted ones."""
        return approvals.evaluate_approval(self.connection, policies=self.policies)

    @property
    def is_allowed(self) -> bool:
        decision, missing = self._now
        return not decision.forbidden and not missing

    @property
    def is_approval_missing(self) -> bool:
        decision, missing = self._now
        return bool(missing) and not decision.forbidden

    @cached_property
    def may_sign_in(self) -> bool:
        decision, missing = self._at_sign_in
        has_credential = self.connection.app_registration_id in self.facts.with_credential
        if decision.forbidden or missing or not self.connection.is_delegated or not has_credential:
            return False
        if self.open_request is None:
            return True
        requested = self.open_request.permissions
        return not approvals.evaluate_approval(self.connection, requested, policies=self.policies)[1]

    @cached_property
    def may_be_enabled(self) -> bool:
        connection = self.connection
        if connection.status != Status.DISABLED:
            return False
        return connection.connected_at is None or (self.is_allowed and not self._account_decision.forbidden)

    @cached_property
    def _account_decision(self) -> Decision:
        connection = self.connection
        if not connection.account_tid:
            return Decision()
        sources = self.policies.of(connection.app_registration)
        registered = evaluate.registered_tids(connection.tenant.environment)
        return evaluate.evaluate_account(sources, connection.account_tid, registered)

    def may_be_shared(self, now: datetime) -> bool:
        sources, kind = self.policies.of(self.connection.app_registration), self.connection.authentication_type
        decisions = (
            evaluate.evaluate_share(sources, authentication_type=kind, with_team=with_team, until=now, now=now)
            for with_team in (True, False)
        )
        return self.is_allowed and not all(decision.reasons for decision in decisions)

    def advice(self, *, before: str, enabling: bool = False) -> Advice:
        """Return what must happen before a step that is not allowed now.

        The step is a sign-in or, with ``enabling``, enabling the connection. ``before`` names it within the sentence.
        """
        decision, missing = self._now if enabling else self._at_sign_in
        if enabling:
            decision += self._account_decision
        if decision.forbidden:
            because = " ".join(Decision(decision.forbidden).sentences)
            if all(reason.rule in _EDITABLE and not reason.granted for reason in decision.forbidden):
                action = f"{because} Change its permissions {before}, or ask an IT admin to change the policy."
                return Advice(action, Who.OWNER)
            return Advice(f"{because} An IT admin needs to change the policy {before}.", Who.IT_ADMIN)
        if missing:
            if self.open_request is not None:
                return Advice(f"An IT admin needs to approve it {before}.", Who.IT_ADMIN)
            return Advice(f"{' '.join(Decision(missing).sentences)} Request approval {before}.", Who.OWNER)
        if self.open_request is not None:
            return Advice(f"An IT admin needs to approve the open request {before}.", Who.IT_ADMIN)
        return Advice("An IT admin needs to add a credential to the app registration.", Who.IT_ADMIN)


def may_sign_in(user: User, connection: Connection, *, facts: Facts | None = None) -> bool:
    """Whether Step.SIGN_IN is possible for this person."""
    # If the policy disabled a connection, its owner can also restore it by signing in again.
    disabled_for_good = connection.status == Status.DISABLED and connection.status_code != "policy"
    return (
        connection.is_delegated
        and not disabled_for_good
        and permissions.can_reconnect(user, connection)
        and permissions.can_connect_through(user, connection.app_registration)
        and permissions.can_use_again(user, connection)
        and Prospects(connection, facts).may_sign_in
    )


def may_check(user: User, connection: Connection) -> bool:
    """Whether Step.CHECK is possible for this person."""
    can_be_asked = connection.status not in (Status.PENDING, Status.DISABLED)
    return can_be_asked and connection.status_code != AWAITS_NEW_OWNER and permissions.can_check(user, connection)


def possible_steps(user: User, connection: Connection, *, now: datetime) -> frozenset[Step]:
    """Return the steps that this person can take with the connection now."""
    allowed = permissions.allowed_actions(user, connection)
    facts = Facts.about([connection])
    prospects = Prospects(connection, facts)
    status, is_disabled = connection.status, connection.status == Status.DISABLED
    signs_in = may_sign_in(user, connection, facts=facts)
    is_for_one = connection.is_delegated and connection.app_registration.is_personal  # nobody else can sign in
    steps = {
        Step.SIGN_IN: signs_in,
        Step.SEND_SIGN_IN_LINK: signs_in and not is_disabled and not is_for_one,
        Step.CHECK: may_check(user, connection),
        Step.ENABLE: allowed["enable"] and prospects.may_be_enabled,
        Step.ASK_APPROVAL: allowed["reconnect"] and prospects.is_approval_missing and prospects.open_request is None,
        Step.CONNECT: allowed["reconnect"]
        and not connection.is_delegated
        and status == Status.PENDING
        and prospects.is_allowed,
        Step.EDIT: allowed["reconnect"],
        Step.SHARE: allowed["share"] and prospects.may_be_shared(now),
        Step.TRANSFER: allowed["hand_over"] and not is_for_one,
        Step.DISABLE: allowed["disable"] and not is_disabled,
        Step.KEEP_DISABLED: allowed["keep_disabled"],
        Step.REMOVE: allowed["disable"],
    }
    return frozenset(step for step, is_possible in steps.items() if is_possible)


def advice(connection: Connection, *, facts: Facts | None = None) -> Advice | None:
    """Return what must happen before the usual next step in this state, or None if that step is allowed now."""
    status = connection.status
    if effective_status.of(connection) in effective_status.AWAITING:
        return None
    if status == Status.DISABLED:
        prospects = Prospects(connection, facts)
        return None if prospects.may_be_enabled else prospects.advice(before="before it is enabled", enabling=True)
    # While an approval is missing, the status of a new connection already says so.
    if status == Status.RECONNECT_NEEDED or (status == Status.PENDING and connection.status_code != approvals.CODE):
        return sign_in_advice(connection, facts=facts)
    return None


def sign_in_advice(connection: Connection, *, facts: Facts | None = None) -> Advice | None:
    """Return what must happen before anybody can sign in for the connection, or None if the owner can sign in."""
    if not connection.is_delegated:
        return None
    prospects = Prospects(connection, facts)
    return None if prospects.may_sign_in else prospects.advice(before="before you sign in")
