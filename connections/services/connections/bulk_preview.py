"""Preview a bulk action: its effect on each connection, or the reason why a connection would be skipped.

A preview changes nothing. The services check again when the action runs, so an outdated preview does no harm.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from connections.access import permissions
from connections.models import BulkAction, Connection, Team, User
from connections.services.connections.bulk_options import Options
from connections.services.people import ownership_transfer
from connections.services.policy import evaluate, next_steps, self_access
from connections.services.policy.evaluate import Decision
from connections.services.sharing import shares, usage

Action, Status = BulkAction.Action, Connection.Status

NOT_FOUND = "It was removed, or you can no longer see it."
_OWNER_ONLY = "Only its owner and IT admins can do this."
_MANAGERS_ONLY = "Only its owner, people who can manage it and IT admins can do this."


class Preview:
    """Previews one action for many connections. Data that concerns all of them is read only once."""

    def __init__(
        self, action: str, options: Options, connections: Collection[Connection], *, actor: User, now: datetime
    ) -> None:
        self.action, self.options, self.actor, self.now = action, options, actor, now
        self.facts = next_steps.Facts.about(connections)
        self.in_use: frozenset[int] = frozenset()
        if action in (Action.DISABLE, Action.REMOVE):
            self.in_use = usage.recently_used([connection.pk for connection in connections], now=now)
        self.taken: frozenset[str] = frozenset()
        if options.owner is not None:
            own = Connection.objects.filter(owner=options.owner, name__in={each.name for each in connections})
            self.taken = frozenset(own.values_list("name", flat=True))

    def obstacle(self, connection: Connection) -> str:
        """Return why the action would skip the connection, or "" if nothing prevents it."""
        if not self._has_right(connection):
            return _OWNER_ONLY if self._is_for_owners else _MANAGERS_ONLY
        match self.action:
            case Action.CHECK:
                if next_steps.may_check(self.actor, connection):
                    return ""
                return "It is disabled." if connection.status == Status.DISABLED else "Nobody has signed in for it yet."
            case Action.SHARE:
                return self._obstacle_to_share(connection)
            case Action.TRANSFER:
                return self._obstacle_to_transfer(connection)
            case Action.ENABLE:
                return self._obstacle_to_enable(connection)
            case Action.DISABLE:
                is_disabled = connection.status == Status.DISABLED
                keeps = permissions.can_keep_disabled(self.actor, connection)
                return "It is already disabled." if is_disabled and not keeps else ""
        return ""

    def note(self, connection: Connection) -> str:
        """Return what is worth knowing about this connection before the action, or "" if there is nothing."""
        if self.action == Action.TRANSFER and connection.is_delegated:
            if self._keeps_tokens(connection):
                return f"Keeps working until {self.options.owner} has signed in."
            return f"Doesn't issue tokens until {self.options.owner} has signed in."
        if self.action == Action.DISABLE and connection.status == Status.DISABLED:
            return "Is disabled already. Afterwards, only an IT admin can enable it."
        return "In use: tokens were requested in the last 30 days." if connection.pk in self.in_use else ""

    @property
    def _is_for_owners(self) -> bool:
        return self.action in (Action.TRANSFER, Action.ENABLE, Action.DISABLE, Action.REMOVE)

    def _has_right(self, connection: Connection) -> bool:
        allowed = permissions.can_disable if self._is_for_owners else permissions.can_check
        return allowed(self.actor, connection)

    def _obstacle_to_share(self, connection: Connection) -> str:
        recipients = recipients_of(connection, self.options)
        if not recipients:
            return f"{connection.owner} already owns it."
        sources = self.facts.policies.of(connection.app_registration)
        decision = Decision()
        for with_team in {isinstance(each, Team) for each in recipients}:
            decision += evaluate.evaluate_share(
                sources,
                authentication_type=connection.authentication_type,
                with_team=with_team,
                until=self.options.until,
                now=self.now,
            )
        if decision.reasons:
            return " ".join(decision.sentences)
        if not next_steps.Prospects(connection, self.facts).is_allowed:
            return "The policy doesn't allow it, or an approval is missing."
        return self._needs_second_person(connection, recipients)

    def _needs_second_person(self, connection: Connection, recipients: Iterable[User | Team]) -> str:
        for each in recipients:
            who: dict[str, Any] = {"person": None, "team": None} | shares.as_recipient(each)
            level, until = self.options.level, self.options.until
            change = self_access.of_share(connection, **who, level=level, until=until, actor=self.actor)
            if change is not None:
                return _second_person(change.title)
        return ""

    def _obstacle_to_transfer(self, connection: Connection) -> str:
        owner, app = self.options.owner, connection.app_registration
        if owner is None:
            return "The new owner's account was removed."
        if connection.owner_id == owner.pk:
            return f"{owner} already owns it."
        if not permissions.can_hand_over(self.actor, connection):
            return "An IT admin disabled it, so only an IT admin can transfer it."
        if connection.is_delegated and app.is_personal:
            return f"Only the person who added {app} can sign in with it."
        if not connection.is_delegated and not any(map(permissions.can_connect_app_only, (self.actor, owner))):
            return "App-only connections cover the whole tenant, so only an IT admin can transfer it."
        if connection.name in self.taken:
            return f"{owner} already has a connection with this name."
        change = self_access.of_transfer(
            connection, owner, keeps_tokens=self._keeps_tokens(connection), actor=self.actor
        )
        return _second_person(change.title) if change is not None else ""

    def _keeps_tokens(self, connection: Connection) -> bool:
        keeps = self.options.keep_grant and ownership_transfer.can_keep_tokens(connection)
        return not connection.is_delegated or keeps

    def _obstacle_to_enable(self, connection: Connection) -> str:
        if connection.status != Status.DISABLED:
            return "It isn't disabled."
        if not permissions.can_use_again(self.actor, connection):
            return "An IT admin disabled it, so only an IT admin can enable it."
        prospects = next_steps.Prospects(connection, self.facts)
        if prospects.may_be_enabled:
            return ""
        return prospects.advice(before="before it is enabled", enabling=True).action


def recipients_of(connection: Connection, options: Options) -> tuple[User | Team, ...]:
    """Return the people and teams that the connection will be shared with: all recipients except its owner."""
    return tuple(each for each in options.recipients if not (isinstance(each, User) and each.pk == connection.owner_id))


def _second_person(title: str) -> str:
    return f"{title} needs approval by a second person. Request it on the connection's page."
