"""System checks for settings with which the portal starts, but would fail later or be unsafe.

Settings that are invalid on their own prevent the start (portal/settings_model.py).
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.http.request import validate_host

from connections.microsoft import clouds
from connections.models.tenants import SHARED_ENDPOINTS

# The settings that name files which the portal reads.
_READ = ("MICROSOFT_CA_BUNDLE", "REDIS_CA_BUNDLE", "AUDIT_STREAM_CA_BUNDLE", "AUDIT_STREAM_CLIENT_CERTIFICATE")


@register(Tags.security)
def audit_seal_keys(**kwargs: Any) -> list[CheckMessage]:
    """Report short keys. Anybody with access to the database could guess them and forge the audit trail."""
    return [
        Error(f"Key {number} of AUDIT_SEAL_KEYS is shorter than 32 characters.", id="connections.E007")
        for number, key in enumerate(settings.AUDIT_SEAL_KEYS, start=1)
        if len(key) < 32
    ]


@register(Tags.security, deploy=True)
def audit_protection(**kwargs: Any) -> list[CheckMessage]:
    """Warn unless seals have their own key and are published outside of the database."""
    warnings: list[CheckMessage] = []
    if not settings.AUDIT_SEAL_KEYS:
        problem = "AUDIT_SEAL_KEYS is not set, so seals of the audit trail are signed with SECRET_KEY."
        warnings.append(Warning(problem, hint="Set a key of its own (docs/audit.md).", id="connections.W005"))
    if not settings.AUDIT_SEAL_FILE and not settings.AUDIT_SEAL_WEBHOOK:
        problem = "Seals of the audit trail are published neither to a file nor to a webhook."
        hint = "Set AUDIT_SEAL_FILE or AUDIT_SEAL_WEBHOOK: only published seals show that the newest were removed."
        warnings.append(Warning(problem, hint=hint, id="connections.W006"))
    return warnings


@register(Tags.security, deploy=True)
def audit_stream(**kwargs: Any) -> list[CheckMessage]:
    """Streamed events name people, and a receiver should know that they come from this portal."""
    scheme = urlsplit(settings.AUDIT_STREAM_URL).scheme
    if scheme in ("syslog+tcp", "http"):
        problem = f"AUDIT_STREAM_URL starts with {scheme}://, so audit events are sent without encryption."
        return [Warning(problem, hint="Use syslog+tls:// or https://.", id="connections.W008")]
    if scheme == "https" and not settings.AUDIT_STREAM_SECRET:
        problem = "AUDIT_STREAM_SECRET is not set, so streamed audit events aren't signed."
        return [Warning(problem, hint="Set it, and let the receiver check the signature.", id="connections.W009")]
    return []


@register()
def portal_url(**kwargs: Any) -> list[CheckMessage]:
    """Warn about plain http. Microsoft accepts it in redirect URIs only for localhost (identity-platform/reply-url)."""
    if settings.HTTPS or settings.PORTAL_URL.startswith("http://localhost"):
        return []
    problem = (
        f"PORTAL_URL is {settings.PORTAL_URL}: Microsoft accepts only https, or http://localhost, in redirect URIs."
    )
    return [Warning(problem, id="connections.W001")]


@register()
def allowed_hosts(**kwargs: Any) -> list[CheckMessage]:
    """Report if ALLOWED_HOSTS lacks the portal's own host, and warn if it accepts any host."""
    host = urlsplit(settings.PORTAL_URL).hostname or ""
    if not validate_host(host, settings.ALLOWED_HOSTS):
        problem = f"ALLOWED_HOSTS doesn't contain {host}, the host of PORTAL_URL."
        return [Error(problem, hint=f"Add {host} to ALLOWED_HOSTS.", id="connections.E008")]
    if "*" in settings.ALLOWED_HOSTS:
        hint = "List the portal's host names in ALLOWED_HOSTS."
        return [Warning("ALLOWED_HOSTS accepts every host name.", hint=hint, id="connections.W007")]
    return []


