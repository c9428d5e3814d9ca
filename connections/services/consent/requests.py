"""Consent requests: a member requests consent, and an IT admin approves with a link or declines with a reason."""

from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from connections import audit
from connections.access import permissions as access_permissions
from connections.access import roles
from connections.errors import InvalidInput, PortalError
from connections.microsoft import capabilities
from connections.models import Connection, ConsentLink, ConsentRequest, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.services.consent import admin_consent, request_status
from connections.services.consent.request_status import OPEN_STATES, move
from connections.services.notifications import alerts
from connections.services.policy import approvals, permission_drift, request_workflow

State = ConsentRequest.State

LONGEST_TEXT = 2000
_UNDECIDED = (State.ASKED, State.APPROVED, State.FAILED)


class DecidedMeanwhile(PortalError):
    code = "decided_meanwhile"
    status = 409
    cause = "Someone else has already decided this request."
    action = "Refresh the page."


def _required_permissions(connection: Connection) -> tuple[str, ...]:
    """Return the permissions that the connection lacks, sorted.

    If it lacks none but Microsoft still refuses it, returns all permissions it needs.
    """
    required = permission_drift.required_permissions(connection)
    missing = capabilities.missing(required, connection.granted) if connection.connected_at else required
    return tuple(sorted(missing or required))


def request_consent(connection: Connection, *, reason: str, actor: User, now: datetime) -> ConsentRequest:
    """Request that IT admins get consent for the permissions the connection lacks, and email them once.

    Returns an open request for the same permissions, and replaces one for other permissions. A link that was approved
    for the same permissions is reused. Raises NotAllowed, InvalidInput, PolicyForbids or ApprovalNeeded, without
    requesting anything.
    """
    reason = reason.strip()
    try:
        with transaction.atomic():
            # Simultaneous requests wait for each other here. On a database without row locks, a constraint stops one of
            # them.
            if not Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).exists():
                raise InvalidInput("The connection was removed.", action="No request was sent.")
            connection.refresh_from_db(fields=["owner"])
            roles.require(
                access_permissions.can_ask_consent(actor, connection),
                action="Only the person who signs in for this connection can request consent.",
            )
            approvals.require_sign_in(connection)
            if not reason or len(reason) > LONGEST_TEXT:
                raise InvalidInput("Enter a justification in a few sentences.", field="reason")
            names = _required_permissions(connection)
            current = connection.consent_requests.filter(closed_at=None).first()
            if current is not None and current.permission_names == names:
                return current
            if current is not None:
                answer = "Replaced by a request for other permissions."
                move(current, State.WITHDRAWN, coming_from=OPEN_STATES, actor=actor, now=now, answer=answer)
            return _create(connection, names, reason, actor, now)
    except IntegrityError:
        return connection.consent_requests.get(closed_at=None)


def _create(connection: Connection, names: tuple[str, ...], reason: str, actor: User, now: datetime) -> ConsentRequest:
    tenant = connection.tenant
    directory = tenant.tid or tenant.directory_id
    if tenant.is_shared_endpoint and connection.account_tid:
        directory = connection.account_tid
    request = ConsentRequest.objects.create(
        connection=connection,
        connection_name=connection.name,
        app_registration=connection.app_registration,
        directory_id=directory.lower(),
        authentication_type=connection.authentication_type,
        capabilities=list(connection.capabilities),
        permissions=" ".join(names),
        reason=reason,
        requester=actor,
        requester_name=str(actor),
        asked_at=now,
    )
    changes = {
        "app_registration": str(connection.app_registration),
        "directory_id": request.directory_id,
        "permissions": request.permissions,
        "reason": reason,
    }
    audit.record(AuditAction.CONSENT_REQUEST_ASKED, request, actor=actor, changes=changes)
    approved = same_requests(request).filter(state=State.APPROVED).select_related("link__app_registration__tenant")
    for other in approved:
        if other.link is not None and admin_consent.consent_url(other.link, now=now):
            _mark_approved(request, other.link, actor=other.decided_by, now=now)
            return request
    message = alerts.Message(
        subject=f"{request.requester_name} requests consent: {request.connection_name}",
        paragraphs=(
            f"“{request.reason}”",
            "Only an administrator can grant the permissions that this connection needs.",
        ),
        path=f"/requests/{request.pk}/",
        button="Review request",
        why="You received this email because you're an IT admin.",
        facts=(
            ("Requested by", request.requester_name),
            ("Connection", request.connection_name),
            ("App registration", str(request.app_registration)),
            ("Permissions", ", ".join(request.permission_names)),
        ),
    )
    alerts.notify_it_admins(message, about=f"consent-request:{request.pk}:asked", now=now)
    return request


def same_requests(request: ConsentRequest) -> QuerySet[ConsentRequest]:
    """Return the other open requests for the same permissions, application and directory."""
    return ConsentRequest.objects.filter(
        app_registration=request.app_registration_id,
        directory_id=request.directory_id,
        authentication_type=request.authentication_type,
        permissions=request.permissions,
        closed_at=None,
    ).exclude(pk=request.pk)


def awaiting_decision(now: datetime) -> QuerySet[ConsentRequest]:
    """Return the requests that an IT admin needs to act on: new ones, failed ones, and those whose link has expired."""
    expired = Q(state=State.APPROVED) & (Q(link=None) | Q(link__requested_at__lte=now - admin_consent.VALID_FOR))
    return ConsentRequest.objects.filter(Q(state__in=(State.ASKED, State.FAILED)) | expired, closed_at=None)


