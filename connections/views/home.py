"""The start page for each role: what needs attention, the user's own connections, or recent events."""

from datetime import timedelta
from typing import Any

from django.db.models import Exists, F, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import effective_status, presentation
from connections.access import counts, permissions, querysets, roles
from connections.effective_status import EffectiveStatus
from connections.models import (
    AccessReview,
    AffectedConnection,
    ApiKey,
    AppCredential,
    AppRegistration,
    Approval,
    AuditSeal,
    Connection,
    ConsentLink,
    Incident,
    MailboxAccess,
    User,
)
from connections.services.audit import verification_records
from connections.services.connections import request_inbox
from connections.services.governance import access_reviews, violation_figures
from connections.services.operations import checks, daily_figures, doctor, setup_checklist
from connections.services.operations.checks import State
from connections.services.policy import next_steps
from connections.views import consent_requests, home_charts, incidents, people

LISTED = 20  # rows of each kind; the linked lists have no limit
OWN_CONNECTIONS = 50
LOOKED_AT = 200  # broken connections; nearly all of them belong to an incident
EXPIRES_SOON = timedelta(days=30)
SUMMARY_DAYS = 7
NEWEST = 8
_BROKEN = (Connection.Status.RECONNECT_NEEDED, Connection.Status.CONSENT_NEEDED, Connection.Status.BLOCKED)
# States whose next step is a sign-in by the owner, or a test.
_SIGN_IN = (EffectiveStatus.PENDING, EffectiveStatus.RECONNECT_NEEDED, EffectiveStatus.ACCOUNT_GONE)
_TESTED = (*_SIGN_IN, EffectiveStatus.CONSENT_NEEDED, EffectiveStatus.BLOCKED)
_SHARED_INCIDENTS = (
    Incident.Kind.OUTAGE,
    Incident.Kind.MAILBOX,
    Incident.Kind.ENCRYPTION_KEY,
    Incident.Kind.HAND_OVER,
    Incident.Kind.TENANT,
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    if permissions.can_manage_registry(user):
        return render(request, "home/admin.html", _admin_context(user))
    if permissions.can_read_audit(user):
        return render(request, "home/auditor.html", _auditor_context(user))
    return render(request, "home/member.html", _member_context(user))


def _tasks(user: User, open_incidents: list[dict[str, Any]]) -> dict[str, Any]:
    """List what only the user (or, for IT admins, any IT admin) can resolve, most urgent first."""
    own_incidents = [item for item in open_incidents if _is_assigned_to(user, item["incident"])]
    tasks: dict[str, Any] = {
        "incidents": own_incidents,
        "requests": request_inbox.oldest_to_decide(user, timezone.now(), LISTED),
        "reviews": access_reviews.tasks_of(user),
    }
    return tasks | {"any": any(tasks.values())}


def _is_assigned_to(user: User, incident: Incident) -> bool:
    if incident.assignee_id is not None:
        return incident.assignee_id == user.pk
    return incident.who == Connection.Who.IT_ADMIN and permissions.can_manage_registry(user)


def _admin_context(user: User) -> dict[str, Any]:
    figures, now = home_charts.status_figures(), timezone.now()
    open_incidents = incidents.open_incidents(user, limit=LISTED)
    own_approvals = querysets.visible_approvals(user).filter(state=Approval.State.WAITING, requested_by=user)
    tasks = _tasks(user, open_incidents)
    consents = ConsentLink.objects.filter(state__in=(ConsentLink.State.OPEN, ConsentLink.State.GRANTED))
    context: dict[str, Any] = {
        "figures": figures,
        "tasks": tasks,
        "incidents": [item for item in open_incidents if item not in tasks["incidents"]],
        "own_approvals": list(own_approvals.order_by("requested_at", "pk")[:LISTED]),
        "apps": _apps_with_problems(user),
        "groups": _broken_by_assignee(user),
        "credentials": _expiring_credentials(),
        "consents": list(consents.select_related("app_registration", "requested_by")[:LISTED]),
        "people_notices": people.notices(),
        "unreachable": counts.capped(MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE)),
        "violations": violation_figures.latest(),
        "verification": verification_records.newest(now),
        **_portal_health(),
        "expiring": home_charts.expiring(),
        "expiry_windows": daily_figures.EXPIRY_WINDOWS,
        "charts": [home_charts.health(now), home_charts.token_requests(now), home_charts.refreshes(now)],
    }
    broken = [connection for _, connections in context["groups"] for connection in connections]
    context["connection_facts"] = next_steps.Facts.about(broken)
    problems = (
        "incidents",
        "apps",
        "groups",
        "credentials",
        "consents",
        "own_approvals",
        "unreachable",
        "portal_problems",
    )
    violating = context["violations"] is not None and context["violations"].total
    is_well = not (tasks["any"] or figures["unfinished"] or violating)
    context["all_well"] = is_well and not any(context[name] for name in problems)
    context["is_empty"] = figures["total"] == 0
    return context