@register()
def unknown_settings(**kwargs: Any) -> list[CheckMessage]:
    """Warn about misspelt settings, which would otherwise silently keep their default."""
    return [
        Warning(
            f"{name} isn't a setting of the portal.",
            hint=f"Did you mean {near}?" if near else None,
            id="connections.W002",
        )
        for name, near in settings.UNKNOWN_SETTINGS.items()
    ]


@register(Tags.security, deploy=True)
def trusted_proxies(**kwargs: Any) -> list[CheckMessage]:
    """Warn if https is used without trusted proxies. All requests would seem to come from the proxy's address."""
    if not settings.HTTPS or settings.TRUSTED_PROXIES:
        return []
    problem = (
        "PORTAL_URL starts with https, but TRUSTED_PROXIES is 0. Sign-in limits and the audit trail would use the "
        "proxy's address instead of each person's."
    )
    return [Warning(problem, hint="Set TRUSTED_PROXIES to the number of proxies in front.", id="connections.W003")]


@register(deploy=True)
def outgoing_mail(**kwargs: Any) -> list[CheckMessage]:
    """Warn if no mail server is configured. Alerts would then only be written to a log."""
    if settings.EMAIL_BACKEND.rpartition(".")[0] == "django.core.mail.backends.smtp":
        return []
    return [
        Warning("EMAIL_URL contains no mail server, so the portal can't send alerts by email.", id="connections.W004")
    ]


@register(deploy=True)
def files(**kwargs: Any) -> list[CheckMessage]:
    """Report files in settings that can't be read or written."""
    errors: list[CheckMessage] = []
    if settings.AUDIT_SEAL_FILE:
        directory = Path(settings.AUDIT_SEAL_FILE).absolute().parent
        if not directory.is_dir():
            errors.append(Error(f"AUDIT_SEAL_FILE is in {directory}, which doesn't exist.", id="connections.E005"))
        elif not os.access(
            settings.AUDIT_SEAL_FILE if os.path.exists(settings.AUDIT_SEAL_FILE) else directory, os.W_OK
        ):
            errors.append(Error(f"AUDIT_SEAL_FILE, in {directory}, cannot be written.", id="connections.E005"))
    for name in _READ:
        bundle = getattr(settings, name)
        if bundle and not os.access(bundle, os.R_OK):
            errors.append(Error(f"{name} is {bundle}, which cannot be read.", id="connections.E006"))
    return errors


@register()
def sign_in(**kwargs: Any) -> list[CheckMessage]:
    """Report an incomplete configuration of the Microsoft sign-in."""
    login = settings.LOGIN_MICROSOFT
    needed = {name: login[name] for name in ("tenant", "client_id", "client_secret")}
    missing = [name for name, value in needed.items() if not value]
    if not missing or len(missing) == len(needed):
        return []
    names = ", ".join(f"LOGIN_MICROSOFT_{name.upper()}" for name in missing)
    return [Error(f"The Microsoft sign-in configuration is incomplete: {names} missing.", id="connections.E002")]


@register()
def sign_in_directory(**kwargs: Any) -> list[CheckMessage]:
    """Report a Microsoft sign-in that isn't limited to a single directory in a known cloud."""
    login = settings.LOGIN_MICROSOFT
    errors: list[CheckMessage] = []
    if login["tenant"].lower() in SHARED_ENDPOINTS:
        problem = (
            f"LOGIN_MICROSOFT_TENANT is {login['tenant']}, which lets anyone with a Microsoft account sign in. "
            "Set the ID of your directory."
        )
        errors.append(Error(problem, id="connections.E003"))
    if login["tenant"] and login["environment"] not in clouds.CLOUDS:
        known = ", ".join(clouds.CLOUDS)
        problem = f"LOGIN_MICROSOFT_ENVIRONMENT is {login['environment']}; it must be one of {known}."
        errors.append(Error(problem, id="connections.E004"))
    return errors