def approve(request: ConsentRequest, *, reason: str = "", actor: User, now: datetime) -> tuple[ConsentRequest, str]:
    """Approve the request and all others for the same permissions; return it with the URL of the consent link.

    The requesters see the ``reason``. An expired link is replaced. Raises NotAllowed, DecidedMeanwhile or InvalidInput.
    """
    roles.require(access_permissions.can_manage_registry(actor), action="Ask an IT admin.")
    with transaction.atomic():
        current, others = _lock_with_same(request)
        if current.state not in _UNDECIDED:
            raise _decided_meanwhile(current)
        # Application permissions can only be requested all together, which is what () means. Delegated requests include
        # the sign-in's own scopes, because these need admin consent too where people may not consent for themselves.
        app_only = current.authentication_type == AuthenticationType.CLIENT_CREDENTIALS
        scopes = () if app_only else capabilities.sign_in_scopes((), current.permissions)
        link, url = admin_consent.start(
            current.app_registration, scopes=scopes, directory_id=current.directory_id, actor=actor
        )
        for row in (current, *others):
            if row.state != State.APPROVED or row.link_id != link.pk or reason.strip():
                _mark_approved(row, link, reason=reason.strip()[:LONGEST_TEXT], actor=actor, now=now)
    return current, url


def _mark_approved(
    request: ConsentRequest, link: ConsentLink, *, reason: str = "", actor: User | None, now: datetime
) -> None:
    facts = {"reason": reason} if reason else None
    values = {**request_workflow.decided(actor, now), "link": link, "answer": reason, "facts": facts}
    if move(request, State.APPROVED, coming_from=_UNDECIDED, actor=actor, now=now, **values):
        request_status.notify_requester(
            request,
            f"approved:{link.pk}",
            now=now,
            subject=f"Approved: consent for {request.connection_name}",
            paragraphs=(
                f"{request.decided_by_name or 'An IT admin'} approved your request.",
                *([f"“{reason}”"] if reason else []),
                "An administrator of the directory now needs to accept it at Microsoft. After that, sign in on the "
                "connection's page.",
            ),
            tone="ok",
        )


def decline(
    request: ConsentRequest, *, reason: str, and_same: bool = False, actor: User, seen: str, now: datetime
) -> ConsentRequest:
    """Decline the request and, with ``and_same``, all others for the same permissions. Returns the request.

    ``seen`` is the state that the actor saw. Raises NotAllowed, InvalidInput or DecidedMeanwhile.
    """
    roles.require(access_permissions.can_manage_registry(actor), action="Ask an IT admin.")
    reason = reason.strip()
    if not reason or len(reason) > LONGEST_TEXT:
        raise InvalidInput("Enter a reason. The requester will see it.", field="reason")
    with transaction.atomic():
        current, others = _lock_with_same(request)
        if current.state == State.DECLINED and seen in _UNDECIDED and current.decided_by_id == actor.pk:
            return current
        if current.state not in _UNDECIDED or current.state != seen:
            raise _decided_meanwhile(current)
        values = {**request_workflow.decided(actor, now), "facts": {"reason": reason}, "answer": reason}
        for row in (current, *others) if and_same else (current,):
            if move(row, State.DECLINED, coming_from=_UNDECIDED, actor=actor, now=now, **values):
                request_status.notify_requester(
                    row,
                    "declined",
                    now=now,
                    subject=f"Declined: consent for {row.connection_name}",
                    paragraphs=(f"{actor} declined your request:", f"“{reason}”"),
                    tone="broken",
                )
    return current


def withdraw(request: ConsentRequest, *, actor: User, now: datetime) -> None:
    """Withdraw the actor's own request. Safe to repeat. Raises NotAllowed or DecidedMeanwhile."""
    roles.require(
        access_permissions.can_withdraw_consent_request(actor, request), action="Only the requester can withdraw it."
    )
    with transaction.atomic():
        current = ConsentRequest.objects.select_for_update().get(pk=request.pk)
        if current.state == State.WITHDRAWN:
            return
        if not move(current, State.WITHDRAWN, coming_from=OPEN_STATES, actor=actor, now=now):
            raise _decided_meanwhile(current)


def _lock_with_same(request: ConsentRequest) -> tuple[ConsentRequest, list[ConsentRequest]]:
    """Lock and reload the request and all undecided ones for the same permissions, in ID order."""
    group = ConsentRequest.objects.filter(Q(pk=request.pk) | Q(pk__in=same_requests(request).values("pk")))
    locked = group.select_for_update(of=("self",)).order_by("pk")
    rows = list(locked.select_related("app_registration__tenant", "requester__alert_choice"))
    current = next(row for row in rows if row.pk == request.pk)
    return current, [row for row in rows if row is not current and row.state in _UNDECIDED]


def _decided_meanwhile(request: ConsentRequest) -> DecidedMeanwhile:
    name = request.decided_by_name or request.requester_name
    state = request.get_state_display().lower()
    return DecidedMeanwhile(f"This request was changed in the meantime. Its status is now: {state} ({name}).")


def purposes(source: ConsentRequest | Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Return the permissions grouped by the labels of the capabilities that need them.

    They are the request's permissions or, for a connection, those that it would request now.
    """
    names = source.permission_names if isinstance(source, ConsentRequest) else _required_permissions(source)
    rows = list[tuple[str, tuple[str, ...]]]()
    for capability in filter(None, map(capabilities.CAPABILITIES.get, source.capabilities)):
        needed = capabilities.needs(capability, source.authentication_type)
        if needed_names := tuple(name for name in names if name in needed):
            rows.append((capability.label, needed_names))
    rest = tuple(name for name in names if not any(name in covered for _, covered in rows))
    return [*rows, ("Additional permissions", rest)] if rest else rows
