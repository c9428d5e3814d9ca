"""Errors in Microsoft Graph's format (graph: errors), and the caller."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from portal.sandbox.state import App, Person


@dataclass
class GraphError(Exception):
    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """The identity in an access token. For an app-only token, ``person`` is None."""

    app: App
    tenant: str
    person: Person | None
    permissions: frozenset[str]


def body(problem: GraphError, now: float, client_request_id: str) -> dict[str, Any]:
    request_id = str(uuid.uuid4())
    inner = {
        "date": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "request-id": request_id,
        "client-request-id": client_request_id or request_id,
    }
    return {"error": {"code": problem.code, "message": problem.message, "innerError": inner}}


def denied() -> GraphError:
    """Return Exchange's error for missing access."""
    return GraphError(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")


def insufficient() -> GraphError:
    """Return the directory's error for missing permissions."""
    return GraphError(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")


def no_segment(name: str) -> GraphError:
    return GraphError(400, "BadRequest", f"Resource not found for the segment '{name}'.")


def missing(name: str) -> GraphError:
    """Return the error for an object that is not in the directory."""
    text = f"Resource '{name}' does not exist or one of its queried reference-property objects are not present."
    return GraphError(404, "Request_ResourceNotFound", text)
