"""The auditor's two reports: who could use a connection, and which connections a person could use.

A person could use a connection while their account was enabled and they, or a team they were in, had access. Every
interval includes its start and excludes its end.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import cast

from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from connections.models import AccessPeriod, Connection, User

Kind = AccessPeriod.Kind
Interval = tuple[datetime, datetime]

OWNER = "owner"  # the highest level; the other levels are in Share.Level
_RANK = {"use": 0, "manage": 1, OWNER: 2}
_RESOLUTION = timedelta(microseconds=1)  # time resolution of the databases; a moment is an interval of this length
CANDIDATES = 20  # shown when searching for a person or connection; the functions return one more if there are more


@dataclass(frozen=True, slots=True)
class Window:
    """The time window of a report, in UTC."""

    start: datetime
    end: datetime

    @classmethod
    def moment(cls, at: datetime) -> "Window":
        return cls(at, at + _RESOLUTION)

    @classmethod
    def day(cls, day: date, *, now: datetime) -> "Window":
        start = datetime.combine(day, time.min, UTC)
        return cls(start, min(start + timedelta(days=1), max(now, start + _RESOLUTION)))

    @property
    def is_moment(self) -> bool:
        return self.end - self.start == _RESOLUTION


@dataclass(frozen=True, slots=True)
class AccessPath:
    """The reason why a person could use a connection: as its owner, by a share, or as a member of a team."""

    grant: AccessPeriod
    membership: AccessPeriod | None
    stretches: tuple[Interval, ...]  # within the window, while the account was enabled; never empty

    @property
    def level(self) -> str:
        return OWNER if self.grant.kind == Kind.OWNER else self.grant.level


@dataclass(slots=True)
class Access:
    person_id: int
    connection_id: int
    paths: list[AccessPath] = field(default_factory=list)

    @property
    def level(self) -> str:
        return max((path.level for path in self.paths), key=_RANK.__getitem__)

    @property
    def stretches(self) -> tuple[Interval, ...]:
        """The intervals in which any path gave access, with overlapping ones joined."""
        joined: list[Interval] = []
        for start, end in sorted(stretch for path in self.paths for stretch in path.stretches):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((start, end))
        return tuple(joined)

    @property
    def person_name(self) -> str:
        return max((path.membership or path.grant for path in self.paths), key=lambda period: period.pk).person_name

    @property
    def connection_name(self) -> str:
        return max((path.grant for path in self.paths), key=lambda period: period.pk).connection_name


def who_could_use(connection_id: int, window: Window) -> list[Access]:
    """Return everybody who could use this connection in the window, by name. Takes three queries."""
    grants = _overlapping(window).filter(connection_id=connection_id)
    members = _overlapping(window).filter(
        kind=Kind.MEMBER, team_id__in=grants.filter(kind=Kind.TEAM).order_by().values("team_id")
    )
    disabled = _overlapping(window).filter(
        Q(person_id__in=grants.filter(person_id__isnull=False).order_by().values("person_id"))
        | Q(person_id__in=members.order_by().values("person_id")),
        kind=Kind.DISABLED,
    )
    accesses = _combine(window, grants, members, disabled)
    return sorted(accesses, key=lambda access: (access.person_name.casefold(), access.person_id))


def what_could_be_used(person_id: int, window: Window) -> list[Access]:
    """Return every connection this person could use in the window, by name. Takes two queries."""
    own = list(_overlapping(window).filter(person_id=person_id))
    members = [period for period in own if period.kind == Kind.MEMBER]
    disabled = [period for period in own if period.kind == Kind.DISABLED]
    direct = [period for period in own if period.kind in (Kind.OWNER, Kind.PERSON)]
    teams = _overlapping(window).filter(person_id=person_id, kind=Kind.MEMBER).order_by().values("team_id")
    by_team = _overlapping(window).filter(kind=Kind.TEAM, team_id__in=teams)
    accesses = _combine(window, [*direct, *by_team], members, disabled)
    return sorted(accesses, key=lambda access: (access.connection_name.casefold(), access.connection_id))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connection or person that can be chosen. ``detail`` tells those with the same name apart."""

    pk: int
    name: str
    detail: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class AccessHistoryQuery:
    about: str  # "connection": who could use it; "person": what they could use
    subject: Candidate
    window: Window

    @property
    def words(self) -> str:
        name = self.subject.name
        return f"Access to {name}" if self.about == "connection" else f"Access of {name}"

    def answer(self) -> list[Access]:
        query = who_could_use if self.about == "connection" else what_could_be_used
        return query(self.subject.pk, self.window)


def find_connections(text: str) -> list[Candidate]:
    """Find connections by part of their name, existing ones before deleted ones. Takes two queries."""
    rows = Connection.objects.filter(name__icontains=text).order_by("name", "pk")
    columns = rows.values_list("pk", "name", "owner__username")[: CANDIDATES + 1]
    candidates = [Candidate(pk, name, f"of {owner}", False) for pk, name, owner in columns]
    periods = AccessPeriod.objects.filter(kind=Kind.OWNER, connection_name__icontains=text)
    deleted = periods.exclude(Exists(Connection.objects.filter(pk=OuterRef("connection_id"))))
    candidates += [_deleted_connection(period) for period in _latest(deleted, "connection_id")]
    return candidates[: CANDIDATES + 1]


