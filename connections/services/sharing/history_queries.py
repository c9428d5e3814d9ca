"""The auditor's two questions, answered from the access history: who could use this, and what could this person use.

At a moment a person could use a connection if their account was enabled and they owned it, or it was shared with them,
or it was shared with a team they were a member of. Every stretch of time counts from its start until just before its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from connections.models import AccessPeriod, Connection, User

Kind = AccessPeriod.Kind
Interval = tuple[datetime, datetime]

OWNER = "owner"  # the strongest level; the others are those of Share.Level
_STRENGTH = {"use": 0, "manage": 1, OWNER: 2}
_SHORTEST = timedelta(microseconds=1)  # the databases' resolution: a moment is the shortest stretch there is
CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Window:
    """The time a question asks about, from ``start`` until just before ``end``, in UTC."""

    start: datetime
    end: datetime

    @classmethod
    def moment(cls, at: datetime) -> Window:
        """Exactly then."""
        return cls(at, at + _SHORTEST)

    @classmethod
    def day(cls, day: date, *, now: datetime) -> Window:
        """At any time of that day in UTC; of today, until now."""
        start = datetime.combine(day, time.min, UTC)
        return cls(start, min(start + timedelta(days=1), max(now, start + _SHORTEST)))

    @property
    def is_moment(self) -> bool:
        """Whether it is one moment and not a stretch of time."""
        return self.end - self.start == _SHORTEST


@dataclass(frozen=True, slots=True)
class AccessPath:
    """One way by which somebody could use a connection: as its owner, by a share, or by a team's share as a member."""

    grant: AccessPeriod
    membership: AccessPeriod | None
    stretches: tuple[Interval, ...]  # within the window, while the account was enabled; never empty

    @property
    def level(self) -> str:
        """``owner``, ``manage`` or ``use``."""
        return OWNER if self.grant.kind == Kind.OWNER else self.grant.level


@dataclass(slots=True)
class Access:
    """One person and one connection: whether, when and how the one could use the other in the window."""

    person_id: int
    connection_id: int
    ways: list[AccessPath] = field(default_factory=list)

    @property
    def level(self) -> str:
        """The strongest level of all ways."""
        return max((way.level for way in self.ways), key=_STRENGTH.__getitem__)

    @property
    def stretches(self) -> tuple[Interval, ...]:
        """When it could be used, by whichever way, without overlaps."""
        return _joined(stretch for way in self.ways for stretch in way.stretches)

    @property
    def person_name(self) -> str:
        """The person as they were named last in these records."""
        named = [way.membership or way.grant for way in self.ways]
        return max(named, key=lambda period: period.pk).person_name

    @property
    def connection_name(self) -> str:
        """The connection as it was named last in these records."""
        return max((way.grant for way in self.ways), key=lambda period: period.pk).connection_name


def who_could_use(connection_id: int, window: Window) -> list[Access]:
    """Everybody who could use this connection in the window, by name. Three queries, however long the history."""
    grants = _overlapping(window).filter(connection_id=connection_id)
    members = _overlapping(window).filter(
        kind=Kind.MEMBER, team_id__in=grants.filter(kind=Kind.TEAM).order_by().values("team_id")
    )
    disabled = _overlapping(window).filter(
        Q(person_id__in=grants.filter(person_id__isnull=False).order_by().values("person_id"))
        | Q(person_id__in=members.order_by().values("person_id")),
        kind=Kind.DISABLED,
    )
    found = _accesses(window, grants, members, disabled)
    return sorted(found, key=lambda access: (access.person_name.casefold(), access.person_id))


def what_could_be_used(person_id: int, window: Window) -> list[Access]:
    """Every connection this person could use in the window, by name. Two queries, however long the history."""
    own = list(_overlapping(window).filter(person_id=person_id))
    members = [period for period in own if period.kind == Kind.MEMBER]
    disabled = [period for period in own if period.kind == Kind.DISABLED]
    direct = [period for period in own if period.kind in (Kind.OWNER, Kind.PERSON)]
    teams = _overlapping(window).filter(person_id=person_id, kind=Kind.MEMBER).order_by().values("team_id")
    by_team = _overlapping(window).filter(kind=Kind.TEAM, team_id__in=teams)
    found = _accesses(window, [*direct, *by_team], members, disabled)
    return sorted(found, key=lambda access: (access.connection_name.casefold(), access.connection_id))


# --- What can be asked about ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connection or person to ask about. ``detail`` tells those of the same name apart."""

    pk: int
    name: str
    detail: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class AccessHistoryQuery:
    """One of the two questions."""

    about: str  # "connection": who could use it; "person": what could they use
    subject: Candidate
    window: Window

    @property
    def words(self) -> str:
        """The question without its time."""
        if self.about == "connection":
            return f"Who could use {self.subject.name}"
        return f"What could {self.subject.name} use"

    def answer(self) -> list[Access]:
        """The answer."""
        ask = who_could_use if self.about == "connection" else what_could_be_used
        return ask(self.subject.pk, self.window)


def find_connections(text: str) -> list[Candidate]:
    """Connections with this in their name, those that exist first; at most CANDIDATES + 1. Two queries."""
    there = (
        Connection.objects.filter(name__icontains=text)
        .order_by("name", "pk")
        .values_list("pk", "name", "owner__username")
    )
    found = [Candidate(pk, name, f"of {owner}", False) for pk, name, owner in there[: CANDIDATES + 1]]
    gone = AccessPeriod.objects.filter(kind=Kind.OWNER, connection_name__icontains=text)
    gone = gone.exclude(Exists(Connection.objects.filter(pk=OuterRef("connection_id"))))
    for period in _latest(gone, "connection_id"):
        assert period.connection_id is not None  # noqa: S101 - owner periods name their connection
        found.append(Candidate(period.connection_id, period.connection_name, f"of {_sign_in_name(period)}", True))
    return found[: CANDIDATES + 1]


