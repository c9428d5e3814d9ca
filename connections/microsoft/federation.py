"""Federated identity credentials: tokens that the portal issues itself as an OpenID issuer, and tokens from a file.

An application in Entra can trust the tokens of another issuer instead of a secret. Microsoft reads the issuer's public
keys over HTTPS and requires issuer, subject and audience to match exactly (Microsoft: workload-identity-federation,
workload-identity-federation-considerations). It only supports RS256.
"""

import hashlib
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connections.errors import MicrosoftRefused
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who

KEY_BITS = 2048
ASSERTION_LIFETIME = 600  # seconds
ASSERTION_REUSE = 240  # seconds during which the same assertion is sent
MAX_TOKEN_FILE = 16_384  # bytes; tokens of managed identities and Kubernetes have one or two thousand
# Errors while a new federated credential is not yet known to Microsoft, or only to some of its servers.
NOT_MATCHED = frozenset({"AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213"})
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The issuer's private key (PEM), and the ``kid`` under which the public part is published."""

    key_id: str
    private_key: str = field(repr=False)


def generate_key() -> SigningKey:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return SigningKey(public_jwk(pem)["kid"], pem)


@lru_cache(maxsize=16)
def public_jwk(private_key: str) -> dict[str, str]:
    """Return the public part of the key as a JSON Web Key. Its ``kid`` is the thumbprint according to RFC 7638."""
    numbers = _load(private_key).public_key().public_numbers()
    required = {"e": _text(numbers.e), "kty": "RSA", "n": _text(numbers.n)}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {**required, "use": "sig", "alg": "RS256", "kid": jwt.utils.base64url_encode(digest).decode()}


def _load(private_key: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(private_key.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("The signing key isn't an RSA key.")
    return key


def _text(number: int) -> str:
    return jwt.utils.base64url_encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode()


def discovery_document(issuer: str, jwks_uri: str) -> dict[str, Any]:
    """Return the issuer's metadata (OpenID Connect Discovery 1.0, section 3). Nobody can sign in with this issuer."""
    return {
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nbf", "jti"],
    }


def assertion(key: SigningKey, *, issuer: str, subject: str, audience: str) -> str:
    """Return a token for Microsoft that is valid for at least 6 minutes.

    Signing is slow, so the same token is returned for ASSERTION_REUSE seconds.
    """
    now = int(time.time() // ASSERTION_REUSE) * ASSERTION_REUSE
    return _signed(key.private_key, key.key_id, issuer, subject, audience, now)


@lru_cache(maxsize=256)
def _signed(private_key: str, key_id: str, issuer: str, subject: str, audience: str, now: int) -> str:
    claims = {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "jti": str(uuid.uuid4()),
        "nbf": now,
        "iat": now,
        "exp": now + ASSERTION_LIFETIME,
    }
    return jwt.encode(claims, _load(private_key), algorithm="RS256", headers={"kid": key_id})


def read_token_file(path: str) -> str:
    """Return the token in a file. Read it at each use, because it is replaced before it expires.

    Raises MicrosoftRefused if the file contains no token. The error message shows nothing of the content.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise _unusable(f"it can't be read ({error.strerror})") from None
    if len(content) > MAX_TOKEN_FILE:
        raise _unusable("it's too large")
    token = content.decode("ascii", "replace").strip()
    if not _JWT.fullmatch(token):
        raise _unusable("it contains no JSON Web Token")
    return token


def _unusable(problem: str) -> MicrosoftRefused:
    return MicrosoftRefused(
        Verdict(
            kind=Kind.APP_CONFIG,
            code="token-file",
            cause=f"The token file that identifies the portal can't be used: {problem}.",
            action="An operator needs to check FEDERATED_TOKEN_PATH. The portal then continues automatically.",
            who=Who.IT_ADMIN,
            app_wide=True,
            credential=True,
        )
    )
