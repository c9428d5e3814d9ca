"""Requests to Microsoft's token endpoint, and its answers. Nothing is stored here.

Sources: Microsoft identity platform, v2-oauth2-auth-code-flow, v2-oauth2-client-creds-grant-flow,
certificate-credentials, refresh-tokens.
"""

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

# Scopes of the sign-in itself, which are never prefixed with Graph's address.
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
ASSERTION_LIFETIME = 300  # seconds; Microsoft advises 5 to 10 minutes
LONGEST_LIFETIME = 30 * 86400  # seconds; Microsoft's maximum is about a day, and larger numbers could overflow dates
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ClientSecret:
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A private key (PEM) and the SHA-256 thumbprint (hex) of its certificate."""

    private_key: str = field(repr=False)
    thumbprint: str


Credential = ClientSecret | ClientCertificate


@dataclass(frozen=True, slots=True)
class Application:
    """An application in one directory of a cloud, with one credential."""

    cloud: Cloud
    directory_id: str
    client_id: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The content of a successful answer. ``expires_in`` is in seconds from its arrival."""

    access_token: str = field(repr=False)
    expires_in: int
    # Granted scopes or application roles, as short names.
    granted: tuple[str, ...]
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


def qualified(cloud: Cloud, scopes: Iterable[str]) -> str:
    """Return the ``scope`` parameter: Graph's scopes with its address, the sign-in's without."""
    return " ".join(scope if scope in OIDC_SCOPES or "://" in scope else cloud.scope(scope) for scope in scopes)


def refresh_request(application: Application, refresh_token: str, scopes: Iterable[str], tag: Tag) -> http.Request[Tag]:
    """Build the request that refreshes a delegated grant. Without ``scope``, Entra would answer AADSTS90009."""
    scope = qualified(application.cloud, scopes)
    return _token_request(application, "refresh_token", scope, {"refresh_token": refresh_token}, tag)


def client_credentials_request(application: Application, tag: Tag) -> http.Request[Tag]:
    """Build the request for an app-only token. Any scope but ``{graph}/.default`` causes AADSTS1002012."""
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
    """Encode the part that thousands of refreshes have in common only once. Nothing secret is cached."""
    return urlencode({"grant_type": grant_type, "scope": scope, "client_id": client_id})


def client_authentication(credential: Credential, client_id: str, token_url: str) -> dict[str, str]:
    if isinstance(credential, ClientSecret):
        return {"client_secret": credential.value}
    return {
        "client_assertion_type": _JWT_BEARER,
        "client_assertion": client_assertion(credential, client_id, token_url),
    }


def client_assertion(certificate: ClientCertificate, client_id: str, token_url: str) -> str:
    """Sign one assertion a minute, as that is slow (PS256, ``x5t#S256``; identity-platform/certificate-credentials)."""
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


def read_answer(response: http.Response[Any]) -> TokenSet | Verdict:
    """Return the tokens from an answer, or the verdict on it. Never raises."""
    if response.status == 0:
        return transport_failure(response.failure)
    if response.status == 200 and (content := _plain_success(response.body)) is not None:
        return token_set(content)
    verdict = classify(where="token", status=response.status, headers=response.headers, body=response.text)
    return token_set(json.loads(response.text)) if verdict.kind is Kind.OK else verdict


def _plain_success(body: bytes) -> dict[str, Any] | None:
    """Read an ordinary success without classifying it: nearly all answers are one, and classifying is slow."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict) or "error" in answer or not _text(answer.get("access_token")):
        return None
    return answer


def token_set(answer: dict[str, Any]) -> TokenSet:
    """Read a successful answer; ``expires_in`` may be a string (at v1-like endpoints)."""
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
    """Return sorted scopes without Graph's address (``https://graph.microsoft.com/Mail.Read`` → ``Mail.Read``)."""
    return _storable({scope.rpartition("/")[2] if "://" in scope else scope for scope in scopes})


def roles(access_token: str) -> tuple[str, ...]:
    """Return the sorted roles in an app-only token: for display, never trusted (identity-platform/access-tokens)."""
    names = unverified_claims(access_token).get("roles")
    return _storable(map(str, names)) if isinstance(names, list) else ()


def _storable(names: Iterable[str]) -> tuple[str, ...]:
    """Return sorted names, except those that no database would accept (U+0000, half a surrogate pair)."""
    return tuple(sorted(name for name in names if name.isascii() and name.isprintable() and name))


def unverified_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it, for display; {} for anything else."""
    try:
        return dict(jwt.decode(token, options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, TypeError):
        return {}


def _seconds(value: object) -> int:
    try:
        return max(0, min(int(float(str(value))), LONGEST_LIFETIME))
    except (ValueError, OverflowError):
        return 3600  # the documentation always shows it; an hour is Microsoft's minimum


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isascii() else None


def request_app_only_token(application: Application) -> TokenSet:
    """Return the tokens. Raises MicrosoftRefused with the verdict, or MicrosoftUnavailable if the answer was unusable."""
    return request_token_or_raise(read_answer(http.client().send(client_credentials_request(application, None))))


def request_token_or_raise(answer: TokenSet | Verdict) -> TokenSet:
    if isinstance(answer, TokenSet):
        return answer
    if answer.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        raise MicrosoftUnavailable(answer)
    raise MicrosoftRefused(answer)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory according to Microsoft's discovery document. ``tid`` is "" for shared endpoints."""

    tid: str
    issuer: str


def discover(cloud: Cloud, directory_id: str) -> Directory:
    """Look a directory up by GUID or domain (identity-platform/v2-protocols-oidc).

    Raises MicrosoftRefused if this cloud has no such directory, or MicrosoftUnavailable if there is no usable answer.
    """
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
        request_token_or_raise(transport_failure("the discovery document was no JSON") if is_ok else verdict)
    segments = urlsplit(str(issuer)).path.strip("/").split("/")
    tid = segments[0] if segments and _is_guid(segments[0]) else ""
    return Directory(tid, str(issuer))


def _is_guid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
