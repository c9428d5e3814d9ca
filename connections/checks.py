"""System checks for settings that would let the portal start, but make it fail later."""

from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from connections.microsoft import clouds
from connections.models.tenants import SHARED_ENDPOINTS


@register(Tags.security)
def encryption_keys(**kwargs: Any) -> list[CheckMessage]:
    """FIELD_ENCRYPTION_KEYS must contain Fernet keys."""
    for number, key in enumerate(settings.FIELD_ENCRYPTION_KEY, start=1):
        try:
            Fernet(key)
        except ValueError:
            problem = f"Key {number} of FIELD_ENCRYPTION_KEYS is not a Fernet key (32 bytes, URL-safe base64)."
            return [Error(problem, id="connections.E001")]
    return []


@register()
def portal_url(**kwargs: Any) -> list[CheckMessage]:
    """Microsoft accepts plain http in redirect URIs only for localhost (identity-platform/reply-url)."""
    if settings.HTTPS or settings.PORTAL_URL.startswith("http://localhost"):
        return []
    problem = (
        f"PORTAL_URL is {settings.PORTAL_URL}: Microsoft accepts only https, or http://localhost, in redirect URIs."
    )
    return [Warning(problem, id="connections.W001")]


@register()
def sign_in(**kwargs: Any) -> list[CheckMessage]:
    """Microsoft sign-in must be configured completely or not at all."""
    login = settings.LOGIN_MICROSOFT
    needed = {name: login[name] for name in ("tenant", "client_id", "client_secret")}
    missing = [name for name, value in needed.items() if not value]
    if not missing or len(missing) == len(needed):
        return []
    names = ", ".join(f"LOGIN_MICROSOFT_{name.upper()}" for name in missing)
    return [Error(f"Microsoft sign-in is only half configured: {names} missing.", id="connections.E002")]


@register()
def sign_in_directory(**kwargs: Any) -> list[CheckMessage]:
    """Microsoft sign-in requires a single directory in a known cloud."""
    login = settings.LOGIN_MICROSOFT
    errors: list[CheckMessage] = []
    if login["tenant"].lower() in SHARED_ENDPOINTS:
        problem = (
            f"LOGIN_MICROSOFT_TENANT is {login['tenant']}, which lets anybody with a Microsoft account in. "
            "Set the ID of your directory."
        )
        errors.append(Error(problem, id="connections.E003"))
    if login["tenant"] and login["environment"] not in clouds.CLOUDS:
        known = ", ".join(clouds.CLOUDS)
        problem = f"LOGIN_MICROSOFT_ENVIRONMENT is {login['environment']}; it must be one of {known}."
        errors.append(Error(problem, id="connections.E004"))
    return errors
