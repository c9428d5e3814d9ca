from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.db import connection as database
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import audit, audit_changes, audit_labels
from connections.access import permissions, querysets, roles
from connections.forms.audit import AuditFilter
from connections.models import AuditEvent, AuditSeal, SavedView, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.audit import publishing, sealing, streaming, verification_records
from connections.services.audit.export import Format
from connections.views import audit_entries, list_pages, saved_views

HISTORY_LENGTH = 20
_ROLES = "Only IT admins and auditors can view the audit trail."
_ASK = "To see the history of your connections, open a connection."

# The URL of the page for each type of object, and the objects that a person may see.
_PAGES: dict[str, tuple[str, Callable[[User], QuerySet[Any]]]] = {
    "AccessReview": ("review", querysets.visible_reviews),
    "AlertChannel": ("alert_channel", querysets.visible_channels),
    "ApiKey": ("api_key", querysets.visible_keys),
    "AppRegistration": ("app", querysets.visible_app_registrations),
    "Approval": ("approval", querysets.visible_approvals),
    "BulkAction": ("bulk_action", querysets.visible_bulk_actions),
    "ChangeRequest": ("change_request", querysets.visible_change_requests),
    "Connection": ("connection", querysets.visible_connections),
    "Incident": ("incident", querysets.visible_incidents),
    "ConnectionReference": ("reference", querysets.visible_references),
    "ConsentRequest": ("consent_request", querysets.visible_consent_requests),
    "SharedMailbox": ("mailbox", querysets.visible_mailboxes),
    "Team": ("team", querysets.visible_teams),
    "Tenant": ("tenant", querysets.visible_tenants),
    "User": ("person", querysets.visible_people),
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request, cause=_ROLES, action=_ASK)
    form = filter_form(request.GET)
    events: QuerySet[AuditEvent] | None = None
    fetches: QuerySet[TokenFetch] | None = None
    if form.is_valid():
        events = form.narrow(querysets.visible_events(user))
        fetches = form.narrow_fetches(querysets.visible_fetches(user))
    query = list_pages.query_without_page(request)
    places = [*publishing.publication_states(), *streaming.states()]
    context = {
        "page": audit_entries.page(request, events, fetches),
        "filters": form,
        **saved_views.panel(user, SavedView.Page.AUDIT, query.urlencode()),
        "formats": Format.choices,
        "may_export": permissions.can_export_audit(user),
        "newest_seal": AuditSeal.objects.defer("marks").first(),
        "unsealed": sealing.count_unsealed(most=list_pages.COUNT_LIMIT + 1),
        "verification": verification_records.newest(timezone.now()),
        "publications": [place for place in places if place.last_error],
    }
    return render(request, "audit/index.html", context)


def audit_reader(request: HttpRequest, *, cause: str = "", action: str = "Ask an IT admin or an auditor.") -> User:
    """Return the signed-in user. Raises NotAllowed if they may not read the audit trail."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_read_audit(user), cause=cause, action=action)
    return user


def filter_form(data: QueryDict) -> AuditFilter:
    """Return the list's filter, built from a query string or the export form."""
    actions = [*recorded_actions(), AuditAction.CONNECTION_TOKEN_FETCHED]
    names = (model._meta.object_name or "" for model in apps.get_app_config("connections").get_models())
    internal = (
        "Audit", "BulkItem", "ConnectionTag", "Daily", "RepeatedDenial", "SavedView", "SealPublication", "StoredReply",
    )  # fmt: skip
    types = {audit.TRAIL.type, "Portal", *(name for name in names if not name.startswith(internal))}
    return AuditFilter(
        data,
        actions={action: audit_labels.action_label(action) for action in actions},
        target_types={name: audit_labels.type_label(name) for name in sorted(types)},
    )


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user = audit_reader(request, cause=_ROLES, action=_ASK)
    event = get_object_or_404(querysets.visible_events(user), pk=pk)
    context = {
        "event": event,
        "changes": audit_changes.described(event.changes),
        "target_url": _target_url(user, event),
        "seal": sealing.seal_containing(event),
    }
    return render(request, "audit/detail.html", context)


def history(user: User, target: models.Model) -> list[AuditEvent]:
    """Return the object's latest events that the user may read, for partials/history.html."""
    return list(querysets.history_of(user, target).order_by("-pk")[:HISTORY_LENGTH])


def recorded_actions() -> list[str]:
    """Return all recorded actions in alphabetical order. The query reads only the index, not the whole trail."""
    table = AuditEvent._meta.db_table
    with database.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE found(action) AS (SELECT MIN(action) FROM {table} UNION ALL "  # noqa: S608
            f"SELECT (SELECT MIN(action) FROM {table} WHERE action > found.action) FROM found "
            "WHERE found.action IS NOT NULL) SELECT action FROM found WHERE action IS NOT NULL"
        )
        return [row[0] for row in cursor.fetchall()]


def _target_url(user: User, event: AuditEvent) -> str:
    """Return the URL of the object's page; "" if there is none, it was deleted, or the user may not see it."""
    url_name, visible = _PAGES.get(event.target_type, ("", None))
    if visible is None or not event.target_id.isdigit() or not visible(user).filter(pk=event.target_id).exists():
        return ""
    return reverse(url_name, args=[event.target_id])
