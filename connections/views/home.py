"""The start page: what is broken and who must act, my connections, or what happened lately — by role."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
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
    AccessReview,
    AffectedConnection,
    AppCredential,
    AppRegistration,
    Approval,
    AuditEvent,
    Connection,
    ConsentLink,
    ConsentRequest,
    Incident,
    MailboxAccess,
    Tenant,
    User,
)
from connections.services.governance import access_reviews
from connections.views import consent_requests, incidents, people

LISTED = 20  # of each kind; the lists behind the links have them all
MINE = 50
EXPIRES_SOON = timedelta(days=30)
SUMMARY_DAYS = 7
_NEEDS_SOMEBODY = (Connection.Status.RECONNECT_NEEDED, Connection.Status.CONSENT_NEEDED, Connection.Status.BLOCKED)
_NOT_OF_ONE_CONNECTION = (
    Incident.Kind.OUTAGE,
    Incident.Kind.MAILBOX,
    Incident.Kind.ENCRYPTION_KEY,
    Incident.Kind.HAND_OVER,
)
_SHOWN_IN_ORDER = (Connection.Status.ACTIVE, *_NEEDS_SOMEBODY, Connection.Status.PENDING, Connection.Status.DISABLED)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """The start page of an IT admin, an auditor or a member."""
    user = roles.current_user(request.user)
    if permissions.can_manage_registry(user):
        return render(request, "home/admin.html", _for_admin(user))
    if permissions.can_read_audit(user):
        return render(request, "home/auditor.html", _for_auditor(user))
    return render(request, "home/member.html", _for_member(user))


# --- What waits for the person who looks -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waits:
    """What only this person, or one of the IT admins that they are, can go on with; the most urgent first."""

    incidents: list[incidents.OpenIncident]
    approvals: list[Approval]
    requests: list[ConsentRequest]
    reviews: list[tuple[AccessReview, int]]

    @property
    def any(self) -> bool:
        """Whether anything waits."""
        return bool(self.incidents or self.approvals or self.requests or self.reviews)


def _is_for(user: User, incident: Incident) -> bool:
    if incident.assignee_id is not None:
        return incident.assignee_id == user.pk
    return incident.who == Connection.Who.IT_ADMIN and permissions.can_manage_registry(user)


# --- IT admins ------------------------------------------------------------------------------------


def _for_admin(user: User) -> dict[str, Any]:
    figures = _figures(querysets.visible_connections(user))
    found = incidents.open_incidents(user, limit=LISTED)
    approvals = _waiting_approvals(user)
    waits = Waits(
        incidents=[one for one in found if _is_for(user, one.incident)],
        approvals=[approval for approval in approvals if approval.requested_by_id != user.pk],
        requests=consent_requests.to_decide(user),
        reviews=access_reviews.tasks_of(user),
    )
    context: dict[str, Any] = {
        "figures": figures,
        "waits": waits,
        "incidents": [one for one in found if one not in waits.incidents],
        "own_approvals": [approval for approval in approvals if approval.requested_by_id == user.pk],
        "apps": _troubled_apps(user),
        "groups": _broken_by_who(user),
        "credentials": _expiring_credentials(),
        "consents": _open_consents(),
        "people_notices": people.notices(),
        "unreachable": MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE).count(),
    }
    troubles = ("incidents", "apps", "groups", "credentials", "consents", "own_approvals", "unreachable")
    context["all_well"] = not (waits.any or figures.unfinished or any(context[name] for name in troubles))
    if figures.total == 0:
        context["steps"] = _first_steps()
        context["next_step"] = next(step for step in context["steps"] if not step.done)
    return context


@dataclass(frozen=True, slots=True)
class Group:
    """Broken connections that wait for the same kind of person."""

    who: str
    connections: list[Connection]


def _troubled_apps(user: User) -> list[AppRegistration]:
    """Rejected first, then never tried; each with ``waiting``, the number of its connections."""
    incidents = Incident.objects.filter(
        app_registration=OuterRef("pk"), kind=Incident.Kind.APP_REGISTRATION, closed_at=None
    )
    troubled = querysets.visible_app_registrations(user).filter(Q(rejected_at__isnull=False) | Q(verified_at=None))
    troubled = troubled.exclude(Exists(incidents))
    counted = troubled.annotate(waiting=Count("connections", ~Q(connections__status=Connection.Status.DISABLED)))
    return list(counted.order_by(F("rejected_at").asc(nulls_last=True), "name", "pk")[:LISTED])


def _broken_by_who(user: User) -> list[Group]:
    affecteds = AffectedConnection.objects.filter(connection=OuterRef("pk"), healed_at=None, incident__closed_at=None)
    broken = querysets.visible_connections(user).filter(status__in=_NEEDS_SOMEBODY).exclude(Exists(affecteds))
    found: dict[str, list[Connection]] = {}
    for connection in broken.order_by("status_since", "pk")[:LISTED]:
        found.setdefault(_acting(connection), []).append(connection)
    return [Group(who, found[who]) for who in sorted(found)]


def _acting(connection: Connection) -> str:
    acting = presentation.assigned_to(connection)
    if acting.startswith("the owner"):
        return "Their owners"
    return f"{acting[:1].upper()}{acting[1:]}" or "Nobody"


def _expiring_credentials() -> list[AppCredential]:
    # The encrypted columns stay in the database: one that no key opens must not take this page down.
    live = AppCredential.objects.live().defer("secret", "private_key", "certificate")
    soon = live.filter(expires_at__lt=timezone.now() + EXPIRES_SOON).select_related("app_registration")
    return list(soon.order_by("expires_at", "pk")[:LISTED])


def _open_consents() -> list[ConsentLink]:
    waiting = ConsentLink.objects.filter(state__in=(ConsentLink.State.OPEN, ConsentLink.State.GRANTED))
    return list(waiting.select_related("app_registration", "requested_by")[:LISTED])


def _waiting_approvals(user: User) -> list[Approval]:
    waiting = querysets.visible_approvals(user).filter(state=Approval.State.WAITING)
    return list(waiting.order_by("requested_at", "pk")[:LISTED])


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do before the first connection can exist."""

    title: str
    text: str
    done: bool
    url_name: str
    label: str


