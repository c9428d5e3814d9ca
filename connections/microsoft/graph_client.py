"""Sends requests to Microsoft Graph, a few at a time, and interprets the responses."""

import uuid
from collections.abc import Iterator

from connections.errors import MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import http
from connections.microsoft.classifier import Verdict, classify, transport_failure
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind, Who

# Outlook allows four concurrent requests per application (Microsoft Graph: throttling-limits).
IN_FLIGHT = 4


def request(
    cloud: Cloud, access_token: str, path: str, tag: str = "", *, body: bytes | None = None
) -> http.Request[str]:
    """Build a request for ``path`` below the API version. With a ``body`` in JSON, it is a POST request."""
    headers = [
        ("Authorization", f"Bearer {access_token}"),
        ("Accept", "application/json"),
        ("client-request-id", str(uuid.uuid4())),
    ]
    if body is not None:
        headers.append(("Content-Type", "application/json"))
    method = "GET" if body is None else "POST"
    return http.Request(method, f"{cloud.graph}/v1.0/{path}", body=body, headers=tuple(headers), tag=tag)


def request_json(requests: list[http.Request[str]]) -> Iterator[http.Response[str]]:
    """Send all requests and yield the responses as they arrive."""
    for start in range(0, len(requests), IN_FLIGHT):
        yield from http.client().send_all(requests[start : start + IN_FLIGHT])


def verdict(response: http.Response[str]) -> Verdict:
    if response.status == 0:
        return transport_failure(response.failure)
    return classify(where="graph", status=response.status, headers=response.headers, body=response.text)


def require_ok(response: http.Response[str]) -> None:
    """Raise MicrosoftUnavailable if there was no usable response, or MicrosoftRefused if Graph refused."""
    outcome = verdict(response)
    if outcome.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        raise MicrosoftUnavailable(outcome)
    if outcome.kind is not Kind.OK:
        raise MicrosoftRefused(outcome)


def unreadable(cause: str, *, again: str) -> Verdict:
    """Return the verdict for a successful response with unusable content.

    ``again`` completes the sentence "The portal …" with when the portal tries again.
    """
    action = (
        f"The portal {again}. If the problem persists, an IT admin should check for a web proxy between the portal "
        "and Microsoft."
    )
    return Verdict(Kind.TRANSIENT, "unreadable", cause, action, Who.NOBODY)
