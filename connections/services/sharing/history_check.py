"""Check the access history by replaying the whole audit trail independently."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from connections.models import AccessPeriod, AuditEvent
from connections.models.audit import AuditAction
from connections.services.audit import pruning

Kind = AccessPeriod.Kind
Key = tuple[str, int | None, int | None, int | None]  # kind, connection, person, team
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    kind: str
    started_at: datetime
    connection_id: int | None = None
    person_id: int | None = None
    team_id: int | None = None
    level: str = ""
    until: datetime | None = None
    ended_at: datetime | None = None
    started_by: str = ""
    source: str = ""  # the event or row that it comes from

    @property
    def key(self) -> Key:
        return _key(self.kind, self.connection_id, self.person_id, self.team_id)

    @property
    def terms(self) -> tuple[Any, ...]:
        return (self.level, self.until, self.started_by, self.ended_at)

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.started_at, self.ended_at or datetime.max.replace(tzinfo=UTC), self.source)

    def __str__(self) -> str:
        ids = (("connection", self.connection_id), ("team", self.team_id), ("person", self.person_id))
        about = ", ".join(f"{name} {pk}" for name, pk in ids if pk is not None)
        level = f" to {self.level}" if self.level else ""
        until = f" (planned until {_format_time(self.until)})" if self.until else ""
        span = f"from {_format_time(self.started_at)} to {_format_time(self.ended_at) if self.ended_at else 'now'}"
        return f"{Kind(self.kind).label}{level}: {about}, {span}{until}, started by {self.started_by or 'unknown'}"


def differences() -> list[str]:
    """Return every difference as a sentence. Ignores periods that began before the oldest event still kept."""
    kept_from = history_start()
    trail: dict[Key, list[Period]] = defaultdict(list)
    table: dict[Key, list[Period]] = defaultdict(list)
    for periods, by_key in ((_Replay().run(), trail), (_table(), table)):
        for period in periods:
            if period.started_at > kept_from:
                by_key[period.key].append(period)
    sentences: list[str] = []
    for key in sorted(trail.keys() | table.keys(), key=str):
        sentences += _compare(trail[key], table[key])
    return sentences


def _key(kind: str, connection_id: int | None = None, person_id: int | None = None, team_id: int | None = None) -> Key:
    return (kind, connection_id, person_id, team_id)


class _Replay:
    """Replays the audit trail event by event. Each action has a method of the same name."""

    def __init__(self) -> None:
        self.open: dict[Key, Period] = {}
        self.closed: list[Period] = []

    def run(self) -> list[Period]:
        actions = [action for action in AuditAction if hasattr(self, action.replace(".", "_"))]
        events = AuditEvent.objects.filter(action__in=actions, outcome=AuditEvent.Outcome.DONE).order_by("pk")
        for event in events.iterator(chunk_size=2000):
            getattr(self, event.action.replace(".", "_"))(event, event.changes)
        return [*self.closed, *self.open.values()]

    def _begin(self, event: AuditEvent, kind: Kind, **parts: Any) -> None:
        period = Period(kind, event.at, started_by=event.actor_name, source=f"event {event.pk}", **parts)
        # A connection has only one owner, so a new owner ends the period of the previous one.
        key = _key(kind, period.connection_id) if kind == Kind.OWNER else period.key
        self._end(event.at, [key])
        self.open[key] = period

    def _end(self, at: datetime, keys: list[Key]) -> None:
        for key in keys:
            period = self.open.pop(key, None)
            if period is not None:
                self.closed.append(replace(period, ended_at=min(at, period.until) if period.until else at))

    def _end_all(self, at: datetime, **ids: int) -> None:
        (name, pk), *_ = ids.items()
        self._end(at, [key for key, period in self.open.items() if getattr(period, name) == pk])

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
            return  # ``is_active`` was not changed
        (self.account_enabled if facts.get("active", True) else self.account_disabled)(event, facts)

    account_added = account_changed

    def account_disabled(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        person_id = int(event.target_id)
        if _key(Kind.DISABLED, person_id=person_id) not in self.open:
            self._begin(event, Kind.DISABLED, person_id=person_id)

    def account_enabled(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end(event.at, [_key(Kind.DISABLED, person_id=int(event.target_id))])

    def account_left(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        if facts.get("suspended"):  # in earlier versions, accounts of people who had left were not suspended
            self.account_disabled(event, facts)

    account_back = account_enabled

    service_account_disabled, service_account_enabled = account_disabled, account_enabled

    def account_removed(self, event: AuditEvent, facts: dict[str, Any]) -> None:
        self._end_all(event.at, person_id=int(event.target_id))
        self._begin(event, Kind.DISABLED, person_id=int(event.target_id))


def _share(event: AuditEvent, facts: dict[str, Any]) -> dict[str, Any]:
    """Identify the share of an event. Early events have no "with_type", only the text in "with"."""
    with_team = facts.get("with_type", "Team" if str(facts["with"]).startswith("team ") else "User") == "Team"
    recipient = {"team_id" if with_team else "person_id": facts["with_id"]}
    return {"kind": Kind.TEAM if with_team else Kind.PERSON, "connection_id": int(event.target_id), **recipient}


def _table() -> Iterator[Period]:
    for row in AccessPeriod.objects.order_by("pk").iterator(chunk_size=2000):
        ids = (row.connection_id, row.person_id, row.team_id)
        ended_at = row.end if row.ended_at is not None else None
        source = f"period {row.pk}"
        yield Period(row.kind, row.started_at, *ids, row.level, row.until, ended_at, row.started_by_name, source)


def history_start() -> datetime:
    """Return the time up to which retention has removed events. The history before that is incomplete."""
    pruned = pruning.last_pruned_seal()
    return pruning.covered_until(pruned) or LONG_AGO if pruned else LONG_AGO


def _compare(trail: list[Period], table: list[Period]) -> Iterator[str]:
    rows = sorted(table, key=lambda row: row.order)
    for period in sorted(trail, key=lambda period: period.order):
        near = [row for row in rows if row.started_at == period.started_at]
        match = next((row for row in near if row.terms == period.terms), None)
        if match is not None:
            rows.remove(match)
        elif near:
            row = near[0]
            rows.remove(row)
            yield f"The audit trail ({period.source}) says “{period}”; the access history ({row.source}) says “{row}”."
        else:
            yield f"Only the audit trail ({period.source}) contains “{period}”."
    for row in rows:
        yield f"Only the access history ({row.source}) contains “{row}”."


def _format_time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "–"
