"""Access tokens, ID tokens and refresh tokens.

Refresh tokens are stateless: they contain person, app and grant in encrypted form. The sandbox stores none of them, and
old ones remain valid after rotation, as at Microsoft (identity-platform/refresh-tokens).
"""

import base64
import hashlib
import json
import secrets
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import jwt
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import rsa

from portal.sandbox import permissions
from portal.sandbox.state import App, Person, World

PREFIX = "1.AX"
MOST_GROUPS = 200  # in one token
GUESTS_HOME = "https://sts.windows.net/00000000-0000-4000-8000-00000000beef/"


@dataclass
class Grant:
    """The content of a refresh token. Times are in seconds since 1970."""

    id: str  # remains the same through all rotations
    client_id: str
    person: str
    tenant: str
    scopes: list[str]  # scopes of the first request, including OIDC scopes
    authenticated_at: float
    issued_at: float
    mfa: bool


def new_grant_id() -> str:
    return secrets.token_hex(12)


def seal(world: World, grant: Grant) -> str:
    """Return the refresh token for a grant."""
    token = world.fernet.encrypt(json.dumps(asdict(grant), separators=(",", ":")).encode())
    return PREFIX + token.decode().rstrip("=")


def unseal(world: World, token: str) -> Grant | None:
    """Return the grant in a refresh token, or None if this sandbox did not issue it."""
    if not token.startswith(PREFIX):
        return None
    raw = token[len(PREFIX) :]
    try:
        return Grant(**json.loads(world.fernet.decrypt((raw + "=" * (-len(raw) % 4)).encode())))
    except (InvalidToken, ValueError, TypeError):
        return None


def lifetime(world: World) -> int:
    """Return the lifetime of an access token in seconds: random between 60 and 90 minutes, unless it was set."""
    return world.token_lifetime or 3600 + secrets.randbelow(1800)


def _sign(world: World, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, world.signing_key, algorithm="RS256", headers={"kid": world.kid})


def _access_claims(world: World, app: App, tenant: str, seconds: int, audience: str) -> dict[str, Any]:
    now = int(world.now())
    return {
        "aud": permissions.GRAPH if audience == world.public_url else audience,
        "iss": f"https://sts.windows.net/{tenant}/",
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
        "app_displayname": app.name,
        "appid": app.client_id,
        "tid": tenant,
        "uti": secrets.token_urlsafe(16),
        "ver": "1.0",
    }


def access_token_for_person(
    world: World, app: App, person: Person, scopes: list[str], seconds: int, *, audience: str = permissions.GRAPH
) -> str:
    """Return a delegated access token. ``scp`` contains the permissions, without ``offline_access``."""
    claims = _access_claims(world, app, person.tenant, seconds, audience)
    scp = [name for name in scopes if name != "offline_access"]
    claims |= {
        "appidacr": "0" if app.platform == "public" else "1",
        "idtyp": "user",
        "name": person.name,
        "oid": person.id,
        "scp": " ".join(scp),
        "sub": pairwise(world, app, person),
        "unique_name": person.upn,
        "upn": person.upn,
        # 1 for guests, whose home is another identity provider (optional-claims-reference, access-token-claims).
        "acct": int(person.guest),
    }
    if person.guest:
        claims["idp"] = GUESTS_HOME
    return _sign(world, claims)


def access_token_for_app(
    world: World, app: App, tenant: str, roles: list[str], seconds: int, *, audience: str = permissions.GRAPH
) -> str:
    """Return an app-only access token. ``roles`` contains the permissions, and is missing if there are none."""
    claims = _access_claims(world, app, tenant, seconds, audience)
    principal = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{app.client_id}|{tenant}"))
    claims |= {"appidacr": "1", "idtyp": "app", "oid": principal, "sub": principal}
    if roles:
        claims["roles"] = roles
    return _sign(world, claims)


def id_token(world: World, app: App, person: Person, nonce: str, authenticated_at: float | None = None) -> str:
    """Return an ID token of the v2.0 endpoint (identity-platform/id-token-claims-reference).

    ``auth_time`` is an optional claim, which is sent only if it was requested.
    """
    now = int(world.now())
    claims: dict[str, Any] = {
        "aud": app.client_id,
        "iss": f"{world.public_url}/{person.tenant}/v2.0",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "email": person.mail or person.upn,
        "name": person.name,
        "oid": person.id,
        "preferred_username": person.mail if person.guest else person.upn,
        "sub": pairwise(world, app, person),
        "tid": person.tenant,
        "uti": secrets.token_urlsafe(16),
        "ver": "2.0",
    }
    if nonce:
        claims["nonce"] = nonce
    if authenticated_at is not None:
        claims["auth_time"] = int(authenticated_at)
    if person.guest:
        claims["idp"] = GUESTS_HOME
    if app.app_roles.get(person.id):
        claims["roles"] = app.app_roles[person.id]
    groups = app.groups.get(person.id, [])
    if len(groups) > MOST_GROUPS:
        # With too many groups, the token contains only the endpoint that lists them
        # (identity-platform/access-token-claims-reference).
        where = f"https://graph.windows.net/{person.tenant}/users/{person.id}/getMemberObjects"
        claims |= {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": where}}}
    elif groups:
        claims["groups"] = groups
    return _sign(world, claims)


def pairwise(world: World, app: App, person: Person) -> str:
    """Return a person's ``sub``, which differs between apps."""
    digest = hashlib.sha256(f"{app.client_id}|{person.id}|sandbox".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def client_info(person: Person) -> str:
    """Return the field that ``client_info=1`` adds to the response."""
    raw = json.dumps({"uid": person.id, "utid": person.tenant}).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def jwks(world: World) -> dict[str, Any]:
    """Return the public signing key as a JSON Web Key Set."""
    numbers: rsa.RSAPublicNumbers = world.signing_key.public_key().public_numbers()

    def text(number: int) -> str:
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    key = {"kty": "RSA", "use": "sig", "kid": world.kid, "alg": "RS256", "n": text(numbers.n), "e": text(numbers.e)}
    return {"keys": [key]}
