"""Actions on a connection: check, connect, disable, enable."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router

from connections.api import authentication, problems
from connections.api.connections import ConnectionOut
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.services.connections import connections
from connections.services.tokens import scheduler

router = Router(tags=["Connections"])


@router.post(
    "/connections/{ref}/check",
    response={200: ConnectionOut} | problems.responses(503),
    summary="Check a connection now",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def check_connection(request: HttpRequest, ref: str) -> Any:
    """Ask Microsoft whether it is alive, and answer how it then stands."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    checked = scheduler.check_now(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(checked.pk))


@router.post(
    "/connections/{ref}/connect",
    response={200: ConnectionOut} | problems.responses(503),
    summary="Finish an app-only connection",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def connect_connection(request: HttpRequest, ref: str) -> Any:
    """Get the first token of one that waited for its approval. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connected = connections.finish_app_only(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connected.pk))


@router.post("/connections/{ref}/disable", response=ConnectionOut, summary="Disable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def disable_connection(request: HttpRequest, ref: str) -> Any:
    """Stop using it; its grant is kept. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.disable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))


@router.post("/connections/{ref}/enable", response=ConnectionOut, summary="Enable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def enable_connection(request: HttpRequest, ref: str) -> Any:
    """Use a disabled one again. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.enable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))
