"""Connection references: stable names for automations, and each person's default connections.

A reference gives nobody access, so pointing it at another connection doesn't change who can use which connections. But
it can lead automations to another mailbox. So it needs a right to both the reference and the connection, and the
reference's owner is emailed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Max, Sum

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, Conflict, InvalidInput
from connections.microsoft import capabilities
from connections.models import ApiKey, Connection, ConnectionReference, Team, TokenFetch, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.models.connections import without_tokens
from connections.models.references import DEFAULT_PREFIX
from connections.services.notifications import alerts
from connections.services.notifications.owner_messages import tell_owner

RECENT = timedelta(days=30)
MOST_KEYS = 50  # keys listed for a reference
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NO_RIGHT = "Only its owner, its team's members or an IT admin can change this reference."
NO_TARGET = "You can point a reference only at a connection that you can use or share."


@dataclass(frozen=True, slots=True)
class KeyUse:
    """An API key that recently requested tokens by a reference."""

    key_id: int | None
    key_name: str
    owner_name: str
    count: int
    last: datetime


def create(
    name: str,
    connection: Connection,
    *,
    team: Team | None = None,
    description: str = "",
    actor: User,
    now: datetime,
) -> ConnectionReference:
    """Create a reference that the actor owns. Only its former owner or an IT admin can create a removed one again.

    Raises NotAllowed, InvalidInput or AlreadyExists.
    """
    roles.require(permissions.can_create_reference(actor), cause="Auditors have read-only access.")
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "Use 1 to 63 lowercase letters, digits and hyphens, with at least one letter.",
            action="For example: invoices-inbox",
            field="name",
        )
    values = {"team": team, "description": description, "connection": connection, "pointed_at": now}
    try:
        with transaction.atomic():
            _require_target(connection, actor)
            former = ConnectionReference.objects.select_for_update().filter(name=name, connector="").first()
            if former is None:
                reference = ConnectionReference.objects.create(name=name, owner=actor, **values)
            elif former.removed_at is None or not permissions.can_own_reference(actor, former):
                raise _taken(name)
            else:
                reference = former
                _save(reference, **values, owner=actor, removed_at=None)
            event = audit.record(
                AuditAction.REFERENCE_CREATED, reference, actor=actor, at=now, changes=_facts(connection, team)
            )
            tell_owner(connection, event, f"created the reference {name} for {connection}", actor=actor, now=now)
    except IntegrityError as twice:
        raise _taken(name) from twice
    return reference


def point(
    reference: ConnectionReference,
    connection: Connection,
    *,
    actor: User,
    now: datetime,
    seen: int | None = None,
) -> None:
    """Point the reference at another connection, with effect on all later requests. The owners concerned are emailed.

    ``seen`` is the ID of the connection that the actor saw it pointing at, or 0 for none. Safe to repeat. Raises
    NotAllowed, InvalidInput, or Conflict if someone else has changed it in the meantime.
    """
    with transaction.atomic():
        _require_target(connection, actor)
        current = _lock(reference)
        roles.require(permissions.can_point_reference(actor, current), cause=_NO_RIGHT)
        if current.removed_at is not None:
            raise Conflict("This reference was removed.")
        if current.connection_id == connection.pk:
            return
        if seen is not None and seen != (current.connection_id or 0):
            raise Conflict("Someone else has just pointed this reference elsewhere.", action="Refresh the page.")
        before = current.connection
        _save(current, connection=connection, pointed_at=now)
        changes = {"connection": [_named(before), _named(connection)], "name": current.name}
        event = audit.record(AuditAction.REFERENCE_POINTED, current, actor=actor, at=now, changes=changes)
        _tell_owner_of(current, before, connection, actor=actor, about=event.pk, now=now)
        tell_owner(connection, event, f"pointed the reference {current.name} at {connection}", actor=actor, now=now)
        if before is not None and before.owner_id != connection.owner_id:
            what = f"pointed the reference {current.name} away from {before}"
            tell_owner(before, event, what, actor=actor, now=now)
    reference.connection, reference.pointed_at = connection, now


def require_free_name(name: str, *, actor: User, field: str = "name") -> None:
    """Raise InvalidInput or AlreadyExists if a connection must not have this name, because it belongs to a reference.

    Calls can name a connection or a reference. So if someone shared a connection with the name of a removed reference,
    the reference's automations would use that connection. Only the reference's owner may use its name. ``field`` is the
    form's field.
    """
    if name.startswith(DEFAULT_PREFIX):
        action = "Choose another name."
        raise InvalidInput(f"Names that start with “{DEFAULT_PREFIX}” are for defaults.", action=action, field=field)
    if ConnectionReference.objects.filter(name=name, connector="").exclude(owner=actor).exists():
        raise _taken(name, field)


def change(reference: ConnectionReference, *, team: Team | None, description: str, actor: User) -> None:
    """Change the team whose members may point the reference, and the description. Raises NotAllowed."""
    with transaction.atomic():
        current = _lock(reference)
        roles.require(
            permissions.can_own_reference(actor, current),
            cause="Only its owner or an IT admin can change this reference.",
        )
        changes = audit.changed_fields(current, {"team": team, "description": description})
        if not changes:
            return
        _save(current, team=team, description=description)
        changes = {name: [str(value or "") for value in values] for name, values in changes.items()}
        audit.record(AuditAction.REFERENCE_CHANGED, current, actor=actor, changes=changes)
    reference.team, reference.description = team, description


def remove(reference: ConnectionReference, *, actor: User, now: datetime) -> None:
    """Remove the reference. Requests by its name get a 404 at once, and the name stays reserved. Raises NotAllowed."""
    with transaction.atomic():
        current = _lock(reference)
        roles.require(
            permissions.can_own_reference(actor, current),
            cause="Only its owner or an IT admin can remove this reference.",
        )
        if current.removed_at is not None:
            return
        before = current.connection
        _save(current, connection=None, removed_at=now)
        changes = {"connection": [_named(before), ""]}
        event = audit.record(AuditAction.REFERENCE_REMOVED, current, actor=actor, at=now, changes=changes)
        _tell_owner_of(current, before, None, actor=actor, about=event.pk, now=now)


def set_default(connection: Connection, connector: str, *, actor: User, now: datetime) -> ConnectionReference:
    """Make the connection the actor's default for a connector. The actor's own calls find it as "default:<connector>".

    Raises NotAllowed, or InvalidInput if the connection has no permissions for the connector.
    """
    if connector not in dict(connectors_of(connection)):
        raise InvalidInput("This connection doesn't have permissions for this connector.", field="connector")
    with transaction.atomic():
        Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).first()
        roles.require(permissions.can_fetch_token(actor, connection), cause="This connection isn't shared with you.")
        values = {"connection": connection, "pointed_at": now, "removed_at": None}
        name = f"{DEFAULT_PREFIX}{connector}"
        reference, is_new = ConnectionReference.objects.select_for_update().get_or_create(
            owner=actor, name=name, connector=connector, defaults=values
        )
        if not is_new and reference.connection_id == connection.pk:
            return reference
        before = None if is_new else reference.connection
        _save(reference, **values)
        changes = {"connection": [_named(before), _named(connection)], "name": name}
        audit.record(AuditAction.REFERENCE_POINTED, reference, actor=actor, at=now, changes=changes)
    return reference


def connectors_of(connection: Connection) -> list[tuple[str, str]]:
    """Return key and label of the connectors to which the connection's capabilities belong."""
    known = filter(None, map(capabilities.CAPABILITIES.get, connection.capabilities))
    groups = dict.fromkeys(capability.group for capability in known)
    return [(re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-"), group) for group in groups]


def connection_removed(connection: Connection, *, actor: User, now: datetime) -> None:
    """Leave the references without a connection, and email their owners. Call it before the connection is deleted."""
    for reference in connection.references.select_related("owner"):
        ConnectionReference.objects.filter(pk=reference.pk).update(connection=None, pointed_at=now)
        changes = {"connection": [_named(connection), ""], "name": reference.name}
        event = audit.record(AuditAction.REFERENCE_POINTED, reference, actor=actor, at=now, changes=changes)
        _tell_owner_of(reference, connection, None, actor=actor, about=event.pk, now=now)


def owner_removed(user: User, *, actor: User, now: datetime) -> None:
    """Give the references of an account that is being removed to the actor, and delete its personal defaults."""
    for reference in ConnectionReference.objects.select_for_update().filter(owner=user):
        if reference.is_default:
            reference.delete()
            continue
        _save(reference, owner=actor)
        changes = {"owner": [audit.recorded_name(user), audit.recorded_name(actor)]}
        audit.record(AuditAction.REFERENCE_CHANGED, reference, actor=actor, at=now, changes=changes)


def keys_of(reference: ConnectionReference, *, now: datetime) -> list[KeyUse]:
    """Return the API keys that requested tokens by this reference in the last 30 days, the latest first."""
    fetches = TokenFetch.objects.filter(reference=reference.name, minute__gte=now - RECENT)
    if reference.is_default:
        fetches = fetches.filter(key__owner=reference.owner_id)
    grouped = fetches.order_by().values_list("key_id", "key_name", "owner_name")
    rows = grouped.annotate(times=Sum("count"), latest=Max("minute")).order_by("-latest", "key_name")[:MOST_KEYS]
    return [KeyUse(*row) for row in rows]


def without_access(keys: Iterable[KeyUse], connection: Connection) -> set[int]:
    """Return the IDs of the keys that would get no token if the reference pointed at this connection."""
    ids = [key.key_id for key in keys if key.key_id is not None]
    key_ids = set()
    for key in ApiKey.objects.filter(pk__in=ids).select_related("owner"):
        chosen = not key.only_chosen or key.connections.filter(pk=connection.pk).exists()
        if not chosen or not permissions.can_fetch_token(key.owner, connection):
            key_ids.add(key.pk)
    return key_ids


def _lock(reference: ConnectionReference) -> ConnectionReference:
    rows = without_tokens(ConnectionReference.objects.select_related("connection__owner", "owner", "team"))
    return rows.select_for_update(of=("self",)).get(pk=reference.pk)


def _require_target(connection: Connection, actor: User) -> None:
    """Lock the connection, so that nobody removes it. Raises NotAllowed, or InvalidInput if it was removed."""
    rows = Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk)
    owner = rows.values_list("owner", flat=True).first()
    if owner is None:
        raise InvalidInput("This connection was removed.", field="connection")
    connection.owner_id = owner
    roles.require(permissions.can_point_at(actor, connection), cause=NO_TARGET, action="Ask its owner to share it.")


def _save(reference: ConnectionReference, **values: object) -> None:
    set_columns(reference, values)
    reference.save(update_fields=list(values))


def _tell_owner_of(
    reference: ConnectionReference,
    before: Connection | None,
    after: Connection | None,
    *,
    actor: User,
    about: int,
    now: datetime,
) -> None:
    """Email the reference's owner about what someone else did to it. The owner can't switch this off."""
    person = reference.owner.contact
    if person is None or person == actor:
        return
    message = alerts.Message(
        subject=f"{actor} changed the reference {reference.name}",
        paragraphs=(
            f"{actor} ({actor.username}) changed the connection of the reference {reference.name}.",
            "Automations that use the reference get tokens of the new connection, if they have access to it."
            if after
            else "Automations that use the reference get no tokens until you choose another connection.",
        ),
        path=f"/references/{reference.pk}/",
        button="View reference",
        why="You received this email because you own this reference.",
        facts=(("Before", _named(before) or "None"), ("Now", _named(after) or "None")),
        tone="warning",
    )
    alerts.notify([person], message, about=f"reference:{reference.pk}:event:{about}", now=now, is_alarm=True)


def _named(connection: Connection | None) -> str:
    return f"{connection.name} ({connection.pk})" if connection is not None else ""


def _facts(connection: Connection, team: Team | None) -> dict[str, str]:
    return {"connection": _named(connection), **({"team": str(team)} if team else {})}


def _taken(name: str, field: str = "name") -> AlreadyExists:
    return AlreadyExists(f"The name “{name}” is taken.", action="Choose another name.", field=field)
