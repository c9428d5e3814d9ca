"""Saved filters of the audit trail. Each person sees only their own."""

from datetime import datetime

from django.db import IntegrityError, transaction

from connections.access import permissions, roles
from connections.errors import AlreadyExists
from connections.models import AuditView, User


def save(*, name: str, query: str, actor: User, now: datetime) -> AuditView:
    """Save a filter (a query string) under a name. Raises NotAllowed or AlreadyExists."""
    roles.require(permissions.can_read_audit(actor), action="Ask an IT admin or an auditor.")
    try:
        with transaction.atomic():
            return AuditView.objects.create(person=actor, name=name, query=query, created_at=now)
    except IntegrityError as taken:
        raise AlreadyExists(f"You already have a view called “{name}”.", action="Choose another name.") from taken


def remove(view: AuditView, *, actor: User) -> None:
    """Delete a saved filter; does nothing if it no longer exists. Raises NotAllowed."""
    roles.require(view.person_id == actor.pk, cause="This view belongs to somebody else.")
    AuditView.objects.filter(pk=view.pk).delete()
