"""Requests with which applications change their own secrets and certificates: addKey, removeKey and so on.

Microsoft Graph: application-addkey, application-rollkey-prooftoken, application-addpassword.
"""

import base64
import binascii
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from portal.sandbox.graph_errors import Caller, GraphError, insufficient, missing
from portal.sandbox.state import App, Certificate, Secret, World

Answer = tuple[int, dict[str, Any] | None]
Words = dict[str, str]

PROOF_AUDIENCE = "00000002-0000-0000-c000-000000000000"
PROOF_LIFETIME = 600
YEAR = 365 * 86400.0


def add_key(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """POST /applications/{id}/addKey: needs no permission, but a proof signed with a valid certificate of the app."""
    app = _itself(here, caller, words)
    content = _content(sent)
    _check_proof(here, app, content.get("proof"))
    key = content.get("keyCredential")
    if not isinstance(key, dict) or (key.get("type"), key.get("usage")) != ("AsymmetricX509Cert", "Verify"):
        raise _bad("Invalid value specified for property 'keyCredential'.")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(str(key.get("key")), validate=True))
    except (ValueError, binascii.Error):
        raise _bad("Key value is invalid certificate.") from None
    held = Certificate(
        id=str(uuid.uuid4()),
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        name=certificate.subject.rfc4514_string(),
        sha1=certificate.fingerprint(hashes.SHA1()).hex(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        starts_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
        effective_at=here.now() + here.credential_delay,
    )
    if any(each.sha256 == held.sha256 for each in app.certificates):
        raise _bad("A key with the same value exists already.")
    with here.change():
        app.certificates.append(held)
    return 200, {
        "customKeyIdentifier": held.sha1.upper(),
        "displayName": held.name,
        "endDateTime": _time(held.expires_at),
        "key": None,
        "keyId": held.id,
        "startDateTime": _time(held.starts_at),
        "type": "AsymmetricX509Cert",
        "usage": "Verify",
    }


def remove_key(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    app = _itself(here, caller, words)
    content = _content(sent)
    _check_proof(here, app, content.get("proof"))
    kept = [each for each in app.certificates if each.id != content.get("keyId")]
    if len(kept) == len(app.certificates):
        raise _bad("No credentials found to be removed.")
    with here.change():
        app.certificates = kept
    return 204, None


def add_password(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """POST /applications/{id}/addPassword: needs a permission. With OwnedBy, the caller must own the application."""
    app = _owned(here, caller, words)
    wanted = _content(sent).get("passwordCredential")
    if not isinstance(wanted, dict):
        raise _bad("Invalid value specified for property 'passwordCredential'.")
    try:
        end = datetime.fromisoformat(wanted["endDateTime"]).timestamp() if "endDateTime" in wanted else None
    except (ValueError, TypeError):
        raise _bad("Invalid value specified for property 'endDateTime'.") from None
    now = here.now()
    secret = Secret(
        id=str(uuid.uuid4()),
        value=f"sbx8Q~{secrets.token_urlsafe(26)}.~",
        name=str(wanted.get("displayName") or ""),
        starts_at=now,
        expires_at=end or now + 2 * YEAR,
        effective_at=now + here.credential_delay,
    )
    with here.change():
        app.secrets.append(secret)
    return 200, {
        "customKeyIdentifier": None,
        "displayName": secret.name,
        "endDateTime": _time(secret.expires_at),
        "hint": secret.value[:3],
        "keyId": secret.id,
        "secretText": secret.value,
        "startDateTime": _time(secret.starts_at),
    }


def remove_password(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    app = _owned(here, caller, words)
    kept = [each for each in app.secrets if each.id != _content(sent).get("keyId")]
    if len(kept) == len(app.secrets):
        raise _bad("No credentials found to be removed.")
    with here.change():
        app.secrets = kept
    return 204, None


def _content(sent: Any) -> dict[str, Any]:
    if not isinstance(sent, dict):
        raise _bad("Unable to read JSON request payload.")
    return sent


def _bad(message: str) -> GraphError:
    return GraphError(400, "Request_BadRequest", message)


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _addressed(here: World, caller: Caller, words: Words) -> App:
    for app in list(here.apps.values()):
        if app.object_id == words["object_id"].lower() and app.tenant == caller.tenant and not app.deleted:
            return app
    raise missing(words["object_id"])


def _itself(here: World, caller: Caller, words: Words) -> App:
    app = _addressed(here, caller, words)
    if caller.person is not None or caller.app.client_id != app.client_id:
        raise insufficient()
    return app


def _owned(here: World, caller: Caller, words: Words) -> App:
    app = _addressed(here, caller, words)
    if "Application.ReadWrite.All" in caller.permissions:
        return app
    if "Application.ReadWrite.OwnedBy" in caller.permissions and caller.app.client_id in app.owners:
        return app
    raise insufficient()


def _check_proof(here: World, app: App, proof: Any) -> None:
    """Check the self-signed token that proves possession of one of the app's valid certificates. Raises GraphError."""
    now = here.now()
    valid = [each for each in app.certificates if each.starts_at <= now < each.expires_at and each.effective_at <= now]
    for held in valid:
        key = x509.load_pem_x509_certificate(held.pem.encode()).public_key()
        options = {"verify_exp": False, "verify_nbf": False, "require": ["aud", "iss", "nbf", "exp"]}
        try:
            claims = jwt.decode(str(proof), key, algorithms=["RS256"], audience=PROOF_AUDIENCE, options=options)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            continue
        is_timely = (
            claims["nbf"] - 300 <= now <= claims["exp"] + 300 and claims["exp"] - claims["nbf"] <= PROOF_LIFETIME
        )
        if claims["iss"] == app.object_id and is_timely:
            return
    raise insufficient()
