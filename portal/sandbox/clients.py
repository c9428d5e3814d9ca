"""Client authentication: secret, certificate or none."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

import jwt
from cryptography import x509
from django.http import HttpRequest

from portal.sandbox import consents, errors, federation
from portal.sandbox.state import CONSUMERS, MULTI_TENANT, SINGLE_TENANT, App, Certificate, Directory, World

ALIASES = ("common", "organizations", "consumers")
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def directory(world: World, segment: str) -> Directory | None:
    """Return the directory for the tenant segment of a URL; None for ``common`` and ``organizations``.

    Raises EntraError if there is no such directory.
    """
    if segment.lower() in ("common", "organizations"):
        return None
    match = world.directory(segment)
    if match is None:
        looks_right = "." in segment or segment.count("-") == 4
        raise errors.refusal(90002 if looks_right else 900023, tenant=segment)
    return match


def app_in(world: World, client_id: str, where: Directory | None) -> App:
    """Return the app, as seen from a directory or, if ``where`` is None, from a shared endpoint.

    Raises EntraError if the app is unknown or disabled there.
    """
    app = world.app(client_id)
    if app is None:
        raise errors.refusal(700016, client_id=client_id, tenant_name=where.name if where else "Microsoft Services")
    if where is not None and where.id == CONSUMERS and app.audience in (SINGLE_TENANT, MULTI_TENANT):
        raise errors.refusal(9002332, client_id=app.client_id, app_name=app.name)
    if app.audience == SINGLE_TENANT:
        if where is None:
            raise errors.refusal(50194, client_id=app.client_id, app_name=app.name)
        if where.id != app.tenant:
            raise errors.refusal(700016, client_id=client_id, tenant_name=where.name)
    if app.disabled or (where is not None and where.id in app.disabled_in):
        raise errors.refusal(7000112, client_id=app.client_id, app_name=app.name)
    return app


def credentials(request: HttpRequest) -> dict[str, str]:
    """Return the form of a token request, completed with its HTTP Basic credentials (RFC 6749, section 2.3.1)."""
    form = {name: value for name, value in request.POST.items() if isinstance(value, str)}
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise errors.refusal(90023) from None
        form.setdefault("client_id", unquote_plus(name))
        form.setdefault("client_secret", unquote_plus(secret))
    return form


def authenticate(world: World, app: App, form: Mapping[str, str], authority: str) -> None:
    """Check the app's credentials. ``authority`` is the URL's tenant segment. Raises EntraError if they are wrong."""
    secret = form.get("client_secret", "")
    assertion = form.get("client_assertion", "")
    if app.platform == "public":
        if secret or assertion:
            raise errors.refusal(700025)
        return
    if assertion:
        _check_assertion(world, app, assertion, authority)
    elif secret:
        _check_secret(world, app, secret)
    else:
        raise errors.refusal(7000218)


def _check_secret(world: World, app: App, secret: str) -> None:
    for held in app.secrets:
        if hmac.compare_digest(held.value.encode(), secret.encode()):
            if held.effective_at > world.now():
                break
            if held.expires_at <= world.now():
                raise errors.refusal(7000222, client_id=app.client_id)
            return
    raise errors.refusal(7000215, client_id=app.client_id)


def _thumbprint(value: object) -> str:
    try:
        raw = str(value)
        return base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).hex()
    except (binascii.Error, ValueError):
        return ""


def _certificate(world: World, app: App, header: Mapping[str, Any]) -> Certificate:
    sha1, sha256 = _thumbprint(header.get("x5t", "")), _thumbprint(header.get("x5t#S256", ""))
    for held in app.certificates:
        if held.effective_at > world.now():
            continue
        if (sha256 and held.sha256 == sha256) or (sha1 and held.sha1 == sha1):
            return held
    raise errors.refusal(
        700027, reason="The key was not found.", thumbprint=(sha1 or sha256).upper(), client_id=app.client_id
    )


def _check_assertion(world: World, app: App, assertion: str, authority: str) -> None:
    """Check a client assertion (Microsoft: identity-platform/certificate-credentials). Raises EntraError."""
    try:
        header = jwt.get_unverified_header(assertion)
    except jwt.InvalidTokenError:
        raise errors.refusal(90023) from None
    if not header.get("x5t") and not header.get("x5t#S256"):
        federation.check(world, app, assertion)
        return
    held = _certificate(world, app, header)

    def refused(reason: str) -> errors.EntraError:
        return errors.refusal(700027, reason=reason, thumbprint=held.sha1.upper(), client_id=app.client_id)

    key = x509.load_pem_x509_certificate(held.pem.encode()).public_key()
    try:
        claims = jwt.decode(
            assertion,
            key,  # type: ignore[arg-type]
            algorithms=["PS256", "RS256"],
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
    except jwt.InvalidTokenError:
        raise refused("The key used is not the one that signed the assertion.") from None
    if not held.starts_at <= world.now() < held.expires_at:
        raise refused("The key used is expired.")
    if claims.get("iss") != app.client_id or claims.get("sub") != app.client_id:
        raise refused("Issuer and subject must both be the application.")
    _check_times(world, claims)
    _check_audience(world, app, claims.get("aud"), authority)


def _check_times(world: World, claims: Mapping[str, Any]) -> None:
    now, allowed_skew = world.now(), 300.0
    try:
        start, end = float(claims.get("nbf", claims.get("iat", 0))), float(claims["exp"])
    except (KeyError, TypeError, ValueError):
        raise errors.refusal(90023) from None
    if not start - allowed_skew <= now <= end + allowed_skew:
        times = {"now": errors.precise(now), "valid_from": errors.precise(start), "expires": errors.precise(end)}
        raise errors.refusal(700024, **times)


def _check_audience(world: World, app: App, audience: object, authority: str) -> None:
    where = world.directory(authority)
    segments = {authority, *((where.id, where.domain) if where else ())}
    allowed = set()
    for segment in segments:
        base = f"{world.public_url}/{segment}"
        allowed |= {base, f"{base}/", f"{base}/v2.0", f"{base}/oauth2/v2.0/token", f"{base}/oauth2/token"}
    if audience not in allowed:
        raise errors.refusal(700023)


def principal(world: World, app: App, where: Directory) -> None:
    """Raise EntraError if the app has no service principal in the directory."""
    if not consents.installed(world, app, where.id):
        raise errors.refusal(7000229, client_id=app.client_id, tenant=where.id)
