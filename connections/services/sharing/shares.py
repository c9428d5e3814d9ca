"""Share connections with people and teams. Removing access takes effect at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import AuditEvent, Connection, Share, Team, User
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.services.notifications.owner_messages import tell_owner
from connections.services.policy import approvals, evaluate, four_eyes, self_access
from connections.services.sharing import history

MAX_DURATION = timedelta(days=3 * 366)
EXPIRY_BATCH = 500  # expired shares ended per run
_FIELD_OF_RULE = {"longest_share_days": "until", "share_with_people": "whom"}


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
    """Share the connection with a person or team, or change the level and date of an existing share.

    The owner is emailed if someone else does it. Raises NotAllowed, InvalidInput, PolicyForbids, ApprovalNeeded,
    AlreadyExists, or SecondPersonNeeded if the actor would get access by it.
    """
    try:
        with transaction.atomic():
            locked = Connection.objects.locked().get(pk=connection.pk)
            roles.require(permissions.can_share(actor, locked), action="Ask its owner or an IT admin to share it.")
            _validate(locked, person, team, until, now)
            decision = evaluate.evaluate_share(
                evaluate.load_policies().of(locked.app_registration),
                authentication_type=locked.authentication_type,
                with_team=team is not None,
                until=until,
                now=now,
            )
            rules = {reason.rule for reason in decision.reasons}
            field = _FIELD_OF_RULE.get(rules.pop(), "") if len(rules) == 1 else ""
            evaluate.refuse_forbidden(decision, field=field)
            approvals.require(locked)
            change = self_access.of_share(locked, person=person, team=team, level=level, until=until, actor=actor)
            four_eyes.require(change, actor=actor, now=now)
            return _create_or_change(locked, person, team, level, until, actor, now)
    except Connection.DoesNotExist as gone:
        raise InvalidInput("This connection was removed.") from gone
    except IntegrityError as twice:
        raise AlreadyExists("Someone else just shared it with them.", action="Refresh the page.") from twice


def share_with_all(
    connection: Connection,
    recipients: Iterable[User | Team],
    *,
    level: str,
    until: datetime | None,
    actor: User,
    now: datetime,
) -> list[Share]:
    """Share with all of these people and teams, or with none of them. Raises the same errors as ``share``."""
    with transaction.atomic():
        return [
            share(connection, level=level, until=until, actor=actor, now=now, **as_recipient(recipient))
            for recipient in recipients
        ]


def as_recipient(recipient: User | Team) -> dict[str, Any]:
    """Return the keyword arguments with which ``share`` shares with this person or team."""
    return {"team": recipient} if isinstance(recipient, Team) else {"person": recipient}


def end_share(share: Share, *, actor: User, now: datetime) -> None:
    """End a share at once. Does nothing if it has already ended. Raises NotAllowed."""
    with transaction.atomic():
        try:
            connection = Connection.objects.locked().get(pk=share.connection_id)
        except Connection.DoesNotExist:
            return  # the shares were deleted with the connection
        is_own = share.person_id == actor.pk
        roles.require(is_own or permissions.can_share(actor, connection), action="Ask its owner or an IT admin.")
        end_for_reason(share, "", actor=actor, now=now)


def shorten_for_reason(share: Share, why: str, *, until: datetime, actor: User, now: datetime) -> bool:
    """Make a share end at ``until`` if it would end later or never. Returns whether that changed anything."""
    current = _lock_share(share)
    if current is None or (current.until is not None and current.until <= until):
        return False
    before, current.until = current.until, until
    Share.objects.filter(pk=current.pk).update(until=until)
    history.share_began(current, actor=actor, now=now)
    levels: list[str | None] = [current.level, current.level]
    event = _record(AuditAction.CONNECTION_SHARE_CHANGED, current, actor, now, levels, [before, until], why=why)
    _tell_owner(current, event, "shortened the access to {} of {}", actor=actor, now=now)
    return True


def end_all_of(*, actor: User | None, now: datetime, **filters: Any) -> None:
    """End all shares that match ``filters`` (``team=``, ``person=``, ``connection=``), in the caller's transaction."""
    active = Share.objects.filter(ended_at=None, **filters).select_related("connection", "person", "team")
    for share in without_tokens(active):
        end_for_reason(share, "", actor=actor, now=now)


def end_expired(*, now: datetime) -> int:
    """Mark expired shares as ended, and record that. Returns how many. Safe to run in several workers."""
    expired = Share.objects.filter(ended_at=None, until__lte=now).order_by("until")
    ended = 0
    for share in without_tokens(expired.select_related("connection", "person", "team"))[:EXPIRY_BATCH]:
        with transaction.atomic():
            ended += _expire(share, now)
    return ended


@dataclass(frozen=True, slots=True)
class Limits:
    """What the policy allows in a form for sharing a connection. ``forbidden`` is the reason if nothing is allowed."""

    with_people: bool
    longest_days: int | None
    forbidden: str


def limits(connection: Connection, *, now: datetime) -> Limits:
    rules = evaluate.load_policies().of(connection.app_registration)
    with_team, with_person = (
        evaluate.evaluate_share(
            rules, authentication_type=connection.authentication_type, with_team=is_team, until=now, now=now
        )
        for is_team in (True, False)
    )
    return Limits(not with_person.reasons, evaluate.longest_share(rules), " ".join(with_team.sentences))


