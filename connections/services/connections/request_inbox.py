"""All requests that a person decides, as one list: consent requests, policy approvals and changes by a second person.

Each kind keeps its own table and workflow. A page merges the newest rows of each, so its cost doesn't depend on how many
there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from django.db.models import Exists, OuterRef, Q, QuerySet

from connections.access import permissions, querysets, roles
from connections.access.search import contains
from connections.models import Approval, ChangeRequest, ConsentRequest, HandOver, User
from connections.services.consent import requests as consent_requests

Request: TypeAlias = Approval | ChangeRequest | ConsentRequest

CONSENT, APPROVAL, CHANGE = "consent", "approval", "change"
TO_DECIDE, MINE, OPEN, DECIDED = "to_decide", "mine", "open", "decided"
MOST_COUNTED = 20


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind's table calls what all have in common."""

    label: str
    url_name: str
    at: str  # when it was requested
    by: str  # who requested it
    is_open: Q
    search: tuple[str, ...]


_WAITING = Q(state="waiting")
# In the order in which requests of the same moment are listed.
KINDS: dict[str, _Kind] = {
    CONSENT: _Kind(
        "Consent request",
        "consent_request",
        "asked_at",
        "requester",
        Q(closed_at=None),
        ("connection_name", "requester_name", "app_registration__name", "permissions"),
    ),
    APPROVAL: _Kind(
        "Approval",
        "approval",
        "requested_at",
        "requested_by",
        _WAITING,
        ("connection_name", "requested_by_name", "app_name"),
    ),
    CHANGE: _Kind(
        "Change request",
        "change_request",
        "requested_at",
        "requested_by",
        _WAITING,
        ("title", "requested_by_name"),
    ),
}
_ORDER = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A request of any kind as a row of the list."""

    kind: str
    request: Request

    @property
    def label(self) -> str:
        return KINDS[self.kind].label

    @property
    def url_name(self) -> str:
        return KINDS[self.kind].url_name

    @property
    def at(self) -> datetime:
        moment: datetime = getattr(self.request, KINDS[self.kind].at)
        return moment

    @property
    def requested_by_name(self) -> str:
        request = self.request
        return request.requester_name if isinstance(request, ConsentRequest) else request.requested_by_name

    @property
    def title(self) -> str:
        return self.request.title if isinstance(self.request, ChangeRequest) else self.request.connection_name

    @property
    def detail(self) -> str:
        """What is requested, in one line."""
        request = self.request
        if isinstance(request, ConsentRequest):
            return ", ".join(request.permission_names)
        if isinstance(request, Approval):
            return " ".join(request.reasons)
        return request.get_kind_display()

    @property
    def key(self) -> list[str]:
        """The sort key as text, for the link to the next page."""
        return [self.at.astimezone(UTC).isoformat(), self.kind, str(self.request.pk)]

    @property
    def sort_key(self) -> tuple[datetime, int, int]:
        return self.at, -_ORDER.index(self.kind), self.request.pk


def read_key(values: list[Any] | None) -> tuple[datetime, str, int] | None:
    """Parse Entry.key; returns None for anything else."""
    match values:
        case [str(moment), str(kind), str(pk)] if kind in KINDS and pk.isascii() and pk.isdigit() and len(pk) < 19:
            try:
                at = datetime.fromisoformat(moment)
                return (at.astimezone(UTC), kind, int(pk)) if at.tzinfo is not None else None
            except (ValueError, OverflowError):
                return None
    return None


def visible(user: User) -> dict[str, QuerySet[Any]]:
    return {
        CONSENT: querysets.visible_consent_requests(user),
        APPROVAL: querysets.visible_approvals(user),
        CHANGE: querysets.visible_change_requests(user),
    }


def to_decide(user: User, now: datetime) -> dict[str, QuerySet[Any]]:
    """Return the open requests that this person can decide, by kind.

    For requests of service accounts, permissions.can_decide also looks at who has had the account's keys, so its answer
    on the request's page can still be no.
    """
    rows: dict[str, QuerySet[Any]] = {}
    if permissions.can_manage_registry(user):
        awaiting = consent_requests.awaiting_decision(now).values("pk")
        rows[CONSENT] = querysets.visible_consent_requests(user).filter(pk__in=awaiting)
    if permissions.can_decide_approvals(user):
        rows[APPROVAL] = _approvals_to_decide(user)
    if not user.is_service:
        rows[CHANGE] = _changes_to_decide(user)
    return rows


def _approvals_to_decide(user: User) -> QuerySet[Approval]:
    """The same as permissions.can_decide, for requests of people."""
    waiting = querysets.visible_approvals(user).filter(_WAITING)
    involved = Q(requested_by=user) | Q(requested_by__responsible=user)
    involved |= Q(connection__owner=user) | Q(connection__owner__responsible=user)
    earlier = Approval.objects.filter(connection=OuterRef("connection"), requested_by=user)
    owned = HandOver.objects.filter(
        connection=OuterRef("connection"), from_owner=user, at__gte=OuterRef("requested_at")
    )
    return waiting.exclude(involved).filter(~Exists(earlier), ~Exists(owned)).select_related("connection__owner")


def _changes_to_decide(user: User) -> QuerySet[ChangeRequest]:
    """The same as permissions.can_decide_change, for requests of people."""
    waiting = querysets.visible_change_requests(user).filter(_WAITING, requested_by__isnull=False)
    waiting = waiting.exclude(Q(requested_by=user) | Q(requested_by__responsible=user))
    if roles.person(user).is_admin:
        return waiting
    owner = Q(connection__owner=user) | Q(connection__owner__responsible=user)
    return waiting.filter(owner).exclude(kind=ChangeRequest.Kind.POLICY)


def count_to_decide(user: User, now: datetime) -> int:
    """Count what this person can decide, up to MOST_COUNTED + 1, in one query."""
    parts = [rows.order_by().values("pk") for rows in to_decide(user, now).values()]
    if not parts:
        return 0
    first, *others = parts
    rows = first.union(*others, all=True) if others else first
    return len(rows[: MOST_COUNTED + 1])


def oldest_to_decide(user: User, now: datetime, limit: int) -> list[Entry]:
    """Return what has waited longest for this person, at most ``limit`` of each kind."""
    entries: list[Entry] = []
    for kind, rows in to_decide(user, now).items():
        entries += (Entry(kind, row) for row in rows.order_by(KINDS[kind].at, "pk")[:limit])
    return sorted((entry for entry in entries if _can_decide(user, entry)), key=lambda entry: entry.at)


def _can_decide(user: User, entry: Entry) -> bool:
    """Ask again about requests that involve a service account, which to_decide() can't answer for certain."""
    request = entry.request
    if isinstance(request, ConsentRequest):
        return True
    involved = (request.requested_by, request.connection.owner if request.connection is not None else None)
    if not any(account is not None and account.is_service for account in involved):
        return True
    if isinstance(request, Approval):
        return permissions.can_decide(user, request)
    return permissions.can_decide_change(user, request)


