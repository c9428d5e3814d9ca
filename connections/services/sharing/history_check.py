"""Whether the audit trail and the access history tell the same story.

The trail is read from its beginning, and what each event means for owners, shares, memberships and accounts is worked out
anew, without the services that wrote the history. What one of the two knows and the other does not is a difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from connections.models import AccessPeriod, AuditEvent
from connections.models.audit import AuditAction

Kind = AccessPeriod.Kind
Key = tuple[str, int | None, int | None, int | None]  # kind, connection, person, team
# Rows from before the history was kept have their own times, a little off those of their audit events.
SLACK = timedelta(seconds=10)
LONG_AGO = datetime.min.replace(tzinfo=UTC)
ACTIONS = (
    AuditAction.CONNECTION_CREATED,
    AuditAction.CONNECTION_HANDED_OVER,
    AuditAction.CONNECTION_REMOVED,
    AuditAction.CONNECTION_SHARED,
    AuditAction.CONNECTION_SHARE_CHANGED,
    AuditAction.CONNECTION_UNSHARED,
    AuditAction.CONNECTION_SHARE_EXPIRED,
    AuditAction.TEAM_MEMBER_ADDED,
    AuditAction.TEAM_MEMBER_REMOVED,
    AuditAction.TEAM_REMOVED,
    AuditAction.ACCOUNT_ADDED,
    AuditAction.ACCOUNT_CHANGED,
    AuditAction.ACCOUNT_DISABLED,
    AuditAction.ACCOUNT_ENABLED,
    AuditAction.ACCOUNT_REMOVED,
    AuditAction.SERVICE_ACCOUNT_DISABLED,
    AuditAction.SERVICE_ACCOUNT_ENABLED,
)


@dataclass(frozen=True, slots=True)
class Period:
    """A period as one of the two tells it."""

    kind: str
    started_at: datetime
    connection_id: int | None = None
    person_id: int | None = None
    team_id: int | None = None
    level: str = ""
    until: datetime | None = None
    ended_at: datetime | None = None
    started_by: str = ""
    source: str = ""  # where to look: an event or a row
    is_removal: bool = False  # of an account: it never signs in again

    @property
    def key(self) -> Key:
        """What it is about, whenever it was."""
        return _key(self.kind, self.connection_id, self.person_id, self.team_id)

    @property
    def order(self) -> tuple[Any, ...]:
        """Periods of one key by time."""
        return (self.started_at, self.ended_at or datetime.max.replace(tzinfo=UTC), self.source)

    def __str__(self) -> str:
        ids = (("connection", self.connection_id), ("team", self.team_id), ("person", self.person_id))
        about = ", ".join(f"{name} {pk}" for name, pk in ids if pk is not None)
        level = f" to {self.level}" if self.level else ""
        until = f" (planned until {_words(self.until)})" if self.until else ""
        span = f"from {_words(self.started_at)} to {_words(self.ended_at) if self.ended_at else 'now'}"
        return f"{Kind(self.kind).label}{level}: {about}, {span}{until}, begun by {self.started_by or 'unknown'}"


def differences(*, since: datetime | None = None, slack: timedelta = SLACK) -> list[str]:
    """Every difference in one sentence; none if the two agree.

    ``since`` is when the history began to be kept; what had ended by then it need not know. By default that is when
    its table was filled. What began before the oldest event that is still kept cannot be compared.
    """
    began, kept_from = since or LONG_AGO, history_start()
    trail = _by_key(one for one in _Replay().run() if one.started_at > kept_from)
    table = _by_key(one for one in _table() if one.started_at > kept_from)
    found: list[str] = []
    for key in sorted(trail.keys() | table.keys(), key=str):
        found += _compare(trail[key], table[key], began, slack)
    return found


# --- The two stories ------------------------------------------------------------------------------


def _key(kind: str, connection_id: int | None = None, person_id: int | None = None, team_id: int | None = None) -> Key:
    return (kind, connection_id, person_id, team_id)


class _Replay:
    """The audit trail, event by event, in the order in which it was written."""

    def __init__(self) -> None:
        self.open: dict[Key, Period] = {}
        self.closed: list[Period] = []

    def run(self) -> list[Period]:
        events = AuditEvent.objects.filter(action__in=ACTIONS, outcome=AuditEvent.Outcome.DONE).order_by("pk")
        for event in events.iterator(chunk_size=2000):
            getattr(self, event.action.replace(".", "_"))(event, event.changes)
        return [*self.closed, *self.open.values()]

    def _begin(self, event: AuditEvent, kind: Kind, **parts: Any) -> None:
        told = Period(kind, event.at, started_by=event.actor_name, source=f"event {event.pk}", **parts)
        # A connection has one owner: the next one takes the place of the one before.
        place = _key(kind, told.connection_id) if kind == Kind.OWNER else told.key
        self._end(event.at, [place])
        self.open[place] = told

    def _end(self, at: datetime, places: list[Key]) -> None:
        for place in places:
            told = self.open.pop(place, None)
            if told is not None:
                self.closed.append(replace(told, ended_at=min(at, told.until) if told.until else at))

    def _end_all(self, at: datetime, **ids: int) -> None:
        (name, pk), *_ = ids.items()
        self._end(at, [place for place, told in self.open.items() if getattr(told, name) == pk])

    # One method per action; its name is the action's.

    def connection_created(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._begin(event, Kind.OWNER, connection_id=int(event.target_id), person_id=event.owner_id)

    def connection_handed_over(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._begin(event, Kind.OWNER, connection_id=int(event.target_id), person_id=facts["owner_id"][1])

    def connection_removed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end_all(event.at, connection_id=int(event.target_id))

    def connection_shared(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        until = facts["until"][1]
        terms = {"level": facts["level"][1], "until": datetime.fromisoformat(until) if until else None}
        self._begin(event, **_share(event, facts), **terms)

    connection_share_changed = connection_shared

    def connection_unshared(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end(event.at, [_key(**_share(event, facts))])

    connection_share_expired = connection_unshared

    def team_member_added(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._begin(event, Kind.MEMBER, team_id=int(event.target_id), person_id=facts["member_id"])

    def team_member_removed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end(event.at, [_key(Kind.MEMBER, person_id=facts["member_id"], team_id=int(event.target_id))])

    def team_removed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end_all(event.at, team_id=int(event.target_id))

    def account_changed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        if "is_active" not in facts.get("fields", ["is_active"]):
            return  # something else was changed; how the account stood has not
        (self.account_enabled if facts.get("active", True) else self.account_disabled)(event, facts)

    account_added = account_changed

    def account_disabled(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        person_id = int(event.target_id)
        if _key(Kind.DISABLED, person_id=person_id) not in self.open:
            self._begin(event, Kind.DISABLED, person_id=person_id)

    def account_enabled(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end(event.at, [_key(Kind.DISABLED, person_id=int(event.target_id))])

    service_account_disabled, service_account_enabled = account_disabled, account_enabled

    def account_removed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end_all(event.at, person_id=int(event.target_id))
        self._begin(event, Kind.DISABLED, person_id=int(event.target_id), is_removal=True)


def _share(event: AuditEvent, facts: dict[str, Any]) -> dict[str, Any]:
    """Which share an event is about. Early events name the kind of the other side in words only."""
    with_team = facts.get("with_type", "Team" if str(facts["with"]).startswith("team ") else "User") == "Team"
    whom = {"team_id" if with_team else "person_id": facts["with_id"]}
    return {"kind": Kind.TEAM if with_team else Kind.PERSON, "connection_id": int(event.target_id), **whom}


def _table() -> Iterator[Period]:
    for row in AccessPeriod.objects.order_by("pk").iterator(chunk_size=2000):
        yield Period(
            row.kind,
            row.started_at,
            row.connection_id,
            row.person_id,
            row.team_id,
            row.level,
            row.until,
            row.end if row.ended_at is not None else None,
            row.started_by_name,
            f"period {row.pk}",
        )


def history_start() -> datetime:
    """Up to when events were removed because they are older than the organisation keeps them; no history before it."""
    newest = AuditEvent.objects.filter(action=AuditAction.AUDIT_PRUNED).order_by("-pk").first()
    return datetime.fromisoformat(newest.changes["until"]) if newest is not None else LONG_AGO


# --- Comparing ------------------------------------------------------------------------------------


def _by_key(told: Any) -> dict[Key, list[Period]]:
    found: dict[Key, list[Period]] = defaultdict(list)
    for one in told:
        found[one.key].append(one)
    return found


def _compare(trail: list[Period], table: list[Period], began: datetime, slack: timedelta) -> Iterator[str]:
    """Match the periods of one key; what stays alone, or fits only in part, is a difference."""
    left = sorted(table, key=lambda one: one.order)
    for told in sorted(trail, key=lambda one: one.order):
        exact = timedelta(0) if told.started_at >= began else slack
        near = [one for one in left if abs(one.started_at - told.started_at) <= exact]
        same = next((one for one in near if _agree(told, one, began, slack)), None)
        if same is not None:
            left.remove(same)
        elif near:
            left.remove(near[0])
            yield f"The audit trail ({told.source}) says “{told}”; the access history ({near[0].source}) says “{near[0]}”."
        elif not _is_over(told, began):
            yield f"Only the audit trail ({told.source}) knows “{told}”."
    for one in left:
        yield f"Only the access history ({one.source}) knows “{one}”."


def _is_over(period: Period, began: datetime) -> bool:
    """Whether nothing was left of it when the history began to be kept."""
    if period.is_removal:
        return period.started_at <= began
    return period.ended_at is not None and period.ended_at <= began


def _agree(period: Period, row: Period, began: datetime, slack: timedelta) -> bool:
    is_old = period.started_at < began
    if (period.level, period.until) != (row.level, row.until) or (not is_old and period.started_by != row.started_by):
        return False
    if period.ended_at is None or row.ended_at is None:
        return period.ended_at is row.ended_at
    return abs(period.ended_at - row.ended_at) <= (slack if period.ended_at < began else timedelta(0))


def _words(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "–"