def find_people(text: str) -> list[Candidate]:
    """People with this in their name or sign-in name, those that exist first; at most CANDIDATES + 1. Two queries."""
    name = Q(username__icontains=text)
    for word in text.split():
        name |= Q(first_name__icontains=word) | Q(last_name__icontains=word)
    there = User.objects.filter(name).order_by("first_name", "last_name", "pk")
    found = [Candidate(user.pk, str(user), user.username, False) for user in there[: CANDIDATES + 1]]
    gone = AccessPeriod.objects.filter(person_name__icontains=text)
    gone = gone.exclude(Exists(User.objects.filter(pk=OuterRef("person_id"))))
    for period in _latest(gone, "person_id"):
        assert period.person_id is not None  # noqa: S101 - a period with a person's name has a person
        shown = period.person_name.rpartition(" <")[0]
        found.append(Candidate(period.person_id, shown, _sign_in_name(period), True))
    return found[: CANDIDATES + 1]


def get_connection(pk: int) -> Candidate | None:
    """The connection with this id, also if it is deleted. At most two queries."""
    there = Connection.objects.filter(pk=pk).values_list("name", "owner__username").first()
    if there is not None:
        return Candidate(pk, there[0], f"of {there[1]}", False)
    gone = AccessPeriod.objects.filter(connection_id=pk, kind=Kind.OWNER).order_by("-pk").first()
    return Candidate(pk, gone.connection_name, f"of {_sign_in_name(gone)}", True) if gone else None


def get_person(pk: int) -> Candidate | None:
    """The person with this id, also if they are deleted. At most two queries."""
    there = User.objects.filter(pk=pk).first()
    if there is not None:
        return Candidate(pk, str(there), there.username, False)
    gone = AccessPeriod.objects.filter(person_id=pk).order_by("-pk").first()
    return Candidate(pk, gone.person_name.rpartition(" <")[0], _sign_in_name(gone), True) if gone else None


def existing_ids(accesses: Sequence[Access]) -> tuple[set[int], set[int]]:
    """Which of the people and of the connections named here still exist. Two queries."""
    people = User.objects.filter(pk__in={access.person_id for access in accesses})
    connections = Connection.objects.filter(pk__in={access.connection_id for access in accesses})
    return set(people.values_list("pk", flat=True)), set(connections.values_list("pk", flat=True))


# --- Parts ----------------------------------------------------------------------------------------


def _overlapping(window: Window) -> QuerySet[AccessPeriod]:
    return AccessPeriod.objects.filter(
        Q(ended_at=None) | Q(ended_at__gt=window.start),
        Q(until=None) | Q(until__gt=window.start),
        started_at__lt=window.end,
    )


def _accesses(
    window: Window,
    grants: Iterable[AccessPeriod],
    members: Iterable[AccessPeriod],
    disabled: Iterable[AccessPeriod],
) -> list[Access]:
    """Put the pieces together: who had which grant, directly or as a member, and was not disabled meanwhile."""
    members_of: dict[int | None, list[AccessPeriod]] = defaultdict(list)
    for period in members:
        members_of[period.team_id].append(period)
    disabled_of: dict[int | None, list[AccessPeriod]] = defaultdict(list)
    for period in disabled:
        disabled_of[period.person_id].append(period)
    found: dict[tuple[int, int], Access] = {}
    for grant in grants:
        for membership in members_of[grant.team_id] if grant.kind == Kind.TEAM else (None,):
            person_id = (membership or grant).person_id
            assert person_id is not None and grant.connection_id is not None  # noqa: S101, PT018 - a check constraint
            stretches = _within(window, [grant, membership] if membership else [grant], disabled_of[person_id])
            if stretches:
                access = found.setdefault((person_id, grant.connection_id), Access(person_id, grant.connection_id))
                access.ways.append(AccessPath(grant, membership, stretches))
    for access in found.values():
        access.ways.sort(key=lambda way: (-_STRENGTH[way.level], way.stretches[0][0], way.grant.pk))
    return list(found.values())


def _within(window: Window, all_of: Sequence[AccessPeriod], none_of: Sequence[AccessPeriod]) -> tuple[Interval, ...]:
    """The parts of the window in which all of the one and none of the other periods counted."""
    start = max(window.start, *(period.started_at for period in all_of))
    end = min(window.end, *(period.end or window.end for period in all_of))
    stretches = [(start, end)] if start < end else []
    for period in none_of:
        off, on = period.started_at, period.end or window.end
        cut = [((a, min(b, off)), (max(a, on), b)) for a, b in stretches]
        stretches = [(a, b) for pair in cut for a, b in pair if a < b]
    return tuple(sorted(stretches))


def _joined(stretches: Iterable[Interval]) -> tuple[Interval, ...]:
    joined: list[Interval] = []
    for start, end in sorted(stretches):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def _latest(periods: QuerySet[AccessPeriod], column: str) -> list[AccessPeriod]:
    """The newest of the periods for each value of the column, in the order of these values."""
    newest = periods.order_by(column).values(column).annotate(newest=Max("pk")).values("newest")
    return list(AccessPeriod.objects.filter(pk__in=newest[: CANDIDATES + 1]).order_by(column))


def _sign_in_name(period: AccessPeriod) -> str:
    return period.person_name.rpartition(" <")[2].rstrip(">")