def narrow(user: User, *, show: str, kind: str, query: str, now: datetime) -> dict[str, QuerySet[Any]]:
    """Return the visible requests that match the filters, by kind. An empty filter matches all."""
    rows = to_decide(user, now) if show == TO_DECIDE else visible(user)
    return {
        name: _narrowed(name, rows_of_kind, show, query, user)
        for name, rows_of_kind in rows.items()
        if kind in ("", name)
    }


def _narrowed(kind: str, rows: QuerySet[Any], show: str, query: str, user: User) -> QuerySet[Any]:
    columns = KINDS[kind]
    if show == MINE:
        rows = rows.filter(**{columns.by: user})
    elif show == OPEN:
        rows = rows.filter(columns.is_open)
    elif show == DECIDED:
        rows = rows.exclude(columns.is_open)
    return rows.filter(contains(columns.search, query)) if query else rows


def page(
    rows: Mapping[str, QuerySet[Any]], *, after: tuple[datetime, str, int] | None, backwards: bool, size: int
) -> list[Entry]:
    """Return ``size`` + 1 entries beyond ``after`` in reading direction, the newest first unless ``backwards``."""
    sign = "" if backwards else "-"
    entries: list[Entry] = []
    for kind, of_kind in rows.items():
        at = KINDS[kind].at
        if after is not None:
            of_kind = of_kind.filter(_beyond(kind, after, backwards=backwards))
        entries += (Entry(kind, row) for row in of_kind.order_by(f"{sign}{at}", f"{sign}pk")[: size + 1])
    return sorted(entries, key=lambda entry: entry.sort_key, reverse=not backwards)[: size + 1]


def _beyond(kind: str, after: tuple[datetime, str, int], *, backwards: bool) -> Q:
    """Match the rows of a kind beyond a place: newest first, then by kind, then the newest id."""
    moment, last_kind, pk = after
    at, way = KINDS[kind].at, "gt" if backwards else "lt"
    difference = _ORDER.index(kind) - _ORDER.index(last_kind)
    if difference and (difference < 0) == backwards:
        return Q(**{f"{at}__{way}e": moment})  # all of the same moment come later
    beyond = Q(**{f"{at}__{way}": moment})
    return beyond if difference else beyond | Q(**{at: moment, f"pk__{way}": pk})


def count(rows: Iterable[QuerySet[Any]], most: int) -> int:
    """Count the entries, up to ``most`` + 1."""
    total = 0
    for of_kind in rows:
        total += of_kind.order_by().values("pk")[: most + 1].count()
    return min(total, most + 1)
