"""The view for the token route. It handles the requests that token_endpoint.py leaves to it, and never waits."""

from datetime import datetime
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections import audit, presentation
from connections.access import permissions, querysets
from connections.api import authentication, http_methods, problems
from connections.api.connections import link_of
from connections.api.field_types import Text
from connections.errors import ConnectionUnusable, NotAllowed, PortalError, TokenUnavailable
from connections.microsoft import resources
from connections.models import ApiKey, Connection
from connections.services.api_keys import api_keys
from connections.services.incidents import incidents
from connections.services.tokens import fetch, narrowing, single_flight
from connections.services.tokens.fetch import Refresh
from connections.services.tokens.single_flight import TokenRequirement

_encoder = DjangoJSONEncoder()
router = Router(tags=["Tokens"])
LONGEST_VALIDITY = 3600
# The entry in request.META that says whether the token endpoint tried to refresh the token before calling this view.
REFRESH = "portal.refresh"


class TokenOut(Schema):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_at: datetime
    resource: str = Field(description="What the token is for: a resource's key, or its address.")
    scope: str = Field(description="The granted permissions of this resource, by their short names.")
    id: str = Field(description="Identifies this token without revealing it. Send it as `refused`.")


class TokenWanted(Schema):
    min_valid: int = Field(300, ge=0, le=LONGEST_VALIDITY, description="Minimum validity of the token, in seconds.")
    refused: str = Field(
        "",
        pattern="^([0-9a-f]{32})?$",
        description="The `id` of an unexpired token that Microsoft rejected. You get a new one.",
    )
    scope: Text = Field(
        "",
        max_length=1000,
        description="Only these permissions of the resource, separated by spaces. The API key must allow it. Microsoft "
        "can narrow tokens of personal accounts only; otherwise the call fails with the code not_narrowed.",
    )
    resource: Text = Field(
        "",
        max_length=resources.LONGEST_ADDRESS,
        description="What the token is for: graph, exchange, sharepoint, azure, powerbi, dataverse, or the https:// "
        "address of another API. By default, the connection's own resource.",
    )


@router.get(
    "/connections/{ref}/token", response={200: TokenOut} | problems.responses(404, 409, 503), summary="Request a token"
)
def fetch_token(request: HttpRequest, response: HttpResponse, ref: str, wanted: Query[TokenWanted]) -> Any:
    """Return a valid access token, never cached and never with a refresh token. `ref` is the connection's ID or name, the
    name of a connection reference, or `default:` and a connector for your own default connection.

    If a refresh fails while the stored token is still valid, that token is returned, and the header `Portal-Trouble`
    describes the problem. To report a token that Microsoft rejected, send its ID as `refused`: it is replaced once,
    however many callers report it, and never returned to a caller that reported it.
    """
    key = authentication.require_scope(request, ApiKey.Scope.TOKEN_READ)
    named = wanted.resource and resources.key_of(wanted.resource)
    connection = _find(key, ref)
    requirement, now = TokenRequirement(wanted.min_valid, wanted.refused), timezone.now()
    resource = named or connection.resource
    try:
        if wanted.scope:
            scopes = narrowing.parse(wanted.scope, resource)
            token = narrowing.request(connection, key, resource, scopes, now=now)
        else:
            token = _choose(request, connection, resource, requirement, now)
    except (ConnectionUnusable, TokenUnavailable) as error:
        return _refused(key, connection, error)
    if not http_methods.is_head_request(request):
        reference = "" if ref.isdigit() or ref == connection.name else ref
        place = audit.origin.get().address
        api_keys.record_token_request(key, connection, resource=resource, reference=reference, address=place, now=now)
    response["Cache-Control"] = "no-store, private"
    if token.trouble:
        response["Portal-Trouble"] = token.trouble
    return body_of(token)


def _choose(
    request: HttpRequest, connection: Connection, resource: str, requirement: TokenRequirement, now: datetime
) -> fetch.Token:
    is_own = resource == connection.resource
    if is_own:
        stored = fetch.stored_token(connection, now=now)
    else:
        stored = fetch.stored_resource_token(connection, resource, now=now)
    rejected = connection.app_rejection if connection.status == Connection.Status.ACTIVE else None
    if rejected is not None and not (stored and stored.is_as(requirement, now)):
        raise ConnectionUnusable(
            rejected.rejected_cause, action=rejected.rejected_action, code="app_credential_rejected"
        )
    failed = single_flight.microsoft_just_failed(connection.pk, now, "" if is_own else resource)
    refresh = request.META.get(REFRESH, Refresh.DONE)
    return fetch.choose(stored, requirement, now=now, refresh=refresh, failed=failed)


def json_of(token: fetch.Token) -> bytes:
    """Return the response's body, exactly as the view's response has it, but in less time."""
    values = body_of(token) | {"expires_at": _encoder.default(token.expires_at)}
    return f"{{{', '.join([f'{quote(name)}: {quote(value)}' for name, value in values.items()])}}}".encode()


def body_of(token: fetch.Token) -> dict[str, Any]:
    return {
        "access_token": token.access_token,
        "token_type": "Bearer",
        "expires_at": token.expires_at,
        "resource": token.resource,
        "scope": " ".join(map(resources.short, token.scope.split())),
        "id": token.id,
    }


def _find(key: ApiKey, ref: str) -> Connection:
    columns = (*fetch.TOKEN_COLUMNS, "name", "owner_id", "app_registration__rejected_at", "app_consent__rejected_at")
    connection = authentication.find_usable_connection(key, ref, *columns)
    if connection is not None:
        return connection
    # The client sent a name, or the key may not use the connection and the error must say why.
    connection = authentication.find_connection(key, ref, by_reference=True)
    if not permissions.can_fetch_token(key.owner, connection):
        raise NotAllowed("This connection isn't shared with you.", action="Ask its owner to share it.")
    return connection


def _refused(key: ApiKey, connection: Connection, error: PortalError) -> HttpResponse:
    """Explain why there is no token and who can fix it, with the incident that has more details."""
    # Requesting the token may just have changed the connection's status.
    connection.refresh_from_db(fields=["status", "status_code", "status_who"])
    by_app = error.code == "app_credential_rejected"
    who = error.who or ("it_admin" if by_app else presentation.assignee(connection) or "owner")
    incident = incidents.explaining_incident(connection, among=querysets.visible_incidents(key.owner))
    return problems.problem_of(error, who=who, incident=incident, link=link_of(connection))
