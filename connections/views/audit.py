"""The audit trail: the list, one event, and the history shown on other objects' pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connection as database
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from connections import access
from connections.forms.audit import AuditFilter
from connections.models import AuditEvent, User
from connections.views import listing

HISTORY_LENGTH = 20

# Objects that have a page, and who may see them there.
_PAGES: dict[str, tuple[str, Callable[[User], QuerySet[Any]]]] = {
    "AccessReview": ("review", access.visible_reviews),
    "AppRegistration": ("app", access.visible_app_registrations),
    "Approval": ("approval", access.visible_approvals),
    "Connection": ("connection", access.visible_connections),
    "ConsentRequest": ("consent_request", access.visible_consent_requests),
    "SharedMailbox": ("mailbox", access.visible_mailboxes),
    "Tenant": ("tenant", access.visible_tenants),
    "User": ("person", access.visible_people),
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All events, newest first."""
    user = access.signed_in(request.user)
    access.require(access.can_read_audit(user), cause=_ROLES, action=_ASK)
    form = AuditFilter(
        request.GET,
        actions={action: action_words(action) for action in recorded_actions()},
        target_types={name: type_words(name) for name in _target_types()},
    )
    events = access.visible_events(user)
    found = form.narrow(events) if form.is_valid() else events.none()
    page = listing.page(request, found, order=("-pk",))
    return render(request, "audit/index.html", {"page": page, "filters": form})


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One event: what it changed, and where it came from."""
    user = access.signed_in(request.user)
    access.require(access.can_read_audit(user), cause=_ROLES, action=_ASK)
    event = get_object_or_404(access.visible_events(user), pk=pk)
    context = {"event": event, "changes": changes(event), "target_url": _target_url(user, event)}
    return render(request, "audit/detail.html", context)


def history(user: User, target: models.Model) -> list[AuditEvent]:
    """The latest events of one object that this person may read; goes with partials/history.html."""
    return list(access.history_of(user, target).order_by("-pk")[:HISTORY_LENGTH])


@dataclass(frozen=True, slots=True)
class Change:
    """One line of an event's changes; ``before`` is None for a plain fact."""

    field: str
    before: Any
    after: Any
    is_fact: bool


def changes(event: AuditEvent) -> list[Change]:
    """What the event changed, line by line."""
    lines = []
    for field, value in event.changes.items():
        is_fact = not (isinstance(value, list) and len(value) == 2)
        before, after = (None, value) if is_fact else value
        lines.append(Change(field.replace("_", " "), before, after, is_fact))
    return lines


def action_words(action: str) -> str:
    """An audit action for people: "connection.reconnect_needed" → "Connection: reconnect needed"."""
    noun, _, verb = action.partition(".")
    return f"{_noun(noun.replace('_', ' '))}: {verb.replace('_', ' ')}" if verb else noun


def type_words(target_type: str) -> str:
    """A glossary name for people: "AppRegistration" → "App registration"."""
    return _noun(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", target_type))


def _noun(words: str) -> str:
    """Sentence case, in which API stays an abbreviation."""
    return re.sub(r"^Api\b", "API", words.capitalize())


def recorded_actions() -> list[str]:
    """The actions that occur, alphabetically. Jumps along the index instead of reading the whole trail."""
    table = AuditEvent._meta.db_table
    with database.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE found(action) AS (SELECT MIN(action) FROM {table} UNION ALL "  # noqa: S608
            f"SELECT (SELECT MIN(action) FROM {table} WHERE action > found.action) FROM found "
            "WHERE found.action IS NOT NULL) SELECT action FROM found WHERE action IS NOT NULL"
        )
        return [row[0] for row in cursor.fetchall()]


def _target_types() -> list[str]:
    """Glossary names of everything that can be acted on."""
    names = (model._meta.object_name for model in apps.get_app_config("connections").get_models())
    return sorted(name for name in names if name and name != "AuditEvent")


def _target_url(user: User, event: AuditEvent) -> str:
    """The page of the event's object; empty when it has none, is gone, or is not this person's to see."""
    url_name, visible = _PAGES.get(event.target_type, ("", None))
    if visible is None or not event.target_id.isdigit() or not visible(user).filter(pk=event.target_id).exists():
        return ""
    return reverse(url_name, args=[event.target_id])


_ROLES = "Only IT admins and auditors may open the audit trail."
_ASK = "What happened to your own connections stands on their pages."
