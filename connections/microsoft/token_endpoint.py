"""Builds the requests to Microsoft's token endpoint and reads its responses. Nothing is stored here.

Sources: Microsoft identity platform, v2-oauth2-auth-code-flow, v2-oauth2-client-creds-grant-flow,
certificate-credentials, refresh-tokens, workload-identity-federation.
"""

import base64
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode

import jwt
import pydantic_core
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connections.errors import MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import federation, http
from connections.microsoft.classifier import Verdict, classify, transport_failure
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind
from connections.microsoft.response_parser import load_json

Tag = TypeVar("Tag")

# The scopes of the sign-in itself. They are never prefixed with Graph's address.
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
# Microsoft's own libraries also send these with every refresh. The response's ID token then identifies the account.
IDENTITY_SCOPES = ("openid", "profile")
GRAPH = "graph"  # the key of Microsoft Graph as a resource
MAX_ANSWER = 262_144  # bytes; a worker keeps the responses of a whole batch in memory
MAX_SCOPES = 16_384  # characters
ASSERTION_LIFETIME = 600  # seconds; Microsoft advises 5 to 10 minutes
ASSERTION_REUSE = 240  # seconds during which the same assertion is sent
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


@dataclass(frozen=True, slots=True)
class PortalAssertion:
    """A federated credential that trusts assertions of the portal with this ``issuer`` and ``subject``."""

    key: federation.SigningKey
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A federated credential that trusts the token in a file, from a managed identity or from Kubernetes."""

    path: str


Credential = ClientSecret | ClientCertificate | PortalAssertion | TokenFile


@dataclass(frozen=True, slots=True)
class Application:
    """An application in one directory of a cloud, with one credential."""

    cloud: Cloud
    directory_id: str
    client_id: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class Audience:
    """The resource that a token is for, and its addresses in the scopes of delegated and app-only requests."""

    key: str
    delegated: str
    application: str
    lists_roles: bool = True  # whether app-only tokens contain roles


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The content of a successful response. ``expires_in`` is in seconds from when it arrived."""

    access_token: str = field(repr=False)
    expires_in: int
    # Granted scopes or application roles. For resources other than Graph, they begin with the resource's key.
    granted: tuple[str, ...]
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


