"""Sharing a connection with people and teams; what is taken away counts from that moment on."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from connections import access, audit
from connections.errors import AlreadyExists, InvalidInput
from connections.models import Connection, Share, Team, User

LONGEST = timedelta(days=3 * 366)


def share(
    connection: Connection,
    *,
    person: User | None = None,
    team: Team | None = None,
    level: str,
    until: datetime | None,
    actor: User,
    now: datetime,
) -> Share:
    """Let a person or a team use or manage the connection, optionally until a moment.

    Sharing again with the same one changes level and date. Raises NotAllowed, InvalidInput, AlreadyExists.
    """
    access.require(access.can_share(actor, connection), action="Ask its owner or an IT admin to share it.")
    _check(connection, person, team, until, now)
    whom = {"person": person, "team": team}
    try:
        with transaction.atomic():
            _end_lapsed(connection, person, team, now)
            found = Share.objects.select_for_update().filter(connection=connection, ended_at=None, **whom).first()
            if found is None:
                made = Share.objects.create(
                    connection=connection, level=level, until=until, created_by=actor, created_at=now, **whom
                )
                _record("connection.shared", made, actor, [None, level], [None, until])
                return made
            before = (found.level, found.until)
            if before != (level, until):
                Share.objects.filter(pk=found.pk).update(level=level, until=until)
                found.level, found.until = level, until
                _record("connection.share_changed", found, actor, [before[0], level], [before[1], until])
            return found
    except IntegrityError as twice:
        raise AlreadyExists("Somebody has shared it with them at the same moment.", action="Look again.") from twice


def unshare(found: Share, *, actor: User, now: datetime) -> None:
    """End a share at once. Doing it twice is harmless. Raises NotAllowed."""
    own = found.person_id == actor.pk
    access.require(own or access.can_share(actor, found.connection), action="Ask its owner or an IT admin.")
    with transaction.atomic():
        if Share.objects.filter(pk=found.pk, ended_at=None).update(ended_at=now):
            _record("connection.unshared", found, actor, [found.level, None], [found.until, None])


def _check(
    connection: Connection, person: User | None, team: Team | None, until: datetime | None, now: datetime
) -> None:
    if (person is None) == (team is None):
        raise InvalidInput("Choose a person or a team.", field="whom")
    if person is not None and person.pk == connection.owner_id:
        raise InvalidInput(f"{person} owns this connection already.", action="Choose somebody else.", field="whom")
    if person is not None and not person.is_active:
        raise InvalidInput(f"{person} cannot sign in to the portal any more.", field="whom")
    if until is not None and not now < until <= now + LONGEST:
        raise InvalidInput("The end must be in the future, within three years.", field="until")


def _end_lapsed(connection: Connection, person: User | None, team: Team | None, now: datetime) -> None:
    """A share past its date stands in the way of a new one; it ended when its date was over."""
    for lapsed in Share.objects.filter(connection=connection, person=person, team=team, ended_at=None, until__lte=now):
        Share.objects.filter(pk=lapsed.pk).update(ended_at=lapsed.until)


def _record(action: str, found: Share, actor: User, levels: list[str | None], dates: list[datetime | None]) -> None:
    whom = found.person or found.team
    audit.record(
        action,
        found.connection,
        actor=actor,
        changes={
            "with": f"team {whom}" if found.team_id else f"{whom} <{found.person.username if found.person else ''}>",
            "with_id": found.team_id or found.person_id,
            "level": levels,
            "until": [str(date) if date else None for date in dates],
        },
    )
