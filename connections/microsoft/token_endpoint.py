"""What is said to Microsoft's token endpoint, and what its answers mean.

This module builds requests and reads answers; it stores nothing. Sources: Microsoft identity platform,
v2-oauth2-auth-code-flow, v2-oauth2-client-creds-grant-flow, certificate-credentials, refresh-tokens.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connections.errors import MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import http
from connections.microsoft.classifier import Verdict, classify, transport_failure
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind

Tag = TypeVar("Tag")

# Scopes of the sign-in itself; Microsoft never prefixes them with Graph's address.
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
ASSERTION_LIFETIME = 300  # seconds; Microsoft advises 5 to 10 minutes
LONGEST_LIFETIME = 30 * 86400  # seconds; Microsoft's longest is about a day, and dates must not overflow
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret's value."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate's private key (PEM) and the SHA-256 thumbprint of the certificate (hex)."""

    private_key: str = field(repr=False)
    thumbprint: str


Credential = ClientSecret | ClientCertificate


@dataclass(frozen=True, slots=True)
class Application:
    """Who asks: an application in a directory of a cloud, with one credential."""

    cloud: Cloud
    directory_id: str
    client_id: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What a successful answer carries. ``expires_in`` is seconds from the answer."""

    access_token: str = field(repr=False)
    expires_in: int
    # Granted scopes, or application roles, as short names.
    granted: tuple[str, ...]
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


# --- Requests -------------------------------------------------------------------------------------


def qualified(cloud: Cloud, scopes: Iterable[str]) -> str:
    """Scopes as they are sent: Graph's fully qualified, those of the sign-in bare."""
    return " ".join(scope if scope in OIDC_SCOPES or "://" in scope else cloud.scope(scope) for scope in scopes)


def refresh_request(application: Application, refresh_token: str, scopes: Iterable[str], tag: Tag) -> http.Request[Tag]:
    """The request that renews a delegated grant. ``scope`` is always sent: without it Entra answers AADSTS90009."""
    scope = qualified(application.cloud, scopes)
    return _token_request(application, "refresh_token", scope, {"refresh_token": refresh_token}, tag)


def client_credentials_request(application: Application, tag: Tag) -> http.Request[Tag]:
    """The request of an app-only token. Only ``{graph}/.default`` is legal here (AADSTS1002012 otherwise)."""
    return _token_request(application, "client_credentials", application.cloud.default_scope, {}, tag)


def _token_request(
    application: Application, grant_type: str, scope: str, secrets: dict[str, str], tag: Tag
) -> http.Request[Tag]:
    url = application.cloud.token_url(application.directory_id)
    secrets |= client_authentication(application.credential, application.client_id, url)
    return http.Request(
        "POST",
        url,
        f"{_shared_part(grant_type, scope, application.client_id)}&{urlencode(secrets)}".encode("ascii"),
        (
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept", "application/json"),
            ("client-request-id", str(uuid.uuid4())),
        ),
        tag,
    )


@lru_cache(maxsize=256)
def _shared_part(grant_type: str, scope: str, client_id: str) -> str:
    """What thousands of requests of a sweep have in common, encoded once; nothing secret is remembered."""
    return urlencode({"grant_type": grant_type, "scope": scope, "client_id": client_id})


def client_authentication(credential: Credential, client_id: str, token_url: str) -> dict[str, str]:
    """The parameters by which the application proves who it is."""
    if isinstance(credential, ClientSecret):
        return {"client_secret": credential.value}
    return {
        "client_assertion_type": _JWT_BEARER,
        "client_assertion": client_assertion(credential, client_id, token_url),
    }


