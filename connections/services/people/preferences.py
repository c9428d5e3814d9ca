"""A person's display preferences."""

from collections.abc import Sequence

from django.db import transaction

from connections import audit, time_zones
from connections.access import roles
from connections.errors import InvalidInput
from connections.models import User
from connections.models.audit import AuditAction


def columns_of(user: User, page: str, default: Sequence[str]) -> Sequence[str]:
    """Return the columns that this person has chosen for a list, or the default."""
    chosen: Sequence[str] = user.list_columns.get(page, default)
    return chosen


def choose_columns(user: User, page: str, columns: Sequence[str]) -> None:
    """Remember which columns of a list this person wants to see. This is not audited."""
    user.list_columns = {**user.list_columns, page: list(columns)}
    user.save(update_fields=["list_columns"])


def set_time_zone(user: User, *, name: str, actor: User) -> None:
    """Show times to this person in the given zone; "" means the browser's zone. Raises NotAllowed or InvalidInput."""
    roles.require(user.pk == actor.pk, cause="Everybody chooses their own time zone.")
    if name and name not in time_zones.names():
        raise InvalidInput("Choose a time zone from the list.", field="time_zone")
    with transaction.atomic():
        if changes := audit.changed_fields(user, {"time_zone": name}):
            user.time_zone = name
            user.save(update_fields=["time_zone"])
            audit.record(AuditAction.ACCOUNT_CHANGED, user, actor=actor, changes=changes)
