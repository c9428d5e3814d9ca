"""What can be done with a connection besides changing it: check, connect, switch off and on."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router

from connections.api import authentication, problems
from connections.api.connections import ConnectionOut, describe
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.models import ApiKey, Connection
from connections.services.connections import app_only, connections
from connections.services.tokens import scheduler

router = Router(tags=["Connections"])
_DONE = {200: ConnectionOut} | problems.responses(404, *problems.CREATING)
_ASKED = {200: ConnectionOut} | problems.responses(404, *problems.CREATING, 503)


@router.post("/connections/{ref}/check", response=_ASKED, summary="Check a connection now")
@idempotent(Scope.CONNECTIONS_WRITE)
def check_connection(request: HttpRequest, ref: str) -> Any:
    """Ask Microsoft whether it is alive, and answer how it then stands."""
    key, found = _found(request, ref)
    return _told(key, scheduler.check_now(found, actor=key.owner, now=timezone.now()))


@router.post("/connections/{ref}/connect", response=_ASKED, summary="Finish an app-only connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def connect_connection(request: HttpRequest, ref: str) -> Any:
    """Get the first token of one that waited for its approval. Doing it twice is harmless."""
    key, found = _found(request, ref)
    return _told(key, app_only.finish(found, actor=key.owner, now=timezone.now()))


@router.post("/connections/{ref}/disable", response=_DONE, summary="Disable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def disable_connection(request: HttpRequest, ref: str) -> Any:
    """Stop using it; its grant is kept. Doing it twice is harmless."""
    key, found = _found(request, ref)
    connections.disable(found, actor=key.owner, now=timezone.now())
    return _told(key, found)


@router.post("/connections/{ref}/enable", response=_DONE, summary="Enable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def enable_connection(request: HttpRequest, ref: str) -> Any:
    """Use a disabled one again. Doing it twice is harmless."""
    key, found = _found(request, ref)
    connections.enable(found, actor=key.owner, now=timezone.now())
    return _told(key, found)


def _found(request: HttpRequest, ref: str) -> tuple[ApiKey, Connection]:
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    return key, authentication.find_connection(key, ref)


def _told(key: ApiKey, connection: Connection) -> dict[str, Any]:
    return describe(authentication.find_connection(key, str(connection.pk)))