def _portal_health() -> dict[str, Any]:
    """Return the problems of the portal itself and the passed checks, as in manage.py doctor and /readyz."""
    findings = checks.run(check for check in doctor.CHECKS if check.is_for_home)
    rows = [
        {
            "title": finding.name.replace("_", " ").capitalize(),
            "detail": finding.result.detail,
            "action": finding.result.action,
            "is_problem": finding.result.state == State.PROBLEM,
            "is_ok": finding.result.state == State.OK,
        }
        for finding in findings
        if finding.result.state != State.SKIPPED
    ]
    return {
        "portal_problems": [row for row in rows if not row["is_ok"]],
        "portal_checks": [row for row in rows if row["is_ok"]],
        "setup": setup_checklist.read({finding.name: finding.result for finding in findings}),
    }


def _apps_with_problems(user: User) -> list[AppRegistration]:
    """Return rejected app registrations, then untested ones. ``waiting`` is the number of connections of each."""
    incidents = Incident.objects.filter(
        app_registration=OuterRef("pk"), kind=Incident.Kind.APP_REGISTRATION, closed_at=None
    )
    apps = querysets.visible_app_registrations(user).filter(Q(rejected_at__isnull=False) | Q(verified_at=None))
    apps = apps.exclude(Exists(incidents)).annotate(
        waiting=counts.connections_of_apps(~Q(value=Connection.Status.DISABLED))
    )
    return list(apps.order_by(F("rejected_at").asc(nulls_last=True), "name", "pk")[:LISTED])


def _broken_by_assignee(user: User) -> list[tuple[str, list[Connection]]]:
    """Group broken connections without an incident by who must act. Only the last LOOKED_AT ones are considered."""
    affected = AffectedConnection.objects.filter(connection=OuterRef("pk"), healed_at=None, incident__closed_at=None)
    waiting = effective_status.condition(EffectiveStatus.AWAITING_CONSENT)
    waiting |= effective_status.condition(EffectiveStatus.AWAITING_APPROVAL)
    rows = querysets.visible_connections(user)
    broken = rows.filter(~waiting, ~Exists(affected), status__in=_BROKEN)
    groups: dict[str, list[Connection]] = {}
    recent = Connection.objects.filter(status__in=_BROKEN).order_by("-status_since", "pk").values("pk")[:LOOKED_AT]
    # Their ids first, so that the others are not joined with what only the page shows.
    pks = broken.filter(pk__in=recent).order_by("status_since", "pk").values_list("pk", flat=True)[:LISTED]
    shown = rows.filter(pk__in=list(pks)).order_by("status_since", "pk")
    for connection in effective_status.load(shown):
        assignee = presentation.assigned_to(connection)
        if assignee.endswith(presentation.OWNER_SUFFIX):
            assignee = "Owners"
        groups.setdefault(assignee or "No one", []).append(connection)
    return sorted(groups.items())


def _expiring_credentials() -> list[AppCredential]:
    # Leave out encrypted columns, because a value that no key can decrypt would break this page.
    live = AppCredential.objects.live().defer("secret", "private_key", "certificate")
    soon = live.filter(expires_at__lt=timezone.now() + EXPIRES_SOON).select_related("app_registration")
    return list(soon.order_by("expires_at", "pk")[:LISTED])


