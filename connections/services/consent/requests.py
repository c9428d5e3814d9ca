"""Consent requests: a member asks, an IT admin approves with a link or declines with a reason.

What comes of an approved one is in consent_outcomes; the link itself in consent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
from connections.services.consent.request_status import move
from connections.services.notifications import alerts
from connections.services.policy import approvals, permission_drift

State = ConsentRequest.State

LONGEST_TEXT = 2000
_UNDECIDED = (State.ASKED, State.APPROVED, State.FAILED)
_OPEN = (*_UNDECIDED, State.GRANTED)


class DecidedMeanwhile(PortalError):
    """The request is no longer in the state the person saw when deciding."""

    code = "decided_meanwhile"
    status = 409
    cause = "Somebody else has decided about this request in the meantime."
    action = "Look at it again."


# --- Asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequiredConsent:
    """What an administrator has to grant for a connection."""

    permissions: tuple[str, ...]  # short names, sorted
    directory_id: str


def required_consent(connection: Connection) -> RequiredConsent:
    """Exactly what the connection asks for and has not got.

    Where the last token showed everything and Microsoft says no all the same, consent was withdrawn: then it is all
    that the connection needs.
    """
    wanted = permission_drift.required_permissions(connection)
    lacks = capabilities.missing(wanted, connection.granted) if connection.connected_at else wanted
    tenant = connection.app_registration.tenant
    directory = tenant.tid or tenant.directory_id
    if tenant.is_shared_endpoint and connection.account_tid:
        directory = connection.account_tid
    return RequiredConsent(tuple(sorted(lacks or wanted)), directory.lower())


def request_consent(connection: Connection, *, reason: str, actor: User, now: datetime) -> ConsentRequest:
    """Ask the IT admins to have granted what the connection lacks, and tell them once.

    While a request for the same is open, it is returned; one for other permissions is replaced. Where a link for the
    same permissions is out already, the request joins it. What our own policy forbids or still has to be approved is not
    asked of Microsoft's administrators. Raises NotAllowed, InvalidInput, PolicyForbids, ApprovalNeeded.
    """
    reason = reason.strip()
    try:
        with transaction.atomic():
            # Two that ask at once stand in line here; where the database has no row locks, its constraint decides.
            if not Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).exists():
                raise InvalidInput("The connection was removed in the meantime.", action="Nothing was asked.")
            connection.refresh_from_db(fields=["owner"])
            roles.require(
                access_permissions.can_ask_consent(actor, connection), action="Only who signs in for it can ask."
            )
            approvals.require_sign_in(connection)
            if not reason or len(reason) > LONGEST_TEXT:
                raise InvalidInput("Say in a few sentences what you need it for.", field="reason")
            wanted = required_consent(connection)
            current = connection.consent_requests.filter(closed_at=None).first()
            if current is not None and current.permission_names == wanted.permissions:
                return current
            if current is not None:
                answer = "Replaced by a request for other permissions."
                move(current, State.WITHDRAWN, coming_from=_OPEN, actor=actor, now=now, answer=answer)
            return _new(connection, wanted, reason, actor, now)
    except IntegrityError:
        return connection.consent_requests.get(closed_at=None)


def _new(connection: Connection, wanted: RequiredConsent, reason: str, actor: User, now: datetime) -> ConsentRequest:
    consent_request = ConsentRequest.objects.create(
        connection=connection,
        connection_name=connection.name,
        app_registration=connection.app_registration,
        directory_id=wanted.directory_id,
        authentication_type=connection.authentication_type,
        capabilities=list(connection.capabilities),
        permissions=" ".join(wanted.permissions),
        reason=reason,
        requester=actor,
        requester_name=str(actor),
        asked_at=now,
    )
    audit.record(
        AuditAction.CONSENT_REQUEST_ASKED,
        consent_request,
        actor=actor,
        changes={
            "app_registration": str(connection.app_registration),
            "directory_id": consent_request.directory_id,
            "permissions": consent_request.permissions,
            "reason": reason,
        },
    )
    before = _link_that_is_out(consent_request, now=now)
    if before is not None and before.link is not None:
        _approved(consent_request, before.link, actor=before.decided_by, now=now)
    else:
        alerts.notify_it_admins(
            _question(consent_request), about=f"consent-request:{consent_request.pk}:asked", now=now
        )
    return consent_request


def _link_that_is_out(consent_request: ConsentRequest, *, now: datetime) -> ConsentRequest | None:
    """A request for the same whose link can still be used."""
    out = (
        same_requests(consent_request)
        .filter(state=State.APPROVED, link__isnull=False)
        .select_related("link__app_registration__tenant")
    )
    return next((one for one in out if one.link and admin_consent.consent_url(one.link, now=now)), None)


def _question(consent_request: ConsentRequest) -> alerts.Message:
    return alerts.Message(
        subject=f"{consent_request.requester_name} asks for consent: {consent_request.connection_name}",
        paragraphs=(
            f"“{consent_request.reason}”",
            "Microsoft lets only an administrator grant what this connection needs.",
        ),
        path=f"/requests/{consent_request.pk}/",
        button="Approve or decline",
        why="You get this because you are an IT admin.",
        facts=(
            ("Asked by", consent_request.requester_name),
            ("Connection", consent_request.connection_name),
            ("App registration", str(consent_request.app_registration)),
            ("Permissions", ", ".join(consent_request.permission_names)),
        ),
    )


# --- Looking --------------------------------------------------------------------------------------


def same_requests(request: ConsentRequest) -> QuerySet[ConsentRequest]:
    """The other open requests for the same permissions of the application in the directory."""
    consent_requests = ConsentRequest.objects.filter(
        app_registration=request.app_registration_id,
        directory_id=request.directory_id,
        authentication_type=request.authentication_type,
        permissions=request.permissions,
        closed_at=None,
    )
    return consent_requests.exclude(pk=request.pk)


def awaiting_decision(now: datetime) -> QuerySet[ConsentRequest]:
    """Requests that wait for an IT admin: new ones, failed ones, and those whose link has run out."""
    run_out = Q(state=State.APPROVED) & (Q(link=None) | Q(link__requested_at__lte=now - admin_consent.VALID_FOR))
    return ConsentRequest.objects.filter(Q(state__in=(State.ASKED, State.FAILED)) | run_out, closed_at=None)


# --- Deciding -------------------------------------------------------------------------------------


def approve(request: ConsentRequest, *, actor: User, now: datetime) -> tuple[ConsentRequest, str]:
    """Approve it, and with it all that ask for the same; returns it with the link that asks for exactly that.

    Approving again hands the same link out, or a new one if the old has run out or failed. Raises NotAllowed,
    DecidedMeanwhile, InvalidInput.
    """
    roles.require(access_permissions.can_manage_registry(actor), action="Ask an IT admin.")
    with transaction.atomic():
        current, others = _locked_with_same(request)
        if current.state not in _UNDECIDED:
            raise _too_late(current)
        link, url = admin_consent.start(
            current.app_registration, scopes=_scopes(current), directory_id=current.directory_id, actor=actor
        )
        for one in (current, *others):
            if one.state != State.APPROVED or one.link_id != link.pk:
                _approved(one, link, actor=actor, now=now)
    return current, url


def _scopes(request: ConsentRequest) -> tuple[str, ...]:
    """What the link asks for. Application permissions can only be asked for as a whole, which is ``()``.

    The sign-in's own scopes go along: where nobody may consent for themselves, they would be stopped at these.
    """
    if request.authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
        return ()
    return capabilities.sign_in_scopes((), request.permissions)


def _approved(request: ConsentRequest, link: ConsentLink, *, actor: User | None, now: datetime) -> None:
    moved = move(
        request,
        State.APPROVED,
        coming_from=_UNDECIDED,
        actor=actor,
        now=now,
        link=link,
        decided_by=actor,
        decided_by_name=str(actor or ""),
        decided_at=now,
        answer="",
    )
    if moved:
        request_status.notify_requester(
            request,
            f"approved:{link.pk}",
            now=now,
            subject=f"Approved: consent for {request.connection_name}",
            paragraphs=(
                f"{request.decided_by_name or 'An IT admin'} has approved your request.",
                "An administrator of the directory must now accept it at Microsoft. After that, sign in for the "
                "connection; its page has the button.",
            ),
            tone="ok",
        )


def decline(
    request: ConsentRequest, *, reason: str, and_same: bool = False, actor: User, seen: str, now: datetime
) -> ConsentRequest:
    """Say no, with a reason the requester reads; ``and_same`` answers all who ask for the same alike.

    ``seen`` is the state it was in when the decision was taken. Raises NotAllowed, InvalidInput, DecidedMeanwhile.
    """
    roles.require(access_permissions.can_manage_registry(actor), action="Ask an IT admin.")
    reason = reason.strip()
    if not reason or len(reason) > LONGEST_TEXT:
        raise InvalidInput("Say why, so that they know what to do instead.", field="reason")
    with transaction.atomic():
        current, others = _locked_with_same(request)
        if current.state == State.DECLINED and seen in _UNDECIDED and current.decided_by_id == actor.pk:
            return current
        if current.state not in _UNDECIDED or current.state != seen:
            raise _too_late(current)
        for one in (current, *others) if and_same else (current,):
            _declined(one, reason, actor=actor, now=now)
    return current


def _declined(request: ConsentRequest, reason: str, *, actor: User, now: datetime) -> None:
    moved = move(
        request,
        State.DECLINED,
        coming_from=_UNDECIDED,
        actor=actor,
        now=now,
        facts={"reason": reason},
        decided_by=actor,
        decided_by_name=str(actor),
        decided_at=now,
        answer=reason,
    )
    if moved:
        request_status.notify_requester(
            request,
            "declined",
            now=now,
            subject=f"Declined: consent for {request.connection_name}",
            paragraphs=(f"{actor} has declined your request:", f"“{reason}”"),
            tone="broken",
        )


def withdraw(request: ConsentRequest, *, actor: User, now: datetime) -> None:
    """Take one's own request back. Doing it twice is harmless. Raises NotAllowed, DecidedMeanwhile."""
    roles.require(
        access_permissions.can_withdraw_consent_request(actor, request), action="Only who asked can take it back."
    )
    with transaction.atomic():
        current = ConsentRequest.objects.select_for_update().get(pk=request.pk)
        if current.state == State.WITHDRAWN:
            return
        if not move(current, State.WITHDRAWN, coming_from=_OPEN, actor=actor, now=now):
            raise _too_late(current)


