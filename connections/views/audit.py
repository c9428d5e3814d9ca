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
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from connections import access, audit
from connections.forms.audit import AuditFilter, ViewForm
from connections.models import AuditEvent, AuditSeal, TokenFetch, User
from connections.services import audit_lines, audit_publishing, audit_seals, audit_verification
from connections.services.audit_exports import Format
from connections.views import audit_entries, listing

HISTORY_LENGTH = 20
MOST_VIEWS = 50

# Objects that have a page, and who may see them there.
_PAGES: dict[str, tuple[str, Callable[[User], QuerySet[Any]]]] = {
    "AccessReview": ("review", access.visible_reviews),
    "AlertChannel": ("alert_channel", access.visible_channels),
    "ApiKey": ("api_key", access.visible_keys),
    "AppRegistration": ("app", access.visible_app_registrations),
    "Approval": ("approval", access.visible_approvals),
    "Connection": ("connection", access.visible_connections),
    "Incident": ("incident", access.visible_incidents),
    "ConsentRequest": ("consent_request", access.visible_consent_requests),
    "SharedMailbox": ("mailbox", access.visible_mailboxes),
    "Team": ("team", access.visible_teams),
    "Tenant": ("tenant", access.visible_tenants),
    "User": ("person", access.visible_people),
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All events and token hand-outs, newest first; whether they are proven; the reader's saved views."""
    user = access.signed_in(request.user)
    access.require(access.can_read_audit(user), cause=_ROLES, action=_ASK)
    form = filter_form(request.GET)
    events: QuerySet[AuditEvent] | None = None
    fetches: QuerySet[TokenFetch] | None = None
    if form.is_valid():
        events = form.narrow(access.visible_events(user))
        fetches = form.narrow_fetches(access.visible_fetches(user))
    query = request.GET.copy()
    for name in ("after", "before"):
        query.pop(name, None)
    context = {
        "page": audit_entries.page(request, events, fetches),
        "filters": form,
        "query": query.urlencode(),
        "views": list(user.audit_views.all()[:MOST_VIEWS]),
        "view_form": ViewForm(initial={"query": query.urlencode()}),
        "formats": Format.choices,
        "may_export": access.can_export_audit(user),
        "newest_seal": AuditSeal.objects.defer("marks").first(),
        "unsealed": audit_seals.unsealed(most=listing.COUNT_LIMIT + 1),
        "verification": audit_verification.latest(),
        "publications": [place for place in audit_publishing.states() if place.last_error],
    }
    return render(request, "audit/index.html", context)


def filter_form(data: QueryDict) -> AuditFilter:
    """The filter of the list, as a query string or an export has it."""
    actions = [*recorded_actions(), audit_lines.FETCHED]
    return AuditFilter(
        data,
        actions={action: action_words(action) for action in actions},
        target_types={name: type_words(name) for name in _target_types()},
    )


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One event: what it changed, and where it came from."""
    user = access.signed_in(request.user)
    access.require(access.can_read_audit(user), cause=_ROLES, action=_ASK)
    event = get_object_or_404(access.visible_events(user), pk=pk)
    context = {
        "event": event,
        "changes": changes(event),
        "target_url": _target_url(user, event),
        "seal": audit_seals.seal_of(event),
    }
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
    internal = ("Audit", "RepeatedDenial", "SealPublication", "StoredReply")
    own = {name for name in names if name and not name.startswith(internal)}
    return sorted(own | {audit.TRAIL.type, "Portal"})


def _target_url(user: User, event: AuditEvent) -> str:
    """The page of the event's object; empty when it has none, is gone, or is not this person's to see."""
    url_name, visible = _PAGES.get(event.target_type, ("", None))
    if visible is None or not event.target_id.isdigit() or not visible(user).filter(pk=event.target_id).exists():
        return ""
    return reverse(url_name, args=[event.target_id])


_ROLES = "Only IT admins and auditors may open the audit trail."
_ASK = "What happened to your own connections stands on their pages."
