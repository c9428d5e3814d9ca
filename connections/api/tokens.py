"""The view for the token route, which answers what token_endpoint.py leaves to it. It never waits for a refresh."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections import audit
from connections.access import permissions, querysets
from connections.api import authentication, http_methods, problems
from connections.api.connections import link_of
from connections.errors import ConnectionUnusable, NotAllowed, PortalError, TokenUnavailable
from connections.models import ApiKey, Connection
from connections.services.api_keys import api_keys
from connections.services.incidents import incidents
from connections.services.tokens import fetch, single_flight
from connections.services.tokens.fetch import Refresh
from connections.services.tokens.single_flight import TokenRequirement

router = Router(tags=["Tokens"])
LONGEST_VALIDITY = 3600
# The entry in request.META that says whether the token endpoint tried to refresh the token before it called this view.
REFRESH = "portal.refresh"


class TokenOut(Schema):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_at: datetime
    scope: str
    id: str = Field(description="Names this token without telling it: what `refused` takes.")


class TokenWanted(Schema):
    min_valid: int = Field(300, ge=0, le=LONGEST_VALIDITY, description="Seconds the token must last at least.")
    refused: str = Field(
        "",
        pattern="^([0-9a-f]{32})?$",
        description="The `id` of a token that Microsoft did not accept, though its time is not over: another one is wanted.",
    )


@router.get(
    "/connections/{ref}/token", response={200: TokenOut} | problems.responses(404, 409, 503), summary="Fetch a token"
)
def fetch_token(request: HttpRequest, response: HttpResponse, ref: str, wanted: Query[TokenWanted]) -> Any:
    """A valid access token. Never cached, never a refresh token. `ref` is the connection's number or name.

    While a valid token exists, trouble at Microsoft does not reach the caller; the header `Portal-Trouble` tells of it.
    The token that was `refused` is replaced once, however many name it, and never handed out to who names it.
    """
    key = authentication.require_scope(request, ApiKey.Scope.TOKEN_READ)
    connection = _find(key, ref)
    requirement, now = TokenRequirement(wanted.min_valid, wanted.refused), timezone.now()
    refresh = request.META.get(REFRESH, Refresh.DONE)
    try:
        _require_accepted_app(connection, requirement, now)
        failed = single_flight.microsoft_just_failed(connection.pk, now)
        stored = fetch.stored_token(connection, now=now)
        token = fetch.choose(stored, requirement, now=now, refresh=refresh, failed=failed)
    except (ConnectionUnusable, TokenUnavailable) as error:
        return _refused(key, connection, error)
    if not http_methods.is_head_request(request):
        api_keys.record_token_request(key, connection, address=audit.origin.get().address, now=now)
    response["Cache-Control"] = "no-store, private"
    if token.trouble:
        response["Portal-Trouble"] = token.trouble
    return body_of(token)


def body_of(token: fetch.Token) -> dict[str, Any]:
    return {
        "access_token": token.access_token,
        "token_type": "Bearer",
        "expires_at": token.expires_at,
        "scope": token.scope,
        "id": token.id,
    }


def _find(key: ApiKey, ref: str) -> Connection:
    columns = (*fetch.TOKEN_COLUMNS, "name", "owner_id", "app_registration__rejected_at")
    connection = authentication.find_usable_connection(key, ref, *columns)
    if connection is not None:
        return connection
    # The connection was requested by name, or the key may not use it and the error must say why.
    connection = authentication.find_connection(key, ref)
    if not permissions.can_fetch_token(key.owner, connection):
        raise NotAllowed(
            "You may see this connection, but it is not shared with you.", action="Ask its owner to share it."
        )
    return connection


def _require_accepted_app(connection: Connection, wanted: TokenRequirement, now: datetime) -> None:
    """Raise ConnectionUnusable if Microsoft rejects the app registration and the stored token is not as ``wanted``."""
    token, expires_at, app = connection.access_token, connection.expires_at, connection.app_registration
    if connection.is_blocked_by_app and not (token and expires_at and wanted.accepts(token, expires_at, now)):
        raise ConnectionUnusable(app.rejected_cause, action=app.rejected_action, code="app_credential_rejected")


def _refused(key: ApiKey, connection: Connection, error: PortalError) -> HttpResponse:
    """Explain why there is no token and who can fix it, with the incident that has more details."""
    # Requesting the token may just have changed the connection's status.
    connection.refresh_from_db(fields=["status_who"])
    by_app = error.code == "app_credential_rejected"
    who = error.who or ("it_admin" if by_app else connection.status_who or "owner")
    incident = incidents.explaining_incident(connection, among=querysets.visible_incidents(key.owner))
    return problems.problem_of(error, who=who, incident=incident, link=link_of(connection))
