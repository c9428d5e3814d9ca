"""Passkeys in the browser (W3C WebAuthn): build the request, and verify the browser's response."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import webauthn
from django.conf import settings
from webauthn.helpers import bytes_to_base64url
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from connections.errors import PortalError
from connections.models import User


class PasskeyRefused(PortalError):
    code = "passkey_refused"
    status = 422
    cause = "The passkey could not be verified."
    action = "Try again, or use a code instead."


@dataclass(frozen=True, slots=True)
class CreatedPasskey:
    credential_id: str
    public_key: str
    sign_count: int


def creation_options(person: User, *, existing: Iterable[str]) -> tuple[str, str]:
    """Return the options with which the browser creates a passkey, as JSON, and their challenge."""
    options = webauthn.generate_registration_options(
        rp_id=_host(),
        rp_name="Connections for Microsoft 365",
        user_id=f"portal:{person.pk}".encode(),
        user_name=person.username,
        user_display_name=str(person),
        exclude_credentials=_descriptors(existing),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED, user_verification=UserVerificationRequirement.PREFERRED
        ),
    )
    return webauthn.options_to_json(options), bytes_to_base64url(options.challenge)


def request_options(existing: Iterable[str]) -> tuple[str, str]:
    """Return the options with which the browser uses a passkey, as JSON, and their challenge."""
    options = webauthn.generate_authentication_options(
        rp_id=_host(),
        allow_credentials=_descriptors(existing),
        user_verification=UserVerificationRequirement.PREFERRED,
    )
    return webauthn.options_to_json(options), bytes_to_base64url(options.challenge)


def verify_created(answer: str, *, challenge: str) -> CreatedPasskey:
    """Return the passkey that the browser has created. Raises PasskeyRefused."""
    try:
        verified = webauthn.verify_registration_response(
            credential=answer,
            expected_challenge=webauthn.base64url_to_bytes(challenge),
            expected_rp_id=_host(),
            expected_origin=settings.PORTAL_URL,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise PasskeyRefused from error
    return CreatedPasskey(
        bytes_to_base64url(verified.credential_id),
        bytes_to_base64url(verified.credential_public_key),
        verified.sign_count,
    )


def verify_used(answer: str, *, challenge: str, public_key: str, sign_count: int) -> int:
    """Verify that the passkey was used, and return its new counter. Raises PasskeyRefused."""
    try:
        verified = webauthn.verify_authentication_response(
            credential=answer,
            expected_challenge=webauthn.base64url_to_bytes(challenge),
            expected_rp_id=_host(),
            expected_origin=settings.PORTAL_URL,
            credential_public_key=webauthn.base64url_to_bytes(public_key),
            credential_current_sign_count=sign_count,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise PasskeyRefused from error
    return verified.new_sign_count


def credential_id_of(answer: str) -> str:
    """Return the credential ID in a browser's response, or "" if there is none."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        return ""
    return str(parsed.get("id", "")) if isinstance(parsed, dict) else ""


def _host() -> str:
    return urlsplit(settings.PORTAL_URL).hostname or "localhost"


def _descriptors(ids: Iterable[str]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=webauthn.base64url_to_bytes(value)) for value in ids]
