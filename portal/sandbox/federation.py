"""Checks other issuers' assertions against the keys that they publish (Microsoft: workload-identity-federation)."""

import json
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import jwt

from portal.sandbox import errors
from portal.sandbox.state import App, FederatedCredential, World

KEYS_KEPT = 300.0  # seconds for which an issuer's keys are cached; an unknown key does not reload them
TIMEOUT = 5.0
MAX_ANSWER = 100_000  # bytes
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_lock = threading.Lock()
_kept: dict[str, tuple[float, dict[str, Any]]] = {}


def forget_keys() -> None:
    with _lock:
        _kept.clear()


def check(world: World, app: App, assertion: str) -> None:
    """Raise EntraError unless one of the app's federated credentials matches the assertion exactly."""
    try:
        header = jwt.get_unverified_header(assertion)
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise errors.refusal(50027, reason="The assertion isn't a JSON Web Token.") from None
    credential = _matching(world, app, claims)
    if header.get("alg") != "RS256":
        raise errors.refusal(50027, reason="Only RS256 is supported.")
    key = _keys(world, credential.issuer).get(str(header.get("kid")))
    if key is None:
        raise errors.refusal(50027, reason="The issuer publishes no key with this key identifier.")
    try:
        options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        jwt.decode(assertion, key, algorithms=["RS256"], options={**options, "require": ["exp", "jti"]})  # type: ignore[arg-type]
    except jwt.InvalidTokenError:
        raise errors.refusal(50027, reason="The signature is wrong.") from None
    _check_times(world, claims)


def _matching(world: World, app: App, claims: dict[str, Any]) -> FederatedCredential:
    effective = [each for each in app.federated if each.effective_at <= world.now()]
    issuer, subject, audience = claims.get("iss"), claims.get("sub"), claims.get("aud")
    if not effective:
        raise errors.refusal(70021, issuer=issuer, subject=subject, audience=audience)
    with_issuer = [each for each in effective if each.issuer == issuer]
    if not with_issuer:
        raise errors.refusal(700211, issuer=issuer)
    with_subject = [each for each in with_issuer if each.subject == subject]
    if not with_subject:
        raise errors.refusal(700213, subject=subject)
    for credential in with_subject:
        if audience in credential.audiences:  # the assertion must have a single audience, so not a list
            return credential
    raise errors.refusal(700212, audience=audience)


def _check_times(world: World, claims: dict[str, Any]) -> None:
    now, skew = world.now(), 300.0
    try:
        start, end = float(claims.get("nbf", claims.get("iat", 0))), float(claims["exp"])
    except (KeyError, TypeError, ValueError):
        raise errors.refusal(50027, reason="The assertion has no validity period.") from None
    if not start - skew <= now <= end + skew:
        times = {"now": errors.precise(now), "valid_from": errors.precise(start), "expires": errors.precise(end)}
        raise errors.refusal(700024, **times)


def _keys(world: World, issuer: str) -> dict[str, Any]:
    """Return the issuer's published keys by "kid". They are read over HTTP, at most every few minutes."""
    with _lock:
        read_at, keys = _kept.get(issuer, (0.0, {}))
    if read_at > world.now() - KEYS_KEPT:
        return keys
    document = _read(f"{issuer}/.well-known/openid-configuration", issuer)
    if document.get("issuer") != issuer:
        raise errors.refusal(50027, reason=f"The keys of {issuer} can't be read.")
    published = _read(str(document.get("jwks_uri")), issuer).get("keys", [])
    keys = {str(key.get("kid")): jwt.PyJWK(key).key for key in published}
    with _lock:
        _kept[issuer] = (world.now(), keys)
    return keys


def _read(url: str, issuer: str) -> dict[str, Any]:
    """Read JSON from this machine. The sandbox never calls another machine."""
    if urlsplit(url).hostname not in _LOOPBACK:
        raise errors.refusal(50027, reason=f"The keys of {issuer} can't be read.")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT) as response:
            content = json.loads(response.read(MAX_ANSWER))
    except (OSError, ValueError):
        raise errors.refusal(50027, reason=f"The keys of {issuer} can't be read.") from None
    if not isinstance(content, dict):
        raise errors.refusal(50027, reason=f"The keys of {issuer} can't be read.")
    return content
