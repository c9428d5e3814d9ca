"""Sharing a connection with people and teams; what is taken away counts from that moment on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import Connection, Share, Team, User
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision
from connections.services.sharing import history

LONGEST = timedelta(days=3 * 366)
MOST_AT_ONCE = 500  # lapsed shares one tick ends; the rest waits for the next


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

    Sharing again with the same one changes level and date. Raises NotAllowed, InvalidInput, PolicyForbids,
    AlreadyExists.
    """
    try:
        with transaction.atomic():
            current = _locked(connection)
            roles.require(permissions.can_share(actor, current), action="Ask its owner or an IT admin to share it.")
            _check(current, person, team, until, now)
            decision = evaluate_policy(current, with_team=team is not None, until=until, now=now)
            evaluate.refuse_forbidden(decision, field=_field(decision))
            approvals.require(current)
            return _share(current, person, team, level, until, actor, now)
    except Connection.DoesNotExist as gone:
        raise InvalidInput("This connection has been removed in the meantime.") from gone
    except IntegrityError as twice:
        raise AlreadyExists("Somebody has shared it with them at the same moment.", action="Look again.") from twice


def end_share(share: Share, *, actor: User, now: datetime) -> None:
    """End a share at once. Doing it twice is harmless. Raises NotAllowed."""
    with transaction.atomic():
        try:
            connection = _locked(share.connection)
        except Connection.DoesNotExist:
            return  # and the share with it
        own = share.person_id == actor.pk
        roles.require(own or permissions.can_share(actor, connection), action="Ask its owner or an IT admin.")
        _end(share, actor=actor, now=now)


def end_for_reason(share: Share, why: str, *, actor: User | None, now: datetime) -> bool:
    """End a share for a reason that goes on record, inside the caller's transaction. Returns whether it still counted.

    ``actor`` None is the portal, where something that people decided runs out.
    """
    return _end(share, actor=actor, now=now, why=why)


def shorten_for_reason(share: Share, why: str, *, until: datetime, actor: User, now: datetime) -> bool:
    """Let a share end at ``until`` instead of later, or never. Returns whether it still counted and lasted longer."""
    current = Share.objects.select_for_update().filter(pk=share.pk, ended_at=None).first()
    if current is None or (current.until is not None and current.until <= until):
        return False
    before, current.until = current.until, until
    Share.objects.filter(pk=current.pk).update(until=until)
    history.share_began(current, actor=actor, now=now)
    _record(AuditAction.CONNECTION_SHARE_CHANGED, current, actor, now, [current.level] * 2, [before, until], why=why)
    return True


def end_all_of(*, actor: User | None, now: datetime, **whose: Any) -> None:
    """End every share of these (``team=``, ``person=``, ``connection=``), inside the caller's transaction."""
    shares = Share.objects.filter(ended_at=None, **whose).select_related("connection", "person", "team")
    for without_token in without_tokens(shares):
        _end(without_token, actor=actor, now=now)


def end_expired(*, now: datetime) -> int:
    """End the shares whose date is over, so that their history says so. They have not counted since that date.

    Returns how many. Several of these may run at once: each share is ended by one of them.
    """
    lapsed = Share.objects.filter(ended_at=None, until__lte=now).order_by("until")
    ended = 0
    for without_token in without_tokens(lapsed.select_related("connection", "person", "team"))[:MOST_AT_ONCE]:
        with transaction.atomic():
            ended += _lapse(without_token, now)
    return ended