def qualified(cloud: Cloud, scopes: Iterable[str], audience: Audience | None = None) -> str:
    """Return the ``scope`` parameter. The scopes of the resource get its address; those of the sign-in don't.

    Without ``audience``, the resource is Graph. Scopes of several resources in one request cause AADSTS700022.
    """
    prefix = audience.delegated if audience is not None else cloud.graph
    return " ".join(scope if scope in OIDC_SCOPES else f"{prefix}/{scope.rpartition('/')[2]}" for scope in scopes)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A token request without its refresh token, for all connections with the same application and scopes.

    Use the template within about a minute, because its client assertion expires.
    """

    url: str
    form: str = field(repr=False)  # contains the client's secret or assertion
    requested: tuple[str, ...]  # the scopes of a delegated request
    audience: Audience | None

    def request(self, tag: Tag, refresh_token: str | None = None) -> http.Request[Tag]:
        grant = "" if refresh_token is None else f"&refresh_token={quote_plus(refresh_token)}"
        headers = (*_HEADERS, ("client-request-id", str(uuid.uuid4())))
        return http.Request("POST", self.url, f"{self.form}{grant}".encode("ascii"), headers, tag, MAX_ANSWER)

    def read(self, response: http.Response[Any]) -> TokenSet | Verdict:
        """Return the tokens from a response, or the verdict on it; see read_answer()."""
        return read_answer(response, requested=self.requested, audience=self.audience)


_HEADERS = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json"))


def refresh_template(
    application: Application, scopes: Iterable[str], *, audience: Audience | None = None
) -> RequestTemplate:
    """Return a template for refreshing delegated tokens. A request without ``scope`` would cause AADSTS90009.

    A refresh token is not bound to a resource, so ``audience`` may be any resource with consent
    (identity-platform/refresh-tokens).
    """
    requested = tuple(scopes)
    scope = qualified(application.cloud, dict.fromkeys((*requested, *IDENTITY_SCOPES)), audience)
    return _template(application, "refresh_token", scope, requested, audience)


def refresh_request(
    application: Application,
    refresh_token: str,
    scopes: Iterable[str],
    tag: Tag,
    *,
    audience: Audience | None = None,
) -> http.Request[Tag]:
    return refresh_template(application, scopes, audience=audience).request(tag, refresh_token)


def client_credentials_template(application: Application, *, audience: Audience | None = None) -> RequestTemplate:
    """Return a template for requesting app-only tokens. Any scope but ``{resource}/.default`` causes AADSTS1002012."""
    scope = application.cloud.default_scope if audience is None else f"{audience.application}/.default"
    return _template(application, "client_credentials", scope, (), audience)


def client_credentials_request(
    application: Application, tag: Tag, *, audience: Audience | None = None
) -> http.Request[Tag]:
    return client_credentials_template(application, audience=audience).request(tag)


def _template(
    application: Application, grant_type: str, scope: str, requested: tuple[str, ...], audience: Audience | None
) -> RequestTemplate:
    url = application.cloud.token_url(application.directory_id)
    form = {"grant_type": grant_type, "scope": scope, "client_id": application.client_id}
    form |= client_authentication(application, url)
    return RequestTemplate(url, urlencode(form), requested, audience)


def client_authentication(application: Application, token_url: str) -> dict[str, str]:
    """Return the parameters that authenticate the client. Raises MicrosoftRefused if its token file is unusable."""
    credential = application.credential
    if isinstance(credential, ClientSecret):
        return {"client_secret": credential.value}
    return {"client_assertion_type": _JWT_BEARER, "client_assertion": _assertion(application, token_url)}


def _assertion(application: Application, token_url: str) -> str:
    match application.credential:
        case PortalAssertion(key, issuer, subject):
            audience = application.cloud.token_exchange_audience
            return federation.assertion(key, issuer=issuer, subject=subject, audience=audience)
        case TokenFile(path):
            return federation.read_token_file(path)
        case ClientCertificate() as certificate:
            return client_assertion(certificate, application.client_id, token_url)
    raise TypeError("A client secret needs no assertion.")


def client_assertion(certificate: ClientCertificate, client_id: str, token_url: str) -> str:
    """Return an assertion that is valid for at least 6 minutes (PS256, ``x5t#S256``; certificate-credentials).

    Signing is slow, so the same assertion is returned for ASSERTION_REUSE seconds.
    """
    now = int(time.time() // ASSERTION_REUSE) * ASSERTION_REUSE
    return _signed(certificate.private_key, certificate.thumbprint, client_id, token_url, now)


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
        "exp": now + ASSERTION_LIFETIME,
    }
    return jwt.encode(claims, key, algorithm="PS256", headers={"x5t#S256": digest})  # type: ignore[arg-type]


def read_answer(
    response: http.Response[Any], *, requested: Iterable[str] = (), audience: Audience | None = None
) -> TokenSet | Verdict:
    """Return the tokens from a response, or the verdict on it. Never raises. See token_set() about the parameters."""
    if response.status == 0:
        return transport_failure(response.failure)
    if response.status == 200 and (content := _plain_success(response.body)) is not None:
        return token_set(content, requested=requested, audience=audience)
    verdict = classify(where="token", status=response.status, headers=response.headers, body=response.text)
    if verdict.kind is not Kind.OK:
        return verdict
    return token_set(load_json(response.text), requested=requested, audience=audience)


def _plain_success(body: bytes) -> dict[str, Any] | None:
    """Read an ordinary successful response without classifying it, which would be slow. None for any other response."""
    try:
        answer = pydantic_core.from_json(body, cache_strings="keys")  # five times as fast as json.loads
    except ValueError:
        return None
    if not isinstance(answer, dict) or "error" in answer or not _text(answer.get("access_token")):
        return None
    return answer


def token_set(answer: dict[str, Any], *, requested: Iterable[str] = (), audience: Audience | None = None) -> TokenSet:
    """Read a successful response. Its ``expires_in`` may be a string (at v1-like endpoints).

    ``requested`` are the scopes of a delegated request. If the response has no ``scope``, exactly these were granted
    (RFC 6749, 5.1). An app-only request has no ``requested``; what was granted are then the roles in the token.
    ``audience`` is the resource that the token is for, unless that is Graph.
    """
    access_token = str(answer["access_token"]).encode("ascii", "ignore").decode()
    scope = answer.get("scope")
    scopes = str(scope) if scope else " ".join(requested)
    granted = _short_names_in(scopes[:MAX_SCOPES]) if scopes.strip() else roles(access_token)
    return TokenSet(
        access_token=access_token,
        expires_in=_seconds(answer.get("expires_in")),
        granted=granted if audience is None else _of_resource(granted, audience, app_only=not scopes.strip()),
        refresh_token=_text(answer.get("refresh_token")),
        id_token=_text(answer.get("id_token")),
    )


def _of_resource(names: tuple[str, ...], audience: Audience, *, app_only: bool) -> tuple[str, ...]:
    """Return the names with their resource's key. A token that cannot list roles gets the resource's ``.default``."""
    if audience.key == GRAPH:
        return names
    if app_only and not audience.lists_roles:
        return (f"{audience.key}/.default",)
    return tuple(name if name in OIDC_SCOPES else f"{audience.key}/{name}" for name in names)


def short_names(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes sorted and without addresses (``https://graph.microsoft.com/Mail.Read`` → ``Mail.Read``)."""
    return _storable({scope.rpartition("/")[2] for scope in scopes})


@lru_cache(maxsize=64)  # nearly all responses contain the same few scopes
def _short_names_in(scopes: str) -> tuple[str, ...]:
    return short_names(scopes.split())


def roles(access_token: str) -> tuple[str, ...]:
    """Return the sorted roles in an app-only token. Only for display, never for trust
    (identity-platform/access-tokens).
    """
    names = unverified_claims(access_token).get("roles")
    return _storable(map(str, names)) if isinstance(names, list) else ()


def _storable(names: Iterable[str]) -> tuple[str, ...]:
    """Return sorted names, without those that a database would reject (U+0000, half a surrogate pair)."""
    return tuple(sorted(name for name in names if name.isascii() and name.isprintable() and name))


def unverified_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it, for display; {} if it is not a JWT."""
    # A library would decode the signature, which takes longer than everything else in a refresh.
    try:
        _, payload, _ = token.split(".")
        text = base64.urlsafe_b64decode(payload + "==")
        try:
            claims = pydantic_core.from_json(text, cache_strings="keys")
        except ValueError:  # such as half a surrogate pair, which json accepts
            claims = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _seconds(value: object) -> int:
    try:
        return max(0, min(int(float(str(value))), LONGEST_LIFETIME))
    except (ValueError, OverflowError):
        return 3600  # the value in Microsoft's documentation, and the shortest lifetime


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isascii() else None


def request_app_only_token(application: Application, *, audience: Audience | None = None) -> TokenSet:
    """Return an app-only token. Raises MicrosoftRefused, or MicrosoftUnavailable if there was no usable response."""
    request = client_credentials_request(application, None, audience=audience)
    return request_token_or_raise(read_answer(http.client().send(request), audience=audience))


def request_token_or_raise(answer: TokenSet | Verdict) -> TokenSet:
    if isinstance(answer, TokenSet):
        return answer
    if answer.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        raise MicrosoftUnavailable(answer)
    raise MicrosoftRefused(answer)