def _locked_with_same(request: ConsentRequest) -> tuple[ConsentRequest, list[ConsentRequest]]:
    """The request as it is now, and the undecided ones for the same; locked in one order, whoever asks."""
    group = ConsentRequest.objects.filter(Q(pk=request.pk) | Q(pk__in=same_requests(request).values("pk")))
    locked = group.select_for_update(of=("self",)).order_by("pk")
    rows = list(locked.select_related("app_registration__tenant", "requester__alert_choice"))
    current = next(row for row in rows if row.pk == request.pk)
    return current, [row for row in rows if row is not current and row.state in _UNDECIDED]


def _too_late(current: ConsentRequest) -> DecidedMeanwhile:
    by = current.decided_by_name or current.requester_name
    said = current.get_state_display().lower()
    return DecidedMeanwhile(f"This request has changed in the meantime. It is now: {said} ({by}).")


# --- Words ----------------------------------------------------------------------------------------


def purposes(request: ConsentRequest) -> list[tuple[str, tuple[str, ...]]]:
    """What the permissions are for: capability in words, and those of the permissions asked for that it takes."""
    return _purposes(request.capabilities, request.permission_names, request.authentication_type)


def purposes_of_connection(connection: Connection) -> list[tuple[str, tuple[str, ...]]]:
    """The same for what would be asked for now."""
    return _purposes(connection.capabilities, required_consent(connection).permissions, connection.authentication_type)


def _purposes(
    keys: Iterable[str], permissions: tuple[str, ...], authentication_type: str
) -> list[tuple[str, tuple[str, ...]]]:
    found, named = list[tuple[str, tuple[str, ...]]](), set[str]()
    for key in keys:
        capability = capabilities.CAPABILITIES.get(key)
        needed = capabilities.needs(capability, authentication_type) if capability else ()
        mine = tuple(name for name in permissions if name in needed)
        if capability and mine:
            found.append((capability.label, mine))
            named |= set(mine)
    rest = tuple(name for name in permissions if name not in named)
    return [*found, ("Asked for by name", rest)] if rest else found
