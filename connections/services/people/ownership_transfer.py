"""Transfer the ownership of a connection, and complete the transfer when the new owner signs in.

The new owner takes over at once. But the Microsoft account behind the connection changes only when the new owner signs
in, possibly with another account in the same directory. Until then, an incident asks them to sign in.
"""

from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.microsoft import account_status
from connections.models import Connection, HandOver, ResourceToken, User
from connections.models.audit import AuditAction
from connections.models.connections import SECRETS, status_columns, without_tokens
from connections.services.incidents import incidents
from connections.services.notifications.owner_messages import tell_owner
from connections.services.people import offboarding
from connections.services.policy import four_eyes, next_steps, self_access
from connections.services.sharing import history, references, shares

CODE = next_steps.AWAITS_NEW_OWNER

Status = Connection.Status


def transfer(
    connection: Connection, new_owner: User, *, keep_grant: bool, actor: User, now: datetime, new_name: str = ""
) -> HandOver:
    """Make ``new_owner`` the owner at once, and ask them to sign in if the connection is delegated.

    With ``keep_grant``, the old account's tokens stay in use until then. Otherwise, they are deleted now. If the
    transfer was already made, it is returned. The old owner is emailed if someone else transfers the connection.

    Raises NotAllowed, InvalidInput (field ``new_owner``), AlreadyExists (field ``new_name``), or SecondPersonNeeded if
    the actor would get the connection's tokens.
    """
    try:
        with transaction.atomic():
            current = Connection.objects.locked().get(pk=connection.pk)
            roles.require(permissions.can_hand_over(actor, current), action="Ask its owner or an IT admin.")
            if current.owner_id == new_owner.pk:
                earlier = current.hand_overs.filter(to_owner=new_owner).first()
                if earlier is not None:
                    return earlier
            if current.owner_id != connection.owner_id:
                raise owner_changed_error(current)
            _check(current, new_owner, new_name, actor)
            keeps_tokens = not current.is_delegated or (keep_grant and can_keep_tokens(current))
            change = self_access.of_transfer(current, new_owner, keeps_tokens=keeps_tokens, actor=actor)
            four_eyes.require(change, actor=actor, now=now)
            return _change_owner(current, new_owner, new_name, keep_grant=keep_grant, actor=actor, now=now)
    except Connection.DoesNotExist as error:
        raise InvalidInput("This connection was removed.") from error
    except IntegrityError as error:
        raise _name_taken(new_owner, new_name or connection.name) from error


def owner_changed_error(connection: Connection) -> InvalidInput:
    return InvalidInput(
        f"{connection} was transferred to {connection.owner} in the meantime.",
        action="Refresh the page before you transfer it again.",
    )


def pending_transfer(connection: Connection) -> HandOver | None:
    """Return the transfer whose new owner has not signed in yet, or None."""
    return connection.hand_overs.filter(completed_at=None, superseded_at=None).first()


def tasks_of(user: User) -> list[HandOver]:
    """Return up to 50 transfers for which this person still needs to sign in, oldest first."""
    pending = HandOver.objects.filter(to_owner=user, completed_at=None, superseded_at=None)
    return list(without_tokens(pending.select_related("connection__app_registration")).order_by("at", "pk")[:50])


def may_change_account(connection: Connection, *, actor: User) -> bool:
    """Whether this person is the new owner, who may sign in once with an account other than the connection's."""
    pending = pending_transfer(connection)
    return pending is not None and pending.to_owner_id == actor.pk


def signed_in(connection: Connection, *, actor: User, account: str, now: datetime) -> None:
    """Complete the transfer if its new owner has signed in. Call it in the transaction that stores the grant."""
    pending = pending_transfer(connection)
    if pending is None or pending.to_owner_id != actor.pk:
        return
    HandOver.objects.filter(pk=pending.pk).update(completed_at=now)
    incidents.ownership_transfer_completed(connection, now=now)
    account_change = [pending.account_before or None, account]
    changes = {"from": pending.from_name, "to": pending.to_name, "account": account_change}
    audit.record(AuditAction.CONNECTION_HAND_OVER_COMPLETED, connection, actor=actor, at=now, changes=changes)


def remind_new_owner(connection: Connection, *, now: datetime) -> None:
    """Ask the new owner of an enabled connection to sign in, if they have not yet."""
    pending = pending_transfer(connection)
    if pending is not None:
        _ask_new_owner(connection, pending, now=now)


def _ask_new_owner(connection: Connection, transfer: HandOver, *, now: datetime) -> None:
    """Open the incident for the new owner. If the policy does not let them sign in, it says what must happen first."""
    advice = next_steps.sign_in_advice(connection)
    first, who = (advice.action, advice.who) if advice is not None else ("", Connection.Who.OWNER)
    incidents.ownership_transferred(connection, transfer, first=first, who=who, now=now)


