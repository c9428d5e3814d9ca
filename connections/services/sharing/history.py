"""The only writer of AccessPeriod, the history of who could use which connections.

Call these functions in the transaction of the change, with the time of its audit event, so that history_check can
compare the history with the audit trail.
"""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from connections import audit
from connections.models import AccessPeriod, Connection, Share, Team, User

Kind = AccessPeriod.Kind


def ownership_began(connection: Connection, *, actor: User | None, now: datetime) -> None:
    parts = {**_connection(connection), **_person(connection.owner)}
    _begin(Kind.OWNER, {"connection_id": connection.pk}, parts, actor=actor, now=now)


def share_began(share: Share, *, actor: User | None, now: datetime) -> None:
    """Record a new or changed share.

    Its previous period, if any, ends, and a new one begins with its current values.
    """
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
    """End the period of a share: now, or on the share's expiration date if that is in the past."""
    _end(Q(kind__in=(Kind.PERSON, Kind.TEAM), share_id=share.pk), actor=actor, now=now)


def member_joined(team: Team, user: User, *, actor: User | None, now: datetime) -> None:
    key = {"team_id": team.pk, "person_id": user.pk}
    _begin(Kind.MEMBER, key, {**_team(team), **_person(user)}, actor=actor, now=now)


def member_left(team: Team, user: User, *, actor: User | None, now: datetime) -> None:
    _end(Q(kind=Kind.MEMBER, team_id=team.pk, person_id=user.pk), actor=actor, now=now)


def account_changed(user: User, *, actor: User | None, now: datetime) -> None:
    """Record whether the account is suspended, because it is disabled or its person has left. Safe to repeat."""
    disabled = Q(kind=Kind.DISABLED, person_id=user.pk)
    if not user.is_suspended:
        _end(disabled, actor=actor, now=now)
    elif not AccessPeriod.objects.filter(disabled, ended_at=None).exists():
        _begin(Kind.DISABLED, {"person_id": user.pk}, _person(user), actor=actor, now=now)


def connection_removed(connection: Connection, *, actor: User | None, now: datetime) -> None:
    _end(Q(connection_id=connection.pk), actor=actor, now=now, **_connection(connection))


def team_removed(team: Team, *, actor: User | None, now: datetime) -> None:
    _end(Q(team_id=team.pk), actor=actor, now=now, **_team(team))


def person_removed(user: User, *, actor: User | None, now: datetime) -> None:
    """End all of a person's periods, and begin one that says that the account no longer exists."""
    _end(Q(person_id=user.pk), actor=actor, now=now, **_person(user))
    _begin(Kind.DISABLED, {"person_id": user.pk}, _person(user), actor=actor, now=now)


def prune(until: datetime) -> None:
    """Delete periods that ended by ``until``, and those that say that an account was removed by then."""
    is_deleted = ~Exists(User.objects.filter(pk=OuterRef("person_id")))
    AccessPeriod.objects.filter(ended_at__lte=until).delete()
    AccessPeriod.objects.filter(is_deleted, kind=Kind.DISABLED, started_at__lte=until).delete()


def _begin(kind: Kind, key: dict[str, Any], parts: dict[str, Any], *, actor: User | None, now: datetime) -> None:
    with transaction.atomic():
        _end(Q(kind=kind, **key), actor=actor, now=now)
        by = {"started_by_id": actor.pk if actor else None, "started_by_name": audit.recorded_name(actor)}
        AccessPeriod.objects.create(kind=kind, started_at=now, **{**key, **parts, **by})


def _end(condition: Q, *, actor: User | None, now: datetime, **names: Any) -> None:
    """End the open periods that match.

    Those with a date in the past end on that date, and the portal is named instead of ``actor``.
    """
    with transaction.atomic():
        periods = AccessPeriod.objects.filter(condition, ended_at=None)
        periods.filter(until__lte=now).update(ended_at=F("until"), ended_by_name=audit.recorded_name(None), **names)
        by = {"ended_by_id": actor.pk if actor else None, "ended_by_name": audit.recorded_name(actor)}
        periods.update(ended_at=now, **by, **names)


def _connection(connection: Connection) -> dict[str, Any]:
    return {"connection_id": connection.pk, "connection_name": connection.name}


def _person(user: User) -> dict[str, Any]:
    return {"person_id": user.pk, "person_name": audit.recorded_name(user)}


def _team(team: Team) -> dict[str, Any]:
    return {"team_id": team.pk, "team_name": team.name}