def find_people(text: str) -> list[Candidate]:
    """Find people by part of their name or sign-in name, existing ones before deleted ones. Takes two queries."""
    name = Q(username__icontains=text)
    for word in text.split():
        name |= Q(first_name__icontains=word) | Q(last_name__icontains=word)
    users = User.objects.filter(name).order_by("first_name", "last_name", "pk")[: CANDIDATES + 1]
    candidates = [Candidate(user.pk, str(user), user.username, False) for user in users]
    periods = AccessPeriod.objects.filter(person_name__icontains=text)
    deleted = periods.exclude(Exists(User.objects.filter(pk=OuterRef("person_id"))))
    candidates += [_deleted_person(period) for period in _latest(deleted, "person_id")]
    return candidates[: CANDIDATES + 1]


def get_connection(pk: int) -> Candidate | None:
    """Return the connection with this ID, even if it was deleted, or None."""
    row = Connection.objects.filter(pk=pk).values_list("name", "owner__username").first()
    if row is not None:
        return Candidate(pk, row[0], f"of {row[1]}", False)
    period = AccessPeriod.objects.filter(connection_id=pk, kind=Kind.OWNER).order_by("-pk").first()
    return _deleted_connection(period) if period else None


def get_person(pk: int) -> Candidate | None:
    """Return the person with this ID, even if they were deleted, or None."""
    user = User.objects.filter(pk=pk).first()
    if user is not None:
        return Candidate(pk, str(user), user.username, False)
    period = AccessPeriod.objects.filter(person_id=pk).order_by("-pk").first()
    return _deleted_person(period) if period else None


def _deleted_connection(period: AccessPeriod) -> Candidate:
    owner = period.person_name.rpartition(" <")[2].rstrip(">")
    return Candidate(cast(int, period.connection_id), period.connection_name, f"of {owner}", True)


def _deleted_person(period: AccessPeriod) -> Candidate:
    name, _, username = period.person_name.rpartition(" <")
    return Candidate(cast(int, period.person_id), name, username.rstrip(">"), True)


def existing_ids(accesses: Sequence[Access]) -> tuple[set[int], set[int]]:
    """Return the IDs of the people and connections in ``accesses`` that still exist. Takes two queries."""
    people = User.objects.filter(pk__in={access.person_id for access in accesses})
    connections = Connection.objects.filter(pk__in={access.connection_id for access in accesses})
    return set(people.values_list("pk", flat=True)), set(connections.values_list("pk", flat=True))


def _overlapping(window: Window) -> QuerySet[AccessPeriod]:
    return AccessPeriod.objects.filter(
        Q(ended_at=None) | Q(ended_at__gt=window.start),
        Q(until=None) | Q(until__gt=window.start),
        started_at__lt=window.end,
    )


def _combine(
    window: Window, grants: Iterable[AccessPeriod], members: Iterable[AccessPeriod], disabled: Iterable[AccessPeriod]
) -> list[Access]:
    members_of: dict[int | None, list[AccessPeriod]] = defaultdict(list)
    for period in members:
        members_of[period.team_id].append(period)
    disabled_of: dict[int | None, list[AccessPeriod]] = defaultdict(list)
    for period in disabled:
        disabled_of[period.person_id].append(period)
    accesses: dict[tuple[int, int], Access] = {}
    for grant in grants:
        for membership in members_of[grant.team_id] if grant.kind == Kind.TEAM else (None,):
            person_id = (membership or grant).person_id
            assert person_id is not None and grant.connection_id is not None  # noqa: S101, PT018 - a check constraint
            stretches = _within(window, [grant, membership] if membership else [grant], disabled_of[person_id])
            if stretches:
                access = accesses.setdefault((person_id, grant.connection_id), Access(person_id, grant.connection_id))
                access.paths.append(AccessPath(grant, membership, stretches))
    for access in accesses.values():
        access.paths.sort(key=lambda path: (-_RANK[path.level], path.stretches[0][0], path.grant.pk))
    return list(accesses.values())


def _within(window: Window, all_of: Sequence[AccessPeriod], none_of: Sequence[AccessPeriod]) -> tuple[Interval, ...]:
    """Return the parts of the window in which all periods of ``all_of`` and no period of ``none_of`` were in force."""
    start = max(window.start, *(period.started_at for period in all_of))
    end = min(window.end, *(period.end or window.end for period in all_of))
    stretches = [(start, end)] if start < end else []
    for period in none_of:
        off, on = period.started_at, period.end or window.end
        cut = [((a, min(b, off)), (max(a, on), b)) for a, b in stretches]
        stretches = [(a, b) for pair in cut for a, b in pair if a < b]
    return tuple(sorted(stretches))


def _latest(periods: QuerySet[AccessPeriod], column: str) -> list[AccessPeriod]:
    """Return the newest period for each value of the column, ordered by that value."""
    newest = periods.order_by(column).values(column).annotate(newest=Max("pk")).values("newest")
    return list(AccessPeriod.objects.filter(pk__in=newest[: CANDIDATES + 1]).order_by(column))
