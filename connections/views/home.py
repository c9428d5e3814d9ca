"""The start page for each role: what needs attention, the user's own connections, or recent events."""

from datetime import timedelta
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import presentation
from connections.access import permissions, querysets, roles
from connections.errors import ApprovalNeeded
from connections.models import (
    AffectedConnection,
    AppCredential,
    AppRegistration,
    Approval,
    AuditEvent,
    Connection,
    ConsentLink,
    Incident,
    MailboxAccess,
    Tenant,
    User,
)
from connections.services.governance import access_reviews
from connections.views import consent_requests, incidents, people

LISTED = 20  # rows of each kind; the linked lists contain them all
OWN_CONNECTIONS = 50
EXPIRES_SOON = timedelta(days=30)
SUMMARY_DAYS = 7
_BROKEN = (Connection.Status.RECONNECT_NEEDED, Connection.Status.CONSENT_NEEDED, Connection.Status.BLOCKED)
_SHARED_INCIDENTS = (
    Incident.Kind.OUTAGE,
    Incident.Kind.MAILBOX,
    Incident.Kind.ENCRYPTION_KEY,
    Incident.Kind.HAND_OVER,
)
_STATUS_ORDER = (Connection.Status.ACTIVE, *_BROKEN, Connection.Status.PENDING, Connection.Status.DISABLED)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    if permissions.can_manage_registry(user):
        return render(request, "home/admin.html", _admin_context(user))
    if permissions.can_read_audit(user):
        return render(request, "home/auditor.html", _auditor_context(user))
    return render(request, "home/member.html", _member_context(user))


def _tasks(user: User, open_incidents: list[dict[str, Any]], **others: list[Any]) -> dict[str, Any]:
    """List what only the user (or, for IT admins, any IT admin) can resolve, most urgent first."""
    own_incidents = [item for item in open_incidents if _is_assigned_to(user, item["incident"])]
    tasks = {"incidents": own_incidents, **others, "reviews": access_reviews.tasks_of(user)}
    return tasks | {"any": any(tasks.values())}


def _is_assigned_to(user: User, incident: Incident) -> bool:
    if incident.assignee_id is not None:
        return incident.assignee_id == user.pk
    return incident.who == Connection.Who.IT_ADMIN and permissions.can_manage_registry(user)


def _admin_context(user: User) -> dict[str, Any]:
    figures = _figures(querysets.visible_connections(user))
    open_incidents = incidents.open_incidents(user, limit=LISTED)
    waiting = querysets.visible_approvals(user).filter(state=Approval.State.WAITING)
    approvals = list(waiting.order_by("requested_at", "pk")[:LISTED])
    others = [approval for approval in approvals if approval.requested_by_id != user.pk]
    tasks = _tasks(user, open_incidents, approvals=others, requests=consent_requests.awaiting_decision(user))
    consents = ConsentLink.objects.filter(state__in=(ConsentLink.State.OPEN, ConsentLink.State.GRANTED))
    context: dict[str, Any] = {
        "figures": figures,
        "tasks": tasks,
        "incidents": [item for item in open_incidents if item not in tasks["incidents"]],
        "own_approvals": [approval for approval in approvals if approval.requested_by_id == user.pk],
        "apps": _apps_with_problems(user),
        "groups": _broken_by_assignee(user),
        "credentials": _expiring_credentials(),
        "consents": list(consents.select_related("app_registration", "requested_by")[:LISTED]),
        "people_notices": people.notices(),
        "unreachable": MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE).count(),
    }
    problems = ("incidents", "apps", "groups", "credentials", "consents", "own_approvals", "unreachable")
    context["all_well"] = not (tasks["any"] or figures["unfinished"] or any(context[name] for name in problems))
    if figures["total"] == 0:
        context["steps"] = _first_steps()
        context["next_step"] = next(step for step in context["steps"] if not step["done"])
    return context


def _apps_with_problems(user: User) -> list[AppRegistration]:
    """List rejected app registrations, then untested ones; ``waiting`` counts the connections of each."""
    incidents = Incident.objects.filter(
        app_registration=OuterRef("pk"), kind=Incident.Kind.APP_REGISTRATION, closed_at=None
    )
    apps = querysets.visible_app_registrations(user).filter(Q(rejected_at__isnull=False) | Q(verified_at=None))
    apps = apps.exclude(Exists(incidents)).annotate(
        waiting=Count("connections", ~Q(connections__status=Connection.Status.DISABLED))
    )
    return list(apps.order_by(F("rejected_at").asc(nulls_last=True), "name", "pk")[:LISTED])


def _broken_by_assignee(user: User) -> list[tuple[str, list[Connection]]]:
    """Group broken connections that belong to no incident by who must act."""
    affected = AffectedConnection.objects.filter(connection=OuterRef("pk"), healed_at=None, incident__closed_at=None)
    broken = querysets.visible_connections(user).filter(status__in=_BROKEN).exclude(Exists(affected))
    groups: dict[str, list[Connection]] = {}
    for connection in broken.order_by("status_since", "pk")[:LISTED]:
        assignee = presentation.assigned_to(connection)
        if assignee.startswith("the owner"):
            assignee = "their owners"
        groups.setdefault(f"{assignee[:1].upper()}{assignee[1:]}" or "Nobody", []).append(connection)
    return sorted(groups.items())


