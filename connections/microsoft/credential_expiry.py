"""Reads an application's secrets and certificates from Microsoft Graph, to find out when they expire.

Graph never shows the values again. Secrets are therefore recognised by their first three characters, and certificates
by their thumbprints (application-get, passwordCredential, keyCredential). Only the application's home directory lists
them.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from connections.errors import MicrosoftUnavailable
from connections.microsoft import graph_client, http
from connections.microsoft.clouds import Cloud
from connections.microsoft.permissions import covered_by

# The application role that lets an application read itself (Microsoft Graph: application-list-permissions).
PERMISSION = "Application.Read.All"
# This role lets an application read and change the applications it owns, which can include itself.
OWNED_BY = "Application.ReadWrite.OwnedBy"

UNREADABLE = graph_client.unreadable("The response doesn't describe an application.", again="retries tomorrow")


@dataclass(frozen=True, slots=True)
class ListedCredential:
    """A credential as Entra lists it. A secret has a ``hint``, a certificate has ``thumbprints``."""

    expires_at: datetime
    # The first three characters of a secret, or "" if Microsoft does not know them (very old secrets).
    hint: str = ""
    # SHA-1, and SHA-256 if Microsoft sent the certificate itself; upper-case hex.
    thumbprints: frozenset[str] = frozenset()
    key_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class CredentialList:
    secrets: tuple[ListedCredential, ...]
    certificates: tuple[ListedCredential, ...]
    object_id: str = ""


def may_read(roles: tuple[str, ...]) -> bool:
    """Whether a token with these application roles allows the application to read itself."""
    return PERMISSION in covered_by(frozenset(roles))


def may_read_itself(roles: tuple[str, ...]) -> bool:
    """Like may_read, but also accepts the role for applications that the caller owns."""
    return may_read(roles) or OWNED_BY in roles


def read(cloud: Cloud, access_token: str, client_id: str) -> CredentialList:
    """Return the app's credentials. Raises MicrosoftRefused or MicrosoftUnavailable. Graph allows 150 requests a
    minute.
    """
    path = f"applications(appId='{quote(client_id, safe='')}')?$select=id,passwordCredentials,keyCredentials"
    response = http.client().send(graph_client.request(cloud, access_token, path))
    graph_client.require_ok(response)
    return _listing(response.text)


def _listing(text: str) -> CredentialList:
    try:
        answer = json.loads(text)
        secrets = [
            ListedCredential(
                _moment(secret["endDateTime"]),
                hint=str(secret.get("hint") or ""),
                key_id=str(secret.get("keyId") or ""),
                name=str(secret.get("displayName") or ""),
            )
            for secret in answer["passwordCredentials"]
        ]
        certificates = [
            ListedCredential(
                _moment(certificate["endDateTime"]),
                thumbprints=frozenset(_thumbprints(certificate)),
                key_id=str(certificate.get("keyId") or ""),
            )
            for certificate in answer["keyCredentials"]
        ]
        return CredentialList(tuple(secrets), tuple(certificates), str(answer.get("id") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MicrosoftUnavailable(UNREADABLE) from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _thumbprints(key: dict[str, Any]) -> Iterator[str]:
    """Yield all known thumbprints. The identifier may be hex or base64, and the public part is not always included."""
    identifier = str(key.get("customKeyIdentifier") or "")
    if len(identifier) in (40, 64) and re.fullmatch(r"[0-9a-fA-F]+", identifier):
        yield identifier.upper()
    elif digest := _decoded(identifier):
        yield digest.hex().upper()
    if certificate := _decoded(str(key.get("key") or "")):
        yield hashlib.sha256(certificate).hexdigest().upper()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