def _check(connection: Connection, new_owner: User, new_name: str, actor: User) -> None:
    if connection.owner_id == new_owner.pk:
        raise InvalidInput(f"{new_owner} already owns this connection.", field="new_owner")
    # Lock the new owner, so that nobody can disable them in the meantime.
    User.objects.select_for_update(no_key=True).filter(pk=new_owner.pk).first()
    if not querysets.possible_owners().filter(pk=new_owner.pk).exists():
        raise InvalidInput(
            f"{new_owner} can't own connections.",
            action="Choose an active member or IT admin.",
            field="new_owner",
        )
    if not connection.is_delegated and not any(map(permissions.can_connect_app_only, (actor, new_owner))):
        raise InvalidInput(
            f"App-only connections cover the whole tenant, so you can't transfer this one to {new_owner}.",
            action="Ask an IT admin to transfer it, or choose an IT admin as the owner.",
            field="new_owner",
        )
    app = connection.app_registration
    if connection.is_delegated and not permissions.can_connect_through(new_owner, app):
        raise InvalidInput(
            f"Only the person who added {app} can sign in with it.",
            action="Ask an IT admin to open it to everyone.",
            field="new_owner",
        )
    name = new_name or connection.name
    if Connection.objects.filter(owner=new_owner, name=name).exists():
        raise _name_taken(new_owner, name)
    if new_name and new_name != connection.name:
        references.require_free_name(new_name, actor=actor, field="new_name")


def _name_taken(new_owner: User, name: str) -> AlreadyExists:
    return AlreadyExists(
        f"{new_owner} already has a connection named “{name}”.",
        action="Enter another name for the transfer.",
        field="new_name",
    )


def _change_owner(
    connection: Connection, new_owner: User, new_name: str, *, keep_grant: bool, actor: User, now: datetime
) -> HandOver:
    old_owner = connection.owner
    is_delegated = connection.is_delegated
    keeps_tokens = keep_grant and can_keep_tokens(connection)
    is_cut = is_delegated and not keeps_tokens
    hand_over = HandOver(
        connection=connection,
        from_owner=old_owner,
        from_name=audit.recorded_name(old_owner),
        to_owner=new_owner,
        to_name=audit.recorded_name(new_owner),
        by=actor,
        by_name=audit.recorded_name(actor),
        at=now,
        keeps_grant=not is_cut,
        account_before=connection.account_username,
        completed_at=None if is_delegated else now,
    )
    renamed = {"name": new_name} if new_name else {}
    changes: dict[str, Any] = {
        "owner": [hand_over.from_name, hand_over.to_name],
        "owner_id": [old_owner.pk, new_owner.pk],
        **audit.changed_fields(connection, renamed),
    }
    if is_delegated:
        changes["grant"] = "kept until the new owner signs in" if keeps_tokens else "deleted"
    # Record this before the owner changes, so that it is the last event in the old owner's history.
    event = audit.record(AuditAction.CONNECTION_HANDED_OVER, connection, actor=actor, at=now, changes=changes)
    tell_owner(connection, event, f"transferred {connection} to {new_owner}", actor=actor, now=now)
    incidents.owner_changed(connection, is_cut=is_cut, now=now)
    connection.hand_overs.filter(completed_at=None, superseded_at=None).update(superseded_at=now)
    deleted = _deleted_tokens(connection, old_owner, now) if is_cut else {}
    if is_cut:
        ResourceToken.objects.filter(connection=connection).update(access_token=None, expires_at=None)
    Connection.objects.filter(pk=connection.pk).update(owner=new_owner, sign_in_started_at=None, **renamed, **deleted)
    hand_over.save(force_insert=True)
    # An owner needs no share.
    shares.end_all_of(connection=connection, person=new_owner, actor=actor, now=now)
    current = Connection.objects.with_related().get(pk=connection.pk)
    history.ownership_began(current, actor=actor, now=now)
    if is_delegated and current.status != Status.DISABLED:
        _ask_new_owner(current, hand_over, now=now)
    offboarding.update_incident(old_owner, now=now)
    return hand_over


def can_keep_tokens(connection: Connection) -> bool:
    """Whether the grant may still yield tokens. It can't if it needs a new sign-in or its account is gone."""
    if connection.status in (Status.PENDING, Status.RECONNECT_NEEDED) or connection.connected_at is None:
        return False
    return not (connection.status == Status.BLOCKED and account_status.is_account_gone(connection.status_code))


def _deleted_tokens(connection: Connection, old_owner: User, now: datetime) -> dict[str, Any]:
    """Return the columns of a connection that has no tokens until its new owner signs in."""
    empty = (*SECRETS, "expires_at", "refresh_after", "suspected_at", "trouble_at")
    values: dict[str, Any] = dict.fromkeys(empty) | dict.fromkeys(("suspected_code", "trouble_code"), "")
    values |= {"token_version": connection.token_version + 1, "trouble_count": 0}
    if connection.status in (Status.DISABLED, Status.PENDING):
        return values
    return values | awaiting_sign_in(from_name=str(old_owner), now=now)


def awaiting_sign_in(*, from_name: str, now: datetime) -> dict[str, Any]:
    return status_columns(
        Status.RECONNECT_NEEDED,
        code=CODE,
        cause=f"Ownership was transferred from {from_name}, and the old account's tokens were deleted.",
        action="Sign in with your own account or the intended service account.",
        who=Connection.Who.OWNER,
        since=now,
    )
