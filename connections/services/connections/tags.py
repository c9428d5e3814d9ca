"""Tags: free words that help to find connections. They give nobody access."""

from collections.abc import Callable, Iterable

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import InvalidInput
from connections.models import Connection, ConnectionTag, User
from connections.models.audit import AuditAction
from connections.validators import MOST_TAGS, parse_tags


def replace(connection: Connection, names: Iterable[str], *, actor: User) -> tuple[str, ...]:
    """Replace the connection's tags, and return the new ones. Raises NotAllowed or InvalidInput (field ``tags``)."""
    wanted = parse_tags(names)
    return _change(connection, lambda current: set(wanted), actor=actor)


def add(connection: Connection, names: Iterable[str], *, actor: User) -> tuple[str, ...]:
    """Add tags, and return all tags. Raises NotAllowed, or InvalidInput also for too many tags."""
    wanted = parse_tags(names)
    return _change(connection, lambda current: current | set(wanted), actor=actor)


def remove(connection: Connection, names: Iterable[str], *, actor: User) -> tuple[str, ...]:
    """Remove tags, ignoring those that are not there. Returns the remaining tags. Raises NotAllowed or InvalidInput."""
    unwanted = parse_tags(names)
    return _change(connection, lambda current: current - set(unwanted), actor=actor)


def _change(connection: Connection, after: Callable[[set[str]], set[str]], *, actor: User) -> tuple[str, ...]:
    with transaction.atomic():
        locked = Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).first()
        if locked is None:
            raise InvalidInput("This connection was removed.", field="tags")
        roles.require(permissions.can_tag(actor, locked), action="Ask its owner or an IT admin.")
        current = set(locked.tags.values_list("name", flat=True))
        wanted = after(current)
        if len(wanted) > MOST_TAGS:
            raise InvalidInput(f"A connection can have up to {MOST_TAGS} tags.", field="tags")
        if wanted != current:
            locked.tags.filter(name__in=current - wanted).delete()
            ConnectionTag.objects.bulk_create(
                ConnectionTag(connection=locked, name=name) for name in sorted(wanted - current)
            )
            changes = {"tags": [audit.join_values(sorted(current)), audit.join_values(sorted(wanted))]}
            audit.record(AuditAction.CONNECTION_TAGGED, locked, actor=actor, changes=changes)
        return tuple(sorted(wanted))
