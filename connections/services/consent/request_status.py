"""What became of consent requests: what a link's answer, a token, or the end of a connection means for them.

A callback only says that Microsoft claims something; a request is verified by the permissions in a token of its own
connection, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from connections import audit
from connections.microsoft import capabilities, permissions
from connections.models import Connection, ConsentLink, ConsentRequest, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.services.notifications import alerts

State = ConsentRequest.State


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
    """Take a request to another state, with its audit event; whether it was still in one of ``coming_from``.

    Of two that decide at once, one gets False. ``facts`` go into the event, ``values`` into the row.
    """
    before = request.state
    values |= {"state": state, "closed_at": now if state in ConsentRequest.CLOSED else None}
    with transaction.atomic():
        if not ConsentRequest.objects.filter(pk=request.pk, state__in=coming_from).update(**values):
            return False
        changes = {"state": [before, str(state)], **(facts or {})}
        audit.record(AuditAction(f"consent_request.{state}"), request, actor=actor, changes=changes)
    for name, value in values.items():
        setattr(request, name, value)
    return True


# --- Links ----------------------------------------------------------------------------------------


def link_answered(link: ConsentLink, *, actor: User | None, now: datetime) -> None:
    """Microsoft's callback has answered the link: its requests go on to "granted", or have failed."""
    granted = link.state == ConsentLink.State.GRANTED
    for request in _of(link, State.APPROVED):
        if granted:
            if move(request, State.GRANTED, coming_from=(State.APPROVED,), actor=actor, now=now, answer=""):
                _tell_granted(request, now=now)
        elif move(request, State.FAILED, coming_from=(State.APPROVED,), actor=actor, now=now, answer=link.cause):
            _tell_failed(request, link, now=now)


def link_verified(link: ConsentLink, *, seen: Iterable[str], now: datetime) -> None:
    """A token has shown that the link's consent is there; whoever waits can sign in, app-only requests are done."""
    found = tuple(seen)
    for request in _of(link, State.APPROVED, State.GRANTED):
        if request.authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
            _judge(request, found, now=now)
        elif move(request, State.GRANTED, coming_from=(State.APPROVED,), actor=None, now=now, answer=""):
            _tell_granted(request, now=now)


def _of(link: ConsentLink, *states: str) -> Iterable[ConsentRequest]:
    return link.requests.filter(state__in=states).select_related("requester__alert_choice", "decided_by__alert_choice")


# --- Tokens ---------------------------------------------------------------------------------------


def tokens_received(connections: Iterable[int], *, now: datetime) -> None:
    """These connections have just got tokens: open requests of theirs are verified, or say what is still missing."""
    waiting = ConsentRequest.objects.filter(connection__in=list(connections), closed_at=None)
    for request in without_tokens(waiting.select_related("connection", "link", "requester__alert_choice")):
        assert request.connection is not None  # noqa: S101 - that is how it was found
        _judge(request, tuple(request.connection.granted), now=now)


def _judge(request: ConsentRequest, granted: tuple[str, ...], *, now: datetime) -> None:
    lacks = capabilities.missing(request.permission_names, granted)
    if not lacks:
        facts = {"permissions": request.permissions}
        open_states = set(State.values) - set(ConsentRequest.CLOSED)
        if move(request, State.VERIFIED, coming_from=open_states, actor=None, now=now, facts=facts, answer=""):
            _close_link(request, now=now)
            _tell_verified(request, now=now)
        return
    if request.state == State.GRANTED:
        answer = f"Microsoft's newest token still lacks {', '.join(lacks)}."
        ConsentRequest.objects.filter(pk=request.pk, state=State.GRANTED).update(answer=answer)
        request.answer = answer


def _close_link(request: ConsentRequest, *, now: datetime) -> None:
    """A link nobody has answered here is done, too, if only an administrator can have granted what the token shows."""
    known = permissions.CATALOGUE
    if request.link_id and any(name in known and known[name].admin_only for name in request.permission_names):
        ConsentLink.objects.filter(pk=request.link_id, state=ConsentLink.State.OPEN).update(
            state=ConsentLink.State.VERIFIED, verified_at=now, cause=f"A token carries {request.permissions}."
        )


# --- The end of a connection ----------------------------------------------------------------------


def connection_removed(connection: Connection, *, actor: User, now: datetime) -> None:
    """Nobody needs consent for it any more. Call it before the connection is deleted."""
    open_states = set(State.values) - set(ConsentRequest.CLOSED)
    for request in connection.consent_requests.filter(closed_at=None):
        answer = "The connection was removed."
        move(request, State.WITHDRAWN, coming_from=open_states, actor=actor, now=now, answer=answer)


# --- Telling the requester ------------------------------------------------------------------------

_WHY = "You get this because you asked an IT admin for it."


def notify_requester(request: ConsentRequest, occasion: str, *, now: datetime, **words: Any) -> None:
    """Tell whoever asked, once for each occasion."""
    if request.requester is None:
        return
    facts = (("Connection", request.connection_name), ("Permissions", ", ".join(request.permission_names)))
    message = alerts.Message(
        path=f"/requests/{request.pk}/", why=_WHY, facts=facts, **({"button": "Look at the request"} | words)
    )
    alerts.notify([request.requester], message, about=f"consent-request:{request.pk}:{occasion}", now=now)


def _tell_granted(request: ConsentRequest, *, now: datetime) -> None:
    delegated = request.authentication_type == AuthenticationType.AUTHORIZATION_CODE
    then = (
        "Sign in for the connection now; Microsoft does not ask you for approval any more."
        if delegated
        else "The portal looks for it in the next token; nothing is left for you to do."
    )
    # A second link may be granted after a first one whose consent did not come through.
    notify_requester(
        request,
        f"granted:{request.link_id}",
        now=now,
        subject=f"Consent is granted: {request.connection_name}",
        paragraphs=(f"An administrator has granted what {request.connection_name} needs.", then),
        button="Sign in now" if delegated else "Look at the request",
        tone="ok",
    )


def _tell_verified(request: ConsentRequest, *, now: datetime) -> None:
    connected_at = request.connection.connected_at if request.connection else None
    if connected_at is not None and connected_at >= now:
        return  # whoever asked has just signed in and sees it
    notify_requester(
        request,
        "verified",
        now=now,
        subject=f"Done: {request.connection_name} has the permissions you asked for",
        paragraphs=("Its newest token carries them. Nothing is left for you to do.",),
        tone="ok",
    )


def _tell_failed(request: ConsentRequest, link: ConsentLink, *, now: datetime) -> None:
    """The IT admin who made the link: it is theirs to find another way."""
    if request.decided_by is None:
        return
    message = alerts.Message(
        subject=f"No consent for {request.connection_name}",
        paragraphs=(link.cause, f"What to do: {link.action}" if link.action else ""),
        path=f"/requests/{request.pk}/",
        button="Look at the request",
        why="You get this because you approved the request.",
        tone="broken",
    )
    alerts.notify([request.decided_by], message, about=f"consent-request:{request.pk}:failed:{link.pk}", now=now)