def _first_steps() -> list[Step]:
    apps = list(AppRegistration.objects.values_list("verified_at", "rejected_at")[:LISTED])
    ready = any(verified and not rejected for verified, rejected in apps)
    return [
        Step(
            "Add your tenant",
            "The Microsoft Entra directory your people and mailboxes are in.",
            Tenant.objects.exists(),
            "tenant_add",
            "Add tenant",
        ),
        Step(
            "Add an app registration",
            "The application in Entra through which connections are made. A script can create it for you.",
            bool(apps),
            "app_add",
            "Add app registration",
        ),
        Step(
            "Let Microsoft accept its credentials",
            "The portal tries them as soon as you add them, and says what is wrong if they fail.",
            ready,
            "apps",
            "Open app registrations",
        ),
        Step(
            "Connect the first account",
            "Your own to try it out; your colleagues connect theirs.",
            False,
            "connection_choose",
            "Connect",
        ),
    ]


def _own_approvals(user: User, now: datetime) -> list[Approval]:
    """What one has asked for and is not answered yet, or was answered lately."""
    lately = Q(state=Approval.State.WAITING) | Q(decided_at__gt=now - timedelta(days=SUMMARY_DAYS))
    own = querysets.visible_approvals(user).filter(lately, requested_by=user).exclude(state=Approval.State.WITHDRAWN)
    return list(own[:LISTED])


# --- Auditors -------------------------------------------------------------------------------------


def _for_auditor(user: User) -> dict[str, Any]:
    events = querysets.visible_events(user)
    since = timezone.now() - timedelta(days=SUMMARY_DAYS)
    by_action = events.filter(at__gte=since).order_by().values("action").annotate(times=Count("pk"))
    return {
        "figures": _figures(querysets.visible_connections(user)),
        "incidents": incidents.open_incidents(user, limit=LISTED),
        "events": list(events.order_by("-pk")[:LISTED]),
        "summary": list(by_action.order_by("-times", "action")[:LISTED]),
        "denied": events.filter(at__gte=since).exclude(outcome=AuditEvent.Outcome.DONE).count(),
        "days": SUMMARY_DAYS,
    }


# --- Members --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mine:
    """One of a member's connections, with the one thing that mends it: "sign_in", "check" or nothing."""

    connection: Connection
    state: presentation.State
    mend: str


def _for_member(user: User) -> dict[str, Any]:
    found = [_mine(user, connection) for connection in querysets.visible_connections(user)[: MINE + 1]]
    found.sort(key=lambda mine: (not mine.state.is_broken, mine.mend != "sign_in"))
    shared_troubles = incidents.open_incidents(user, limit=LISTED, kinds=_NOT_OF_ONE_CONNECTION)
    waits = Waits(
        incidents=[shared_trouble for shared_trouble in shared_troubles if _is_for(user, shared_trouble.incident)],
        approvals=[],
        requests=[],
        reviews=access_reviews.tasks_of(user),
    )
    return {
        "waits": waits,
        "mine": found[:MINE],
        "more": len(found) > MINE,
        "own_approvals": _own_approvals(user, timezone.now()),
        "broken": sum(mine.state.is_broken for mine in found),
        "asked": consent_requests.mine(user),
        "unfinished": sum(mine.connection.status == Connection.Status.PENDING for mine in found),
        # Incidents of one connection stand with the connections they break.
        "incidents": [shared_trouble for shared_trouble in shared_troubles if shared_trouble not in waits.incidents],
    }


def _mine(user: User, connection: Connection) -> Mine:
    mend = ""
    unfinished = (Connection.Status.PENDING, Connection.Status.RECONNECT_NEEDED)
    waits = connection.status_code == ApprovalNeeded.code
    if (
        connection.status in unfinished
        and connection.is_delegated
        and not waits
        and permissions.can_reconnect(user, connection)
    ):
        mend = "sign_in"
    elif connection.status in _NEEDS_SOMEBODY and permissions.can_check(user, connection):
        mend = "check"
    return Mine(connection, presentation.connection_state(connection, user), mend)


# --- Figures --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """How many connections are in a status."""

    badge: presentation.Badge
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Connections by status. ``waiting`` of the active ones are blocked by their app registration."""

    by_status: list[Figure]
    total: int
    well: int
    waiting: int
    broken: int
    unfinished: int


def _figures(visible: QuerySet[Connection]) -> Figures:
    rejected = Q(status=Connection.Status.ACTIVE, app_registration__rejected_at__isnull=False)
    rows = visible.order_by().values("status").annotate(times=Count("pk"), waiting=Count("pk", rejected))
    counts = {row["status"]: row["times"] for row in rows}
    waiting = sum(row["waiting"] for row in rows)
    return Figures(
        by_status=[
            Figure(presentation.status_badge(status), status.value, counts.get(status.value, 0))
            for status in _SHOWN_IN_ORDER
        ],
        total=sum(counts.values()),
        well=counts.get(Connection.Status.ACTIVE, 0) - waiting,
        waiting=waiting,
        broken=sum(counts.get(status, 0) for status in _NEEDS_SOMEBODY),
        unfinished=counts.get(Connection.Status.PENDING, 0),
    )
