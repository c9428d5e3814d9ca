"""Requests with which an application changes its own secrets and certificates in Entra (Microsoft Graph v1.0).

Sources: application-addkey, application-removekey, application-rollkey-prooftoken, application-addpassword,
application-removepassword. An application needs no permission to change its own keys. It only has to prove that it has
one of them.
"""

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from connections.errors import MicrosoftUnavailable
from connections.microsoft import graph_client, http
from connections.microsoft.clouds import Cloud
from connections.microsoft.response_parser import load_json

# The audience of the proof: Windows Azure Active Directory.
PROOF_AUDIENCE = "00000002-0000-0000-c000-000000000000"
PROOF_LIFETIME = 600  # seconds, as Microsoft requires

_ALREADY_REMOVED = "No credentials found to be removed"
UNREADABLE = graph_client.unreadable("The response to a new credential can't be read.", again="tries again")


@dataclass(frozen=True, slots=True)
class Caller:
    """An application that changes itself. ``access_token`` is app-only; ``object_id`` is not the client ID."""

    cloud: Cloud
    access_token: str = field(repr=False)
    object_id: str


@dataclass(frozen=True, slots=True)
class IssuedSecret:
    """A client secret that Microsoft has just created. Microsoft never shows its value again."""

    key_id: str
    value: str = field(repr=False)
    expires_at: datetime


def proof(private_key: str, certificate: str, object_id: str) -> str:
    """Return a signed proof that the application has the private key of one of its certificates (both in PEM)."""
    now = int(time.time())
    digest = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA1())  # noqa: S303 - an identifier
    claims = {"aud": PROOF_AUDIENCE, "iss": object_id, "nbf": now, "exp": now + PROOF_LIFETIME}
    key = serialization.load_pem_private_key(private_key.encode(), None)
    headers = {"x5t": jwt.utils.base64url_encode(digest).decode()}
    return jwt.encode(claims, key, algorithm="RS256", headers=headers)  # type: ignore[arg-type]


def add_key(caller: Caller, certificate: str, *, signed_proof: str) -> str:
    """Add the public part of a certificate (PEM); return its keyId. Raises MicrosoftRefused or MicrosoftUnavailable."""
    der = x509.load_pem_x509_certificate(certificate.encode()).public_bytes(serialization.Encoding.DER)
    key = {"type": "AsymmetricX509Cert", "usage": "Verify", "key": base64.b64encode(der).decode()}
    answer = _post(caller, "addKey", {"keyCredential": key, "passwordCredential": None, "proof": signed_proof})
    return str(answer.get("keyId") or "")


def remove_key(caller: Caller, key_id: str, *, signed_proof: str) -> None:
    """Remove a certificate. Succeeds if it is already gone. Raises the same errors as add_key."""
    _remove(caller, "removeKey", {"keyId": key_id, "proof": signed_proof})


def add_password(caller: Caller, *, name: str, expires_at: datetime) -> IssuedSecret:
    """Have Microsoft create a client secret, and return it.

    Raises the same errors as add_key; MicrosoftUnavailable also if the response cannot be read.
    """
    end = expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = _post(caller, "addPassword", {"passwordCredential": {"displayName": name, "endDateTime": end}})
    try:
        return IssuedSecret(
            str(answer["keyId"]), str(answer["secretText"]), datetime.fromisoformat(answer["endDateTime"])
        )
    except (KeyError, ValueError, TypeError):
        raise MicrosoftUnavailable(UNREADABLE) from None


def remove_password(caller: Caller, key_id: str) -> None:
    """Remove a client secret. Succeeds if it is already gone. Raises the same errors as add_key."""
    _remove(caller, "removePassword", {"keyId": key_id})


def _remove(caller: Caller, action: str, content: dict[str, Any]) -> None:
    response = _send(caller, action, content)
    if response.status == 404 or (response.status == 400 and _ALREADY_REMOVED in response.text):
        return
    if response.status != 204:
        graph_client.require_ok(response)


def _post(caller: Caller, action: str, content: dict[str, Any]) -> dict[str, Any]:
    response = _send(caller, action, content)
    graph_client.require_ok(response)
    try:
        answer = load_json(response.text)
    except ValueError:
        raise MicrosoftUnavailable(UNREADABLE) from None
    return answer if isinstance(answer, dict) else {}


def _send(caller: Caller, action: str, content: dict[str, Any]) -> http.Response[str]:
    path = f"applications/{quote(caller.object_id, safe='')}/{action}"
    body = json.dumps(content).encode()
    return http.client().send(graph_client.request(caller.cloud, caller.access_token, path, body=body))
