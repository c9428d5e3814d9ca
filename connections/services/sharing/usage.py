"""The users of a connection: people and teams with shares, and API keys that recently requested tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Exists, Max, OuterRef, Sum

from connections.models import ApiKey, Connection, Share, TokenFetch, User

RECENT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class KeyUse:
    connection_id: int
    key_id: int | None
    key_name: str
    owner_id: int | None
    owner_name: str
    count: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """The users who are affected if a connection changes owner. ``shares`` are names of people and teams."""

    shares: tuple[str, ...] = ()
    keys: tuple[KeyUse, ...] = ()

    def keys_of(self, owner_id: int) -> list[KeyUse]:
        """Return the owner's keys, which stop working if the connection gets another owner."""
        return [key for key in self.keys if key.owner_id == owner_id]

    def keys_of_others(self, owner_id: int) -> list[KeyUse]:
        """Return other people's keys, which keep working through the shares."""
        return [key for key in self.keys if key.owner_id != owner_id]


@dataclass(frozen=True, slots=True)
class WorkingKey:
    key: ApiKey
    fetched: tuple[str, ...]


def usage_of(pks: Collection[int], *, now: datetime) -> dict[int, Usage]:
    """Return the usage of each of these connections. Takes two queries."""
    shares: dict[int, list[str]] = {pk: [] for pk in pks}
    active = Share.objects.active(now).filter(connection__in=pks).select_related("person", "team")
    for share in active.order_by("created_at", "pk"):
        shares[share.connection_id].append(f"team {share.team}" if share.team_id else str(share.person))
    keys: dict[int, list[KeyUse]] = {pk: [] for pk in pks}
    fetches = TokenFetch.objects.filter(connection__in=pks, minute__gte=now - RECENT).order_by()
    grouped = fetches.values_list("connection_id", "key_id", "key_name", "key__owner_id", "owner_name")
    for row in grouped.annotate(times=Sum("count"), last=Max("minute")).order_by("-last", "key_name"):
        keys[row[0]].append(KeyUse(*row))
    return {pk: Usage(tuple(shares[pk]), tuple(keys[pk])) for pk in pks}


def recently_used(pks: Collection[int], *, now: datetime) -> frozenset[int]:
    """Return which of these connections had a token request in the last 30 days. Takes one query."""
    fetches = TokenFetch.objects.filter(connection=OuterRef("pk"), minute__gte=now - RECENT)
    used = Connection.objects.filter(Exists(fetches), pk__in=pks).order_by()
    return frozenset(used.values_list("pk", flat=True))


def working_keys(owner: User, *, now: datetime) -> list[WorkingKey]:
    """Return up to 100 valid keys of a person, by name. Keys act as their owner, so they cannot be transferred."""
    keys = []
    for key in ApiKey.objects.filter(owner=owner, revoked_at=None).order_by("name", "pk")[:100]:
        if key.is_valid(now):
            fetches = key.fetches.filter(minute__gte=now - RECENT).order_by()
            names = sorted(set(fetches.values_list("connection_name", flat=True)))
            keys.append(WorkingKey(key, tuple(names)))
    return keys
