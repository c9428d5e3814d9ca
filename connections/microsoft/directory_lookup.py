"""Looks up a directory in Microsoft's discovery document (v2-protocols-oidc)."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from connections.errors import MicrosoftUnavailable
from connections.microsoft import http, token_endpoint
from connections.microsoft.classifier import classify, transport_failure
from connections.microsoft.clouds import Cloud, is_guid
from connections.microsoft.error_types import Kind


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory according to Microsoft's discovery document. ``tid`` is "" for shared endpoints."""

    tid: str
    issuer: str


def discover(cloud: Cloud, directory_id: str) -> Directory:
    """Look up a directory. Raises MicrosoftRefused if it does not exist, and MicrosoftUnavailable."""
    request: http.Request[None] = http.Request("GET", cloud.discovery_url(directory_id))
    response = http.client().send(request)
    if response.status == 0:
        raise MicrosoftUnavailable(transport_failure(response.failure))
    try:
        issuer = json.loads(response.text)["issuer"] if response.status == 200 else None
    except (ValueError, KeyError, TypeError):
        issuer = None
    if not isinstance(issuer, str):
        verdict = classify(where="token", status=response.status, headers=response.headers, body=response.text)
        is_ok = verdict.kind is Kind.OK
        token_endpoint.request_token_or_raise(
            transport_failure("the discovery document was no JSON") if is_ok else verdict
        )
    segments = urlsplit(str(issuer)).path.strip("/").split("/")
    tid = segments[0] if segments and is_guid(segments[0]) else ""
    return Directory(tid, str(issuer))
