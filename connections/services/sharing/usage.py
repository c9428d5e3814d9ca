"""Who uses a connection: the people and teams it is shared with, and the API keys that fetched its tokens lately."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, Sum

from connections.models import ApiKey, Share, TokenFetch, User

RECENT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One API key that fetched tokens of a connection lately. ``owner_id`` is None once the key is deleted."""

    connection_id: int
    key_id: int | None
    key_name: str
    owner_id: int | None
    owner_name: str
    count: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """Who feels it when a connection changes hands. ``shares`` are names, teams among them."""

    shares: tuple[str, ...] = ()
    keys: tuple[KeyUse, ...] = ()

    def keys_of(self, owner_id: int) -> list[KeyUse]:
        """The keys that act as this person: they stop when the connection is no longer theirs."""
        return [key for key in self.keys if key.owner_id == owner_id]

    def keys_of_others(self, owner_id: int) -> list[KeyUse]:
        """The keys of everybody else: they go on, through the shares."""
        return [key for key in self.keys if key.owner_id != owner_id]


def usage_of(pks: Collection[int], *, now: datetime) -> dict[int, Usage]:
    """The usage of each of these connections; two queries, however many they are."""
    shares: dict[int, list[str]] = {pk: [] for pk in pks}
    active = Share.objects.active(now).filter(connection__in=pks).select_related("person", "team")
    for share in active.order_by("created_at", "pk"):
        shares[share.connection_id].append(f"team {share.team}" if share.team_id else str(share.person))
    keys: dict[int, list[KeyUse]] = {pk: [] for pk in pks}
    fetches = TokenFetch.objects.filter(connection__in=pks, minute__gte=now - RECENT).order_by()
    rows = fetches.values("connection_id", "key_id", "key_name", "key__owner_id", "owner_name")
    for row in rows.annotate(times=Sum("count"), last=Max("minute")).order_by("-last", "key_name"):
        use = KeyUse(
            row["connection_id"],
            row["key_id"],
            row["key_name"],
            row["key__owner_id"],
            row["owner_name"],
            row["times"],
            row["last"],
        )
        keys[use.connection_id].append(use)
    return {pk: Usage(tuple(shares[pk]), tuple(keys[pk])) for pk in pks}


@dataclass(frozen=True, slots=True)
class WorkingKey:
    """A key that works, and the names of the connections whose tokens it fetched lately."""

    key: ApiKey
    fetched: tuple[str, ...]


def working_keys(owner: User, *, now: datetime) -> list[WorkingKey]:
    """Keys of somebody that work, at most 100, by name: they act as their owner and cannot be handed over."""
    found = []
    for key in ApiKey.objects.filter(owner=owner, revoked_at=None).order_by("name", "pk")[:100]:
        if key.is_valid(now):
            fetched = key.fetches.filter(minute__gte=now - RECENT).order_by()
            names = sorted(set(fetched.values_list("connection_name", flat=True)))
            found.append(WorkingKey(key, tuple(names)))
    return found