def _auditor_context(user: User) -> dict[str, Any]:
    events, now = querysets.visible_events(user), timezone.now()
    days = daily_figures.last_days(SUMMARY_DAYS, now)
    actions = daily_figures.read(days, prefix=daily_figures.ACTION)
    totals = {action: sum(by_day.values()) for action, by_day in actions.items()}
    denied = daily_figures.read(days, [daily_figures.DENIALS]).get(daily_figures.DENIALS, {})
    newest = querysets.visible_connections(user).order_by("-pk")[:NEWEST]
    return {
        "figures": home_charts.status_figures(),
        "incidents": incidents.open_incidents(user, limit=LISTED),
        "events": list(events.order_by("-pk")[:LISTED]),
        "summary": [
            {"action": action, "times": times}
            for action, times in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
        ],
        "verification": verification_records.newest(now),
        "newest_seal": AuditSeal.objects.defer("marks").first(),
        "denied": sum(denied.values()),
        "days": SUMMARY_DAYS,
        "charts": [home_charts.activity(now), home_charts.health(now)],
        "reviews": _running_reviews(),
        "top_keys": daily_figures.top_keys(now),
        "newest": list(newest),
    }


def _running_reviews() -> list[dict[str, Any]]:
    """Return running access reviews. ``total`` and ``answered`` are None until the daily figures include them."""
    counts = daily_figures.latest(daily_figures.REVIEW)
    running = AccessReview.objects.filter(closed_at=None, cancelled_at=None).order_by("due_at", "pk")
    return [
        {
            "review": review,
            "total": counts.get(f"{review.pk}:total"),
            "answered": counts.get(f"{review.pk}:answered"),
        }
        for review in running[: daily_figures.REVIEWS]
    ]


def _member_context(user: User) -> dict[str, Any]:
    connections = list(querysets.visible_connections(user)[: OWN_CONNECTIONS + 1])
    facts = next_steps.Facts.about(connections)
    rows = [_own_connection(user, connection, facts) for connection in connections]
    rows.sort(key=lambda row: (not row["state"].is_broken, not row["may_sign_in"]))
    shared = incidents.open_incidents(user, limit=LISTED, kinds=_SHARED_INCIDENTS)
    tasks = _tasks(user, shared)
    answered_after = timezone.now() - timedelta(days=SUMMARY_DAYS)
    own_approvals = querysets.visible_approvals(user).filter(
        Q(state=Approval.State.WAITING) | Q(decided_at__gt=answered_after), requested_by=user
    )
    rows = rows[:OWN_CONNECTIONS]
    return {
        "tasks": tasks,
        "connections": [row for row in rows if row["is_own"]],
        "shared_connections": [row for row in rows if not row["is_own"]],
        "all_work": bool(rows),
        "more": len(connections) > OWN_CONNECTIONS,
        "use": home_charts.use_of([row["connection"] for row in rows if row["is_own"]], timezone.now()),
        "keys": list(ApiKey.objects.filter(owner=user, revoked_at=None).order_by("expires_at", "pk")[:LISTED]),
        "own_approvals": list(own_approvals.exclude(state=Approval.State.WITHDRAWN)[:LISTED]),
        "broken": sum(row["state"].is_broken for row in rows),
        "own_requests": consent_requests.recent_requests(user),
        "unfinished": sum(effective_status.of(row["connection"]) == EffectiveStatus.PENDING for row in rows),
        "waiting": sum(row["state"].badge.tone == presentation.WAITING for row in rows),
        # Incidents of a single connection are shown with the connection, and the user's own ones among the tasks.
        "incidents": [item for item in shared if item not in tasks["incidents"]],
    }


def _own_connection(user: User, connection: Connection, facts: next_steps.Facts) -> dict[str, Any]:
    """Return the data of one of a member's connections, including the buttons that can fix it."""
    effective = effective_status.of(connection)
    may_sign_in = effective in _SIGN_IN and next_steps.may_sign_in(user, connection, facts=facts)
    may_check = not may_sign_in and effective in _TESTED and next_steps.may_check(user, connection)
    advice = next_steps.advice(connection, facts=facts)
    replaced = {"action": advice.action, "who": advice.who} if advice is not None else {}
    state = presentation.connection_state(connection, user, **replaced)
    is_own = connection.owner_id == user.pk
    return {
        "connection": connection,
        "state": state,
        "may_sign_in": may_sign_in,
        "may_check": may_check,
        "is_own": is_own,
    }
