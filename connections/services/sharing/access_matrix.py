"""Who can currently use which connections, for a page of connections."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from connections.access.search import contains
from connections.models import Connection, Share, Team, TeamMember, User

MOST_COLUMNS = 12  # people and teams with a column of their own
MOST_SHARES = 2000  # shares read for one page, or looked up for a search
MOST_NAMED = 20  # people that a search considers, and as many teams


@dataclass(frozen=True, slots=True)
class Holder:
    """A person or team that connections are shared with."""

    name: str
    is_team: bool
    pk: int


@dataclass(frozen=True, slots=True)
class Row:
    connection: Connection
    shares: tuple[tuple[Holder, Share], ...]
    cells: tuple[tuple[Holder, Share | None], ...]  # one for each column
    others: int  # number of shares with people and teams that have no column


@dataclass(frozen=True, slots=True)
class Matrix:
    columns: tuple[Holder, ...]
    rows: tuple[Row, ...]
    is_cut: bool  # there are more than MOST_SHARES


def matrix(connections: Sequence[Connection], *, now: datetime) -> Matrix:
    """Return the active shares of these connections. Takes one query.

    The people and teams that can use most of them get the columns.
    """
    shares = Share.objects.active(now).filter(connection__in=[each.pk for each in connections])
    active_shares = list(shares.select_related("person", "team").order_by("pk")[: MOST_SHARES + 1])
    by_connection: dict[int, dict[Holder, Share]] = {}
    for share in active_shares[:MOST_SHARES]:
        by_connection.setdefault(share.connection_id, {})[_holder(share)] = share
    counts = Counter(holder for held in by_connection.values() for holder in held)
    ranked = sorted(counts, key=lambda holder: (-counts[holder], holder.name, holder.pk))
    columns = tuple(ranked[:MOST_COLUMNS])
    rows = []
    for connection in connections:
        held = by_connection.get(connection.pk, {})
        cells = tuple((holder, held.get(holder)) for holder in columns)
        others = len(held) - sum(share is not None for _, share in cells)
        rows.append(Row(connection, tuple(held.items()), cells, others))
    return Matrix(columns, tuple(rows), len(active_shares) > MOST_SHARES)


def search(text: str, *, now: datetime) -> list[Q]:
    """Return conditions for list_pages.page: a connection, or someone who can use it, has this text in their name.

    Each condition uses one index. At most MOST_NAMED people and MOST_NAMED teams are considered.
    """
    people = User.objects.filter(contains(("username", "first_name", "last_name"), text)).order_by("pk")
    people_pks = list(people.values_list("pk", flat=True)[:MOST_NAMED])
    teams = Team.objects.filter(contains(("name",), text)).order_by("pk").values_list("pk", flat=True)[:MOST_NAMED]
    joined = TeamMember.objects.filter(user__in=people_pks).values_list("team", flat=True)[:MOST_SHARES]
    shares = Share.objects.active(now).order_by()
    return [
        contains(("name",), text),
        Q(owner__in=people_pks),
        _shared(shares.filter(person__in=people_pks)),
        _shared(shares.filter(team__in={*teams, *joined})),
    ]


def _shared(shares: QuerySet[Share]) -> Q:
    """Match the connections of these shares.

    If there are few, their IDs are listed, so that PostgreSQL doesn't scan the whole table.
    """
    pks = list(shares.values_list("connection", flat=True)[: MOST_SHARES + 1])
    return Q(pk__in=pks if len(pks) <= MOST_SHARES else shares.values("connection"))


def _holder(share: Share) -> Holder:
    if share.team is not None:
        return Holder(share.team.name, True, share.team.pk)
    return Holder(str(share.person), False, share.person_id or 0)
