"""Changes that need a second person, because they would give the actor access to someone else's connection."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from connections.access import permissions, querysets
from connections.models import ApiKey, Connection, Share, Team, User
from connections.services.policy.four_eyes import Change, Kind

Level = Share.Level


def of_share(
    connection: Connection,
    *,
    person: User | None,
    team: Team | None,
    level: str,
    until: datetime | None,
    actor: User,
) -> Change | None:
    """Return the change if this share would give the actor more access than they have. Otherwise None.

    People who manage the connection through a share may pass on the access they have, but for no longer than they have
    it.
    """
    if permissions.owns(actor, connection) or not permissions.is_own_access(actor, user=person, team=team):
        return None
    held = querysets.shares_with(actor).filter(connection=connection, level=Level.MANAGE)
    current = Share.objects.active().filter(connection=connection, person=person, team=team)
    if _ends_within(until, held.values_list("until", flat=True)):
        return None
    equal_or_more = current.filter(level__in=[Level.MANAGE, level])
    if _ends_within(until, equal_or_more.values_list("until", flat=True)):
        return None
    recipient = f"the team {team}" if team is not None else str(person)
    end = f"until {until:%Y-%m-%d}" if until is not None else "without an end"
    return Change(
        Kind.SHARE,
        {
            "connection": connection.pk,
            "owner": connection.owner_id,
            "person": person.pk if person is not None else None,
            "team": team.pk if team is not None else None,
            "level": str(level),
            "until": until.isoformat() if until is not None else None,
        },
        f"Sharing {connection} with {recipient}",
        f"/connections/{connection.pk}/shares/add/",
        (f"Connection: {connection}, owned by {connection.owner}", f"Access: {level}, {end}"),
        connection,
    )


def _ends_within(until: datetime | None, ends: Iterable[datetime | None]) -> bool:
    return any(end is None or (until is not None and until <= end) for end in ends)


def of_transfer(connection: Connection, new_owner: User, *, keeps_tokens: bool, actor: User) -> Change | None:
    """Return the change if it would give the actor the tokens of someone else's connection. Otherwise None."""
    is_own = permissions.is_own_access(actor, user=new_owner)
    if permissions.owns(actor, connection) or not keeps_tokens or not is_own:
        return None
    return Change(
        Kind.TRANSFER,
        {"connection": connection.pk, "owner": connection.owner_id, "new_owner": new_owner.pk},
        f"Transferring {connection} to {new_owner}",
        f"/connections/{connection.pk}/hand-over/",
        (f"Connection: {connection}, owned by {connection.owner}, with its tokens",),
        connection,
    )


def of_member(team: Team, user: User, *, actor: User) -> Change | None:
    """Return the change if the team would give the actor access to someone else's connections. Otherwise None."""
    if not permissions.is_own_access(actor, user=user):
        return None
    title = f"Adding {user} to the team {team}"
    return _of_connections(
        Kind.TEAM_MEMBER,
        _shared_with_team(team),
        {"team": team.pk, "user": user.pk},
        title,
        f"/teams/{team.pk}/",
        actor,
    )


def of_group(team: Team, entra_group: str, *, actor: User) -> Change | None:
    """Return the change if the new Entra group would decide who can access someone else's connections.

    Otherwise None.
    """
    if entra_group == team.entra_group:
        return None
    title = f"Changing the Entra group of the team {team}"
    proposal = {"team": team.pk, "entra_group": entra_group}
    return _of_connections(Kind.TEAM_GROUP, _shared_with_team(team), proposal, title, f"/teams/{team.pk}/edit/", actor)


def of_key(account: User, *, key: ApiKey | None, chosen: Iterable[Connection] = (), actor: User) -> Change | None:
    """Return the change if the service account's new secret would give the actor access to other people's connections.

    Returns None otherwise. ``key`` is the key to rotate, or None for a new key, which may be limited to the ``chosen``
    connections.
    """
    if not account.is_service:
        return None
    # Include connections that a suspended account could use, because the account may be enabled later.
    account_shares = Share.objects.active().filter(
        Q(person=account) | Q(team__members=account), connection=OuterRef("pk")
    )
    reached = Connection.objects.select_related("owner").filter(Q(owner=account) | Exists(account_shares))
    only = [connection.pk for connection in chosen]
    if key is not None and key.only_chosen:
        only = list(key.connections.values_list("pk", flat=True))
    if only or (key is not None and key.only_chosen):
        reached = reached.filter(pk__in=only)
    title = f"Rotating the key {key} of {account}" if key is not None else f"Issuing a key of {account}"
    path = f"/api-keys/{key.pk}/rotate/" if key is not None else f"/service-accounts/{account.pk}/keys/add/"
    proposal: dict[str, Any] = {"account": account.pk, "key": key.pk if key is not None else None}
    return _of_connections(Kind.API_KEY, reached, proposal, title, path, actor)


def _shared_with_team(team: Team) -> QuerySet[Connection]:
    shares = Share.objects.active().filter(team=team, connection=OuterRef("pk"))
    return Connection.objects.select_related("owner").filter(Exists(shares))


def _of_connections(
    kind: Kind,
    reached: QuerySet[Connection],
    proposal: dict[str, Any],
    title: str,
    path: str,
    actor: User,
) -> Change | None:
    others = list(reached.exclude(owner=actor).order_by("name", "pk"))
    if not others:
        return None
    details = tuple(f"Access to {connection}, owned by {connection.owner}" for connection in others)
    reached_now = sorted([row.pk, row.owner_id] for row in others)
    one_owner = len({row.owner_id for row in others}) == 1
    return Change(kind, proposal | {"connections": reached_now}, title, path, details, others[0] if one_owner else None)