def evaluate_policy(connection: Connection, *, with_team: bool, until: datetime | None, now: datetime) -> Decision:
    """What the policy says to a share like this."""
    return evaluate.evaluate_share(
        evaluate.load_policies().of(connection.app_registration),
        authentication_type=connection.authentication_type,
        with_team=with_team,
        until=until,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What the policy allows of sharing a connection, for a form. ``forbidden``: why it cannot be shared at all."""

    with_people: bool
    longest_days: int | None
    forbidden: str


def limits(connection: Connection, *, now: datetime) -> Limits:
    """What may be chosen; share() decides. One or two queries."""
    rules = evaluate.load_policies().of(connection.app_registration)
    days = evaluate.longest_share(rules)
    asked = {"authentication_type": connection.authentication_type, "until": now, "now": now}
    at_all = evaluate.evaluate_share(rules, **asked, with_team=True)  # type: ignore[arg-type]
    people = evaluate.evaluate_share(rules, **asked, with_team=False)  # type: ignore[arg-type]
    return Limits(not people.reasons, days, " ".join(at_all.sentences))


def _field(decision: Decision) -> str:
    rules = {reason.rule for reason in decision.reasons}
    return "until" if rules == {"longest_share_days"} else "whom" if rules == {"share_with_people"} else ""


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


def _locked(connection: Connection) -> Connection:
    """The connection as it stands now, locked: it may just have been handed over. Raises Connection.DoesNotExist."""
    connections = Connection.objects.select_for_update(of=("self",), no_key=True)
    return connections.select_related("app_registration__tenant", "owner").get(pk=connection.pk)


def _lock_whom(person: User | None, team: Team | None) -> None:
    if person is not None:
        User.objects.select_for_update(no_key=True).filter(pk=person.pk).first()
    if team is not None:
        Team.objects.select_for_update(no_key=True).filter(pk=team.pk).first()


def _share(
    connection: Connection,
    person: User | None,
    team: Team | None,
    level: str,
    until: datetime | None,
    actor: User,
    now: datetime,
) -> Share:
    whom = {"person": person, "team": team}
    for lapsed in Share.objects.filter(connection=connection, ended_at=None, until__lte=now, **whom):
        # Before the share, as whoever removes them does: nobody waits in a circle.
        _lock_whom(person, team)
        _lapse(lapsed, now)
    share = Share.objects.select_for_update().filter(connection=connection, ended_at=None, **whom).first()
    if share is None:
        made = Share.objects.create(
            connection=connection, level=level, until=until, created_by=actor, created_at=now, **whom
        )
        history.share_began(made, actor=actor, now=now)
        _record(AuditAction.CONNECTION_SHARED, made, actor, now, [None, level], [None, until])
        return made
    before = (share.level, share.until)
    if before != (level, until):
        Share.objects.filter(pk=share.pk).update(level=level, until=until)
        share.level, share.until = level, until
        history.share_began(share, actor=actor, now=now)
        _record(AuditAction.CONNECTION_SHARE_CHANGED, share, actor, now, [before[0], level], [before[1], until])
    return share


def _end(share: Share, *, actor: User | None, now: datetime, why: str = "") -> bool:
    """End it as it stands under the lock: somebody may just have moved its date. Returns whether it counted."""
    current = Share.objects.select_for_update().filter(pk=share.pk, ended_at=None).first()
    if current is None:
        return False
    if current.until is not None and current.until <= now:
        _lapse(current, now)
        return False
    Share.objects.filter(pk=current.pk).update(ended_at=now)
    history.share_ended(current, actor=actor, now=now)
    _record(AuditAction.CONNECTION_UNSHARED, current, actor, now, [current.level, None], [current.until, None], why=why)
    return True


def _lapse(share: Share, now: datetime) -> int:
    """The share ended when its date was over; nobody took it away. Nothing, if it has been ended or prolonged."""
    this = Share.objects.filter(pk=share.pk, ended_at=None, until=share.until, until__lte=now)
    ended = this.update(ended_at=share.until)
    if ended:
        history.share_ended(share, actor=None, now=now)
        _record(AuditAction.CONNECTION_SHARE_EXPIRED, share, None, now, [share.level, None], [share.until, None])
    return ended


def _record(
    action: AuditAction,
    share: Share,
    actor: User | None,
    now: datetime,
    levels: list[str | None],
    dates: list[datetime | None],
    *,
    why: str = "",
) -> None:
    """The facts are complete: what they say can be compared with the access history, and outlives the share."""
    whom = share.person or share.team
    audit.record(
        action,
        share.connection,
        actor=actor,
        at=now,
        changes={
            "with": f"team {whom}" if share.team_id else f"{whom} <{share.person.username if share.person else ''}>",
            "level": levels,
            "until": [str(date) if date else None for date in dates],
            "with_type": "Team" if share.team_id else "User",
            "with_id": share.team_id or share.person_id,
            "share_id": share.pk,
            **({"because": why} if why else {}),
        },
    )
