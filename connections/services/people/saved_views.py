"""Saved filters of lists. Each person sees only their own."""

from datetime import datetime

from django.db import IntegrityError, transaction

from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import SavedView, User

MOST = 50  # per person and list


def views_of(user: User, page: str) -> list[SavedView]:
    return list(user.saved_views.filter(page=page)[:MOST])


def save(*, page: str, name: str, query: str, actor: User, now: datetime) -> SavedView:
    """Save a list's filter (a query string) under a name. Raises NotAllowed, AlreadyExists or InvalidInput."""
    can_open = page != SavedView.Page.AUDIT or permissions.can_read_audit(actor)
    roles.require(can_open, action="Ask an IT admin or an auditor.")
    try:
        with transaction.atomic():
            if actor.saved_views.filter(page=page).count() >= MOST:
                raise InvalidInput(f"You can save up to {MOST} views.", action="Delete one first.")
            return SavedView.objects.create(person=actor, page=page, name=name, query=query, created_at=now)
    except IntegrityError as taken:
        raise AlreadyExists(f"You already have a view named “{name}”.", action="Choose another name.") from taken


def remove(view: SavedView, *, actor: User) -> None:
    """Delete a saved filter. Safe to repeat. Raises NotAllowed."""
    roles.require(view.person_id == actor.pk, cause="This view belongs to someone else.")
    SavedView.objects.filter(pk=view.pk).delete()