def _validate(
    connection: Connection, person: User | None, team: Team | None, until: datetime | None, now: datetime
) -> None:
    if (person is None) == (team is None):
        raise InvalidInput("Choose a person or a team.", field="whom")
    if person is not None and person.pk == connection.owner_id:
        raise InvalidInput(f"{person} already owns this connection.", action="Choose someone else.", field="whom")
    if person is not None and person.is_suspended:
        raise InvalidInput(f"{person} can't sign in to this portal any longer.", field="whom")
    if until is not None and not now < until <= now + MAX_DURATION:
        raise InvalidInput("Choose an expiration date within the next three years.", field="until")


def _lock_share(share: Share) -> Share | None:
    return Share.objects.select_for_update().filter(pk=share.pk, ended_at=None).first()


def _create_or_change(
    connection: Connection,
    person: User | None,
    team: Team | None,
    level: str,
    until: datetime | None,
    actor: User,
    now: datetime,
) -> Share:
    active = Share.objects.filter(connection=connection, person=person, team=team, ended_at=None)
    for expired in active.filter(until__lte=now):
        # Lock the recipient before the share, as when a person or team is removed, to avoid deadlocks.
        if person is not None:
            User.objects.select_for_update(no_key=True).filter(pk=person.pk).first()
        if team is not None:
            Team.objects.select_for_update(no_key=True).filter(pk=team.pk).first()
        _expire(expired, now)
    share = active.select_for_update().first()
    if share is None:
        share = Share.objects.create(
            connection=connection, person=person, team=team, level=level, until=until, created_by=actor, created_at=now
        )
        history.share_began(share, actor=actor, now=now)
        event = _record(AuditAction.CONNECTION_SHARED, share, actor, now, [None, level], [None, until])
        _tell_owner(share, event, "shared {} with {}", actor=actor, now=now)
        return share
    before = (share.level, share.until)
    if before != (level, until):
        Share.objects.filter(pk=share.pk).update(level=level, until=until)
        share.level, share.until = level, until
        history.share_began(share, actor=actor, now=now)
        event = _record(AuditAction.CONNECTION_SHARE_CHANGED, share, actor, now, [before[0], level], [before[1], until])
        _tell_owner(share, event, "changed the access to {} of {}", actor=actor, now=now)
    return share


def start_emergency(connection: Connection, reason: str, *, until: datetime, actor: User, now: datetime) -> Share:
    """Create the actor's share for ``emergency.take``, in its transaction. First ends an expired share of the actor."""
    for expired in Share.objects.filter(connection=connection, person=actor, ended_at=None, until__lte=now):
        _expire(expired, now)
    share = Share.objects.create(
        connection=connection,
        person=actor,
        level=Share.Level.USE,
        until=until,
        emergency_reason=reason,
        created_by=actor,
        created_at=now,
    )
    history.share_began(share, actor=actor, now=now)
    _record(AuditAction.CONNECTION_SHARED, share, actor, now, [None, share.level], [None, until], why=reason)
    return share


def _tell_owner(share: Share, event: AuditEvent, what: str, *, actor: User | None, now: datetime) -> None:
    recipient = f"the team {share.team}" if share.team else str(share.person)
    facts = (
        ("Access", share.level),
        ("Until", f"{share.until:%Y-%m-%d %H:%M} UTC" if share.until else "No expiration"),
    )
    what = what.format(share.connection, recipient)
    tell_owner(share.connection, event, what, actor=actor, now=now, facts=facts)


def end_for_reason(share: Share, why: str, *, actor: User | None, now: datetime) -> bool:
    """End the share in the caller's transaction, and return whether it was still active. Records the reason, if any.

    The owner is emailed, unless the recipient ends the share or has become the owner.
    """
    current = _lock_share(share)  # the share's date may have been changed in the meantime
    if current is None:
        return False
    if current.until is not None and current.until <= now:
        _expire(current, now)
        return False
    Share.objects.filter(pk=current.pk).update(ended_at=now)
    history.share_ended(current, actor=actor, now=now)
    levels, dates = [current.level, None], [current.until, None]
    event = _record(AuditAction.CONNECTION_UNSHARED, current, actor, now, levels, dates, why=why)
    is_own = actor is not None and current.person_id == actor.pk
    if not is_own and (current.person_id is None or current.person_id != current.connection.owner_id):
        _tell_owner(current, event, "ended the access to {} of {}", actor=actor, now=now)
    return True


def _expire(share: Share, now: datetime) -> int:
    """End a share on its date, unless it was ended or extended in the meantime.

    Returns 1 if it was ended, otherwise 0.
    """
    unchanged = Share.objects.filter(pk=share.pk, ended_at=None, until=share.until, until__lte=now)
    ended = unchanged.update(ended_at=share.until)
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
) -> AuditEvent:
    """Record all facts of the share, because history_check compares them with the access history.

    They are also needed after the share has been deleted.
    """
    return audit.record(
        action,
        share.connection,
        actor=actor,
        at=now,
        changes={
            "with": f"{share.person} <{share.person.username}>" if share.person else f"team {share.team}",
            "level": levels,
            "until": [str(date) if date else None for date in dates],
            "with_type": "Team" if share.team_id else "User",
            "with_id": share.team_id or share.person_id,
            "share_id": share.pk,
            **({"because": why} if why else {}),
        },
    )
