"""The only writer of AccessPeriod: what a change means for who could use what.

Every service that changes an owner, a share, a membership or an account calls one of these in the transaction of the
change, next to its audit event and with the same moment, so that the two can be compared (access_replay).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from connections import audit
from connections.models import AccessPeriod, Connection, Share, Team, User

Kind = AccessPeriod.Kind


def ownership_began(connection: Connection, *, actor: User | None, now: datetime) -> None:
    """The connection belongs to its ``owner`` from now on; whoever had it before has it no longer."""
    parts = {**_connection(connection), **_person(connection.owner)}
    _begin(Kind.OWNER, {"connection_id": connection.pk}, parts, actor=actor, now=now)


def share_began(share: Share, *, actor: User | None, now: datetime) -> None:
    """The share counts as it stands from now on; what it was before has ended."""
    parts = {
        **_connection(share.connection),
        **(_person(share.person) if share.person is not None else {}),
        **(_team(share.team) if share.team is not None else {}),
        "level": share.level,
        "until": share.until,
    }
    kind = Kind.TEAM if share.team_id else Kind.PERSON
    _begin(kind, {"share_id": share.pk}, parts, actor=actor, now=now)


def share_ended(share: Share, *, actor: User | None, now: datetime) -> None:
    """The share has ended: now, or on its own date if that is over."""
    _end(Q(kind__in=(Kind.PERSON, Kind.TEAM), share_id=share.pk), actor=actor, now=now)


def member_joined(team: Team, user: User, *, actor: User | None, now: datetime) -> None:
    """The person is in the team from now on."""
    key = {"team_id": team.pk, "person_id": user.pk}
    _begin(Kind.MEMBER, key, {**_team(team), **_person(user)}, actor=actor, now=now)


def member_left(team: Team, user: User, *, actor: User | None, now: datetime) -> None:
    """The person is in the team no longer."""
    _end(Q(kind=Kind.MEMBER, team_id=team.pk, person_id=user.pk), actor=actor, now=now)


def account_changed(user: User, *, actor: User | None, now: datetime) -> None:
    """Take over whether the account may sign in (``is_active``). Doing it twice changes nothing."""
    standing = AccessPeriod.objects.filter(kind=Kind.DISABLED, person_id=user.pk, ended_at=None)
    if user.is_active:
        _end(Q(kind=Kind.DISABLED, person_id=user.pk), actor=actor, now=now)
    elif not standing.exists():
        _begin(Kind.DISABLED, {"person_id": user.pk}, _person(user), actor=actor, now=now)


# --- What is removed ------------------------------------------------------------------------------


def connection_removed(connection: Connection, *, actor: User | None, now: datetime) -> None:
    """Ownership and shares of a connection that is being removed end, under the name it has last."""
    _end(Q(connection_id=connection.pk), actor=actor, now=now, **_connection(connection))


def team_removed(team: Team, *, actor: User | None, now: datetime) -> None:
    """Memberships of a team that is being removed end, and what was shared with it."""
    _end(Q(team_id=team.pk), actor=actor, now=now, **_team(team))


def person_removed(user: User, *, actor: User | None, now: datetime) -> None:
    """Everything of a person who is being removed ends; that there is no account any more is kept for ever."""
    _end(Q(person_id=user.pk), actor=actor, now=now, **_person(user))
    _begin(Kind.DISABLED, {"person_id": user.pk}, _person(user), actor=actor, now=now)


def prune(until: datetime) -> None:
    """Remove what had ended by then, as the audit trail no longer reaches back so far either.

    That somebody was removed by then is forgotten as well: without it nothing of them is left.
    """
    gone = ~Exists(User.objects.filter(pk=OuterRef("person_id")))
    AccessPeriod.objects.filter(ended_at__lte=until).delete()
    AccessPeriod.objects.filter(gone, kind=Kind.DISABLED, started_at__lte=until).delete()


# --- Parts ----------------------------------------------------------------------------------------


def _begin(kind: Kind, key: dict[str, Any], parts: dict[str, Any], *, actor: User | None, now: datetime) -> None:
    """Open a period in place of the one that stands under the same key, if there is one."""
    with transaction.atomic():
        _end(Q(kind=kind, **key), actor=actor, now=now)
        by = {"started_by_id": actor.pk if actor else None, "started_by_name": audit.recorded_name(actor)}
        AccessPeriod.objects.create(kind=kind, started_at=now, **{**key, **parts, **by})


def _end(which: Q, *, actor: User | None, now: datetime, **names: Any) -> None:
    """Close the open ones. One whose date is over ended then, by itself: nobody took it away."""
    with transaction.atomic():
        standing = AccessPeriod.objects.filter(which, ended_at=None)
        standing.filter(until__lte=now).update(ended_at=F("until"), ended_by_name=audit.recorded_name(None), **names)
        by = {"ended_by_id": actor.pk if actor else None, "ended_by_name": audit.recorded_name(actor)}
        standing.update(ended_at=now, **by, **names)


def _connection(connection: Connection) -> dict[str, Any]:
    return {"connection_id": connection.pk, "connection_name": connection.name}


def _person(user: User) -> dict[str, Any]:
    return {"person_id": user.pk, "person_name": audit.recorded_name(user)}


def _team(team: Team) -> dict[str, Any]:
    return {"team_id": team.pk, "team_name": team.name}