def _expiring_credentials() -> list[AppCredential]:
    # Encrypted columns are left out so that a value no key can decrypt does not break this page.
    live = AppCredential.objects.live().defer("secret", "private_key", "certificate")
    soon = live.filter(expires_at__lt=timezone.now() + EXPIRES_SOON).select_related("app_registration")
    return list(soon.order_by("expires_at", "pk")[:LISTED])


def _first_steps() -> list[dict[str, Any]]:
    """List what to do before the first connection can be created."""
    apps = list(AppRegistration.objects.values_list("verified_at", "rejected_at")[:LISTED])
    rows = (
        (
            "Add your tenant",
            "The Microsoft Entra directory your people and mailboxes are in.",
            Tenant.objects.exists(),
            "tenant_add",
            "Add tenant",
        ),
        (
            "Add an app registration",
            "The application in Entra through which connections are made. A script can create it for you.",
            bool(apps),
            "app_add",
            "Add app registration",
        ),
        (
            "Let Microsoft accept its credentials",
            "The portal tries them as soon as you add them, and says what is wrong if they fail.",
            any(verified and not rejected for verified, rejected in apps),
            "apps",
            "Open app registrations",
        ),
        (
            "Connect the first account",
            "Your own to try it out; your colleagues connect theirs.",
            False,
            "connection_choose",
            "Connect",
        ),
    )
    return [dict(zip(("title", "text", "done", "url_name", "label"), row, strict=True)) for row in rows]


def _auditor_context(user: User) -> dict[str, Any]:
    events = querysets.visible_events(user)
    recent = events.filter(at__gte=timezone.now() - timedelta(days=SUMMARY_DAYS))
    by_action = recent.order_by().values("action").annotate(times=Count("pk"))
    return {
        "figures": _figures(querysets.visible_connections(user)),
        "incidents": incidents.open_incidents(user, limit=LISTED),
        "events": list(events.order_by("-pk")[:LISTED]),
        "summary": list(by_action.order_by("-times", "action")[:LISTED]),
        "denied": recent.exclude(outcome=AuditEvent.Outcome.DONE).count(),
        "days": SUMMARY_DAYS,
    }


def _member_context(user: User) -> dict[str, Any]:
    rows = [_own_connection(user, row) for row in querysets.visible_connections(user)[: OWN_CONNECTIONS + 1]]
    rows.sort(key=lambda row: (not row["state"].is_broken, not row["may_sign_in"]))
    shared = incidents.open_incidents(user, limit=LISTED, kinds=_SHARED_INCIDENTS)
    tasks = _tasks(user, shared)
    answered_after = timezone.now() - timedelta(days=SUMMARY_DAYS)
    own_approvals = querysets.visible_approvals(user).filter(
        Q(state=Approval.State.WAITING) | Q(decided_at__gt=answered_after), requested_by=user
    )
    return {
        "tasks": tasks,
        "connections": rows[:OWN_CONNECTIONS],
        "more": len(rows) > OWN_CONNECTIONS,
        "own_approvals": list(own_approvals.exclude(state=Approval.State.WITHDRAWN)[:LISTED]),
        "broken": sum(row["state"].is_broken for row in rows),
        "own_requests": consent_requests.recent_requests(user),
        "unfinished": sum(row["connection"].status == Connection.Status.PENDING for row in rows),
        # Incidents that affect a single connection are shown with that connection.
        "incidents": [item for item in shared if item not in tasks["incidents"]],
    }


def _own_connection(user: User, connection: Connection) -> dict[str, Any]:
    """Describe one of a member's connections, with the button that fixes it."""
    may_sign_in = (
        connection.status in (Connection.Status.PENDING, Connection.Status.RECONNECT_NEEDED)
        and connection.is_delegated
        and connection.status_code != ApprovalNeeded.code
        and permissions.can_reconnect(user, connection)
    )
    may_check = not may_sign_in and connection.status in _BROKEN and permissions.can_check(user, connection)
    state = presentation.connection_state(connection, user)
    return {"connection": connection, "state": state, "may_sign_in": may_sign_in, "may_check": may_check}


def _figures(visible: QuerySet[Connection]) -> dict[str, Any]:
    """Count connections by status. ``waiting`` is the number of active ones blocked by their app registration."""
    rejected = Q(status=Connection.Status.ACTIVE, app_registration__rejected_at__isnull=False)
    rows = visible.order_by().values("status").annotate(times=Count("pk"), waiting=Count("pk", rejected))
    counts = {row["status"]: row["times"] for row in rows}
    return {
        "by_status": [
            (presentation.status_badge(status), status.value, counts.get(status.value, 0)) for status in _STATUS_ORDER
        ],
        "total": sum(counts.values()),
        "waiting": sum(row["waiting"] for row in rows),
        "unfinished": counts.get(Connection.Status.PENDING, 0),
    }
