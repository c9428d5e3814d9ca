"""Update consent requests after their link's callback, after a new token, or when their connection is removed.

Microsoft's callback proves nothing. A request is verified only by the permissions in its own connection's token.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from connections.microsoft import capabilities, permissions
from connections.models import Connection, ConsentLink, ConsentRequest, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.services.notifications import alerts
from connections.services.policy import request_workflow

State = ConsentRequest.State
OPEN_STATES = tuple(state for state in State if state not in ConsentRequest.CLOSED)


def move(
    request: ConsentRequest,
    state: str,
    *,
    coming_from: Collection[str],
    actor: User | None,
    now: datetime,
    facts: dict[str, Any] | None = None,
    **values: Any,
) -> bool:
    """Move a request to ``state`` and audit ``facts``.

    Returns False if its state is no longer one of ``coming_from``.
    """
    return request_workflow.change_state(
        request,
        AuditAction(f"consent_request.{state}"),
        coming_from=coming_from,
        actor=actor,
        changes={"state": [request.state, str(state)], **(facts or {})},
        state=state,
        closed_at=now if state in ConsentRequest.CLOSED else None,
        **values,
    )


def link_answered(link: ConsentLink, *, actor: User | None, now: datetime) -> None:
    for request in _requests_of(link, State.APPROVED):
        if link.state == ConsentLink.State.GRANTED:
            _mark_granted(request, actor=actor, now=now)
        elif move(request, State.FAILED, coming_from=(State.APPROVED,), actor=actor, now=now, answer=link.cause):
            _notify_failed(request, link, now=now)


def link_incomplete(link: ConsentLink, *, now: datetime) -> None:
    """Mark requests as failed if the grant lacks their permissions, so that an IT admin can approve them again."""
    for request in _requests_of(link, State.APPROVED, State.GRANTED):
        missing = link.missing.split() if link.state == ConsentLink.State.PARTIAL else request.permission_names
        names = [name for name in request.permission_names if name in missing]
        if not names:
            continue
        answer = f"Microsoft reported consent, but these permissions weren't granted: {', '.join(names)}."
        if move(request, State.FAILED, coming_from=(State.APPROVED, State.GRANTED), actor=None, now=now, answer=answer):
            _notify_failed(request, link, now=now)


def link_verified(link: ConsentLink, *, seen: Iterable[str], now: datetime) -> None:
    """Update the link's requests after a token with the permissions ``seen``.

    Delegated requests are marked as granted, and app-only ones are compared with these permissions.
    """
    granted = tuple(seen)
    for request in _requests_of(link, State.APPROVED, State.GRANTED, State.FAILED):
        if request.authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
            _check_granted(request, granted, now=now)
        else:
            _mark_granted(request, actor=None, now=now)


def _requests_of(link: ConsentLink, *states: str) -> Iterable[ConsentRequest]:
    return link.requests.filter(state__in=states).select_related("requester__alert_choice", "decided_by__alert_choice")


def tokens_received(connections: Iterable[int], *, now: datetime) -> None:
    """Check the open requests of these connections against their new tokens."""
    waiting = ConsentRequest.objects.filter(connection__in=list(connections), closed_at=None)
    for request in without_tokens(waiting.select_related("connection", "link", "requester__alert_choice")):
        assert request.connection is not None  # noqa: S101 - filtered
        _check_granted(request, tuple(request.connection.granted), now=now)


def _check_granted(request: ConsentRequest, granted: tuple[str, ...], *, now: datetime) -> None:
    """Mark the request as verified if ``granted`` contains all its permissions. Otherwise, record the missing ones."""
    missing = capabilities.missing(request.permission_names, granted)
    if missing:
        if request.state == State.GRANTED:
            request.answer = f"Microsoft's latest token is still missing {', '.join(missing)}."
            ConsentRequest.objects.filter(pk=request.pk, state=State.GRANTED).update(answer=request.answer)
        return
    facts = {"permissions": request.permissions}
    if move(request, State.VERIFIED, coming_from=OPEN_STATES, actor=None, now=now, facts=facts, answer=""):
        catalogue, names = permissions.CATALOGUE, request.permission_names
        # If only an administrator can have granted this, the link is verified too, even without a callback.
        if request.link_id and any(name in catalogue and catalogue[name].admin_only for name in names):
            unverified = (ConsentLink.State.OPEN, ConsentLink.State.GRANTED, ConsentLink.State.PARTIAL)
            ConsentLink.objects.filter(pk=request.link_id, state__in=unverified).update(
                state=ConsentLink.State.VERIFIED,
                verified_at=now,
                cause=f"A token carries {request.permissions}.",
                action="",
                missing="",
                check_after=None,
            )
        _notify_verified(request, now=now)


def connection_removed(connection: Connection, *, actor: User, now: datetime) -> None:
    for request in connection.consent_requests.filter(closed_at=None):
        answer = "The connection was removed."
        move(request, State.WITHDRAWN, coming_from=OPEN_STATES, actor=actor, now=now, answer=answer)


def notify_requester(
    request: ConsentRequest, occasion: str, *, now: datetime, button: str = "View request", **words: Any
) -> None:
    if request.requester is None:
        return
    message = alerts.Message(
        path=f"/requests/{request.pk}/",
        button=button,
        why="You received this email because you sent this request.",
        facts=(("Connection", request.connection_name), ("Permissions", ", ".join(request.permission_names))),
        **words,
    )
    alerts.notify([request.requester], message, about=f"consent-request:{request.pk}:{occasion}", now=now)


def _mark_granted(request: ConsentRequest, *, actor: User | None, now: datetime) -> None:
    if not move(request, State.GRANTED, coming_from=(State.APPROVED,), actor=actor, now=now, answer=""):
        return
    button = "View request"
    next_step = "The portal is checking it. We'll email you the result. No action needed."
    if request.authentication_type == AuthenticationType.AUTHORIZATION_CODE:
        button = "Sign in"
        next_step = "Sign in for the connection now. The portal then checks the permissions in the token."
    notify_requester(
        request,
        f"granted:{request.link_id}",  # a second link may be granted if the first one did not help
        now=now,
        subject=f"Consent reported: {request.connection_name}",
        paragraphs=(
            f"An administrator reported granting the permissions that {request.connection_name} needs.",
            next_step,
        ),
        button=button,
    )


def _notify_verified(request: ConsentRequest, *, now: datetime) -> None:
    connected_at = request.connection.connected_at if request.connection else None
    if connected_at is not None and connected_at >= now:
        return  # the requester is signing in right now and sees the result
    notify_requester(
        request,
        "verified",
        now=now,
        subject=f"Completed: {request.connection_name} has the requested permissions",
        paragraphs=("Its latest token contains them. No action needed.",),
        tone="ok",
    )


def _notify_failed(request: ConsentRequest, link: ConsentLink, *, now: datetime) -> None:
    """Email the requester and the IT admin who approved the request, so that they can try another way."""
    notify_requester(
        request,
        f"failed:{link.pk}",
        now=now,
        subject=f"Not granted: consent for {request.connection_name}",
        paragraphs=(request.answer, "An IT admin can review the request and approve it again."),
        tone="broken",
    )
    if request.decided_by is None:
        return
    message = alerts.Message(
        subject=f"Consent failed: {request.connection_name}",
        paragraphs=(request.answer, f"What to do: {link.action}" if link.action else ""),
        path=f"/requests/{request.pk}/",
        button="View request",
        why="You received this email because you approved the request.",
        tone="broken",
    )
    alerts.notify([request.decided_by], message, about=f"consent-request:{request.pk}:failed:{link.pk}", now=now)