def client_assertion(certificate: ClientCertificate, client_id: str, token_url: str) -> str:
    """A signed assertion (PS256, ``x5t#S256``) as identity-platform/certificate-credentials describes it.

    One assertion serves all requests of the same minute: signing costs more than the request itself.
    """
    return _signed(certificate.private_key, certificate.thumbprint, client_id, token_url, int(time.time() // 60) * 60)


@lru_cache(maxsize=256)
def _signed(private_key: str, thumbprint: str, client_id: str, token_url: str, now: int) -> str:
    key = load_pem_private_key(private_key.encode(), password=None)
    digest = jwt.utils.base64url_encode(bytes.fromhex(thumbprint)).decode()
    claims = {
        "aud": token_url,
        "iss": client_id,
        "sub": client_id,
        "jti": str(uuid.uuid4()),
        "nbf": now,
        "iat": now,
        "exp": now + 60 + ASSERTION_LIFETIME,
    }
    return jwt.encode(claims, key, algorithm="PS256", headers={"x5t#S256": digest})  # type: ignore[arg-type]


# --- Answers --------------------------------------------------------------------------------------


def read_answer(response: http.Response[Any]) -> TokenSet | Verdict:
    """The tokens of an answer, or the verdict on it. Never raises."""
    if response.status == 0:
        return transport_failure(response.failure)
    if response.status == 200 and (success := _plain_success(response.body)) is not None:
        return token_set(success)
    verdict = classify(where="token", status=response.status, headers=response.headers, body=response.text)
    if verdict.kind is not Kind.OK:
        return verdict
    return token_set(json.loads(response.text))


def _plain_success(body: bytes) -> dict[str, Any] | None:
    """The answer if it is an ordinary success, as nearly all are; classification costs more than all the rest."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict) or "error" in answer or not _text(answer.get("access_token")):
        return None
    return answer


def token_set(answer: dict[str, Any]) -> TokenSet:
    """Read a successful answer's fields; ``expires_in`` may be a string (v1-like endpoints)."""
    access_token = str(answer["access_token"]).encode("ascii", "ignore").decode()
    scope = answer.get("scope")
    return TokenSet(
        access_token=access_token,
        expires_in=_seconds(answer.get("expires_in")),
        granted=short_names(str(scope).split()) if scope else roles(access_token),
        refresh_token=_text(answer.get("refresh_token")),
        id_token=_text(answer.get("id_token")),
    )


def short_names(scopes: Iterable[str]) -> tuple[str, ...]:
    """Scopes without the resource's address (``https://graph.microsoft.com/Mail.Read`` → ``Mail.Read``), sorted."""
    names = {scope.rpartition("/")[2] if "://" in scope else scope for scope in scopes}
    return _storable(names)


def roles(access_token: str) -> tuple[str, ...]:
    """Application permissions in an app-only token, sorted; () if there are none or the token is opaque.

    The token is Graph's, not ours: it is read for display and comparison, never trusted
    (identity-platform/access-tokens).
    """
    found = unverified_claims(access_token).get("roles")
    return _storable(map(str, found)) if isinstance(found, list) else ()


def _storable(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted, without what no permission is called and no database would take (U+0000, half a surrogate)."""
    return tuple(sorted(name for name in names if name.isascii() and name.isprintable() and name))


def unverified_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified, for display; {} for anything that is none."""
    try:
        return dict(jwt.decode(token, options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, TypeError):
        return {}


def _seconds(value: object) -> int:
    try:
        return max(0, min(int(float(str(value))), LONGEST_LIFETIME))
    except (ValueError, OverflowError):
        return 3600  # every documented answer has it; an hour is Microsoft's lower bound


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isascii() else None


# --- Whole conversations --------------------------------------------------------------------------


def request_app_only_token(application: Application) -> TokenSet:
    """Ask for an app-only token now.

    Raises MicrosoftRefused with the verdict, or MicrosoftUnavailable if there was no useful answer.
    """
    return request_token_or_raise(read_answer(http.client().send(client_credentials_request(application, None))))


def request_token_or_raise(answer: TokenSet | Verdict) -> TokenSet:
    """The tokens, or the verdict as an exception."""
    if isinstance(answer, TokenSet):
        return answer
    if answer.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        raise MicrosoftUnavailable(answer)
    raise MicrosoftRefused(answer)


@dataclass(frozen=True, slots=True)
class Directory:
    """What Microsoft's discovery document says of a directory. ``tid`` is "" for shared endpoints."""

    tid: str
    issuer: str


def discover(cloud: Cloud, directory_id: str) -> Directory:
    """Look a directory up by GUID or domain (identity-platform/v2-protocols-oidc).

    Raises MicrosoftRefused if there is no such directory in this cloud, MicrosoftUnavailable if it cannot be told.
    """
    question: http.Request[None] = http.Request("GET", cloud.discovery_url(directory_id))
    response = http.client().send(question)
    if response.status == 0:
        raise MicrosoftUnavailable(transport_failure(response.failure))
    try:
        issuer = json.loads(response.text)["issuer"] if response.status == 200 else None
    except (ValueError, KeyError, TypeError):
        issuer = None
    if not isinstance(issuer, str):
        verdict = classify(where="token", status=response.status, headers=response.headers, body=response.text)
        request_token_or_raise(
            verdict if verdict.kind is not Kind.OK else transport_failure("the discovery document was no JSON")
        )
    segments = urlsplit(str(issuer)).path.strip("/").split("/")
    tid = segments[0] if segments and _is_guid(segments[0]) else ""
    return Directory(tid, str(issuer))


def _is_guid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
