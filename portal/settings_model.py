"""Every setting of the portal, with its name, kind and default. portal/settings.py maps them to Django's names.

Settings come from environment variables. ``.env`` adds those that are not set in the environment. A value can also be
in a file whose path is in NAME_FILE; the file then takes precedence. An empty value means the default, except for a
list.
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

from django.core.exceptions import ImproperlyConfigured
from dotenv import load_dotenv
from pydantic import ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from portal import setting_kinds as kinds

BASE_DIR = Path(__file__).resolve().parent.parent


# The version that added each setting, if it is not 0.1.0.
SINCE = {
    "0.3.0": (
        "AUDIT_SEAL_KEYS", "EMERGENCY_ACCESS_HOURS", "ENTRA_AUTHORITY_MAX_AGE", "FRESH_SIGN_IN_MINUTES",
        "LOGIN_MICROSOFT_DIRECTORIES", "LOGIN_MICROSOFT_GUESTS", "LOGIN_MICROSOFT_SECRET_EXPIRES", "REDIS_CA_BUNDLE",
        "REDIS_PREFIX", "SESSION_IDLE_MINUTES", "SESSION_MAX_HOURS",
    ),
    "0.4.0": ("FEDERATED_TOKEN_PATH",),
    "0.5.0": (
        "AUDIT_STREAM_CA_BUNDLE", "AUDIT_STREAM_CLIENT_CERTIFICATE", "AUDIT_STREAM_PRIVATE_TARGET", "AUDIT_STREAM_SECRET",
        "AUDIT_STREAM_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "SECURE_HSTS_INCLUDE_SUBDOMAINS", "SECURE_HSTS_PRELOAD", "STATISTICS_DAYS",
        "STATISTICS_INTERVAL", "WATCHDOG_SECONDS",
    ),
}  # fmt: skip


class PortalSettings(BaseSettings):
    """The settings, by the names of their environment variables.

    The text below each setting is its documentation. settings_document.py generates docs/settings.md and .env.example
    from these texts.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    SECRET_KEY: kinds.Secret
    """Signs sessions and links. Changing it signs everybody out. Create one: openssl rand -hex 32"""
    FIELD_ENCRYPTION_KEYS: kinds.FernetKeys
    """Encrypts tokens and client secrets at rest: the first key encrypts, all decrypt. As a file
    (FIELD_ENCRYPTION_KEYS_FILE) it is read again on SIGHUP. Back it up separately from the database; docs/operating.md says
    how to change it. Create one: openssl rand -base64 32 | tr '+/' '-_'"""

    PORTAL_URL: kinds.Origin = "http://localhost:8000"
    """The public URL, without a path. The redirect URIs to add in Entra are based on it. https turns on secure cookies, HSTS
    and the redirect to https."""
    ALLOWED_HOSTS: kinds.Names = []
    """Allowed host names. Default: the host of PORTAL_URL."""
    TRUSTED_PROXIES: kinds.NumberOrZero = 0
    """Number of reverse proxies in front that set X-Forwarded-For and X-Forwarded-Proto. 0: none, ignore these headers."""
    SECURE_SSL_REDIRECT: kinds.Switch = True
    """Redirect plain http, if PORTAL_URL has https."""
    SECURE_HSTS_SECONDS: kinds.NumberOrZero = 31536000
    """How long browsers remember to use https only (HSTS), if PORTAL_URL has https. 0: no HSTS."""
    SECURE_HSTS_INCLUDE_SUBDOMAINS: kinds.Switch = True
    """Whether HSTS includes all subdomains of the portal's host. Turn it off if one of them has no https."""
    SECURE_HSTS_PRELOAD: kinds.Switch = True
    """Whether browsers may keep the host in the list that they are shipped with. Nothing is registered there automatically."""
    DEBUG: kinds.Switch = False
    """Detailed error pages. Never use in production."""

    DATABASE_URL: kinds.DatabaseURL = f"sqlite:///{BASE_DIR / 'portal.sqlite3'}"
    """PostgreSQL, or SQLite for trying the portal. Default: portal.sqlite3 in the project's directory."""
    CONN_MAX_AGE: kinds.NumberOrZero = 60
    """Lifetime of a PostgreSQL connection, in seconds."""
    REDIS_URL: kinds.RedisURL = "redis://127.0.0.1:6379/0"
    """Redis or Valkey: broker, locks and limits. redis://, rediss:// (TLS) or unix:///path/to.sock?db=0"""
    REDIS_CA_BUNDLE: kinds.Path = ""
    """PEM bundle that replaces the public certificate authorities for rediss://, which always verifies certificates."""
    REDIS_PREFIX: kinds.Prefix = ""
    """What every key in Redis begins with, so that several portals can share a server. Default: host and port of PORTAL_URL."""

    LOGIN_MICROSOFT_TENANT: kinds.Text = ""
    """The tenant whose people sign in with Microsoft. Set this, the client ID and the client secret, or none of them. Redirect
    URI to add in Entra: {PORTAL_URL}/auth/complete/microsoft/"""
    LOGIN_MICROSOFT_CLIENT_ID: kinds.Text = ""
    """Application (client) ID of the app registration for sign-in."""
    LOGIN_MICROSOFT_CLIENT_SECRET: kinds.Secret = ""
    """Client secret of the app registration for sign-in."""
    LOGIN_MICROSOFT_SECRET_EXPIRES: kinds.OptionalDay = None
    """The day on which that client secret expires: the portal lists it and warns before."""
    LOGIN_MICROSOFT_ENVIRONMENT: kinds.Text = "global"
    """The cloud of the sign-in tenant: global, usgov_l4, usgov_l5, china (or sandbox)."""
    LOGIN_MICROSOFT_ADMINS: kinds.Names = ["ITAdmin"]
    """App roles or group object IDs that grant the IT admin role."""
    LOGIN_MICROSOFT_AUDITORS: kinds.Names = ["Auditor"]
    """App roles or group object IDs that grant the auditor role."""
    LOGIN_MICROSOFT_DIRECTORIES: kinds.Names = []
    """Guests who can sign in, by the IDs of their home directories. By default only the sign-in tenant's own accounts can."""
    LOGIN_MICROSOFT_GUESTS: kinds.Names = []
    """Guests who can sign in, by their object IDs in the sign-in tenant; * allows all guests."""
    ENTRA_AUTHORITY_MAX_AGE: kinds.HoursOrZero = 24.0
    """Hours for which roles and teams from Entra count after the last sign-in or background check. 0: no limit."""
    EMERGENCY_ACCESS_HOURS: kinds.Number = 4
    """The longest emergency access of an IT admin to another person's connection, in hours."""
    LOGIN_FAILURE_LIMIT: kinds.Number = 5
    """Wrong local passwords of one name from one address before a pause of 15 minutes. One address (IPv6: one /64) may fail
    twice as often, one name from everywhere four times, everybody together twenty times."""
    SESSION_IDLE_MINUTES: kinds.Number = 120
    """Minutes without use after which a session ends."""
    SESSION_MAX_HOURS: kinds.Number = 12
    """Hours after the sign-in at which a session ends in any case."""
    FRESH_SIGN_IN_MINUTES: kinds.Number = 15
    """Minutes after a sign-in in which keys, credentials, policy, owners and roles can be changed and records exported."""

    EMAIL_URL: kinds.EmailURL = "consolemail://"
    """The mail server. smtp+tls:// (STARTTLS), smtp+ssl://, smtp:// or consolemail:// (into the log)"""
    EMAIL_FROM: kinds.Text = ""
    """The sender's address. Default: portal@ and the host of PORTAL_URL."""
    EMAIL_TIMEOUT: kinds.Seconds = 15.0
    """Timeout of the mail server, in seconds."""

    ALERT_INTERVAL: kinds.Seconds = 10.0
    """Seconds between deliveries of waiting alerts."""
    ALERT_COPY_TO: kinds.Names = []
    """Addresses (a mailing list of the IT admins) that get a copy of every alert, instead of each IT admin."""
    ALERT_PRIVATE_TARGETS: kinds.Switch = False
    """Whether alert channels can use private addresses and plain http. Off: people who add channels can't make the portal
    send requests to your network."""

    API_RATE_LIMIT: kinds.NumberOrZero = 600
    """Calls per minute of one API key. 0: no limit."""
    API_BAD_KEY_LIMIT: kinds.NumberOrZero = 60
    """Calls per minute with invalid keys from one address. 0: no limit."""
    API_KEY_MAX_DAYS: kinds.NumberOrZero = 730
    """Maximum validity of an API key, in days. 0: no limit."""

    AUDIT_INTERVAL: kinds.Seconds = 15.0
    """Seconds between sealing runs."""
    AUDIT_RETENTION_DAYS: kinds.NumberOrZero = 0
    """Days to keep events, token requests, delivered alerts and notifications. 0: no limit. Seals are always kept. Access that
    ended earlier is also removed from the access history."""
    AUDIT_SEAL_KEYS: kinds.Secrets = []
    """Keys that sign the seals, at least 32 characters each: the first signs, all verify; SECRET_KEY is used as the last one.
    Keep them where the database's administrators can't read them."""
    AUDIT_SEAL_FILE: kinds.Path = ""
    """A file of JSON lines to which seals are appended, so that the trail can be checked against something outside the
    database. (The _FILE is part of the name: the value is where to write.)"""
    AUDIT_SEAL_WEBHOOK: kinds.WebAddress = ""
    """An address that gets every seal as a signed webhook."""
    AUDIT_SEAL_WEBHOOK_SECRET: kinds.Secret = ""
    """Signs these webhooks: whsec_ and base64."""
    AUDIT_SEAL_LOG: kinds.Switch = True
    """Whether seals are published in the log."""

    AUDIT_STREAM_URL: kinds.StreamURL = ""
    """The receiver of every event and token request, for example a SIEM: syslog+tls://host:6514, syslog+tcp://host:514 or
    https://… (JSON, as signed webhooks)."""
    AUDIT_STREAM_SECRET: kinds.SigningSecret = ""
    """Signs these webhooks: whsec_ and base64."""
    AUDIT_STREAM_PRIVATE_TARGET: kinds.Switch = False
    """Whether AUDIT_STREAM_URL may lead to a private address, or have plain http."""
    AUDIT_STREAM_CA_BUNDLE: kinds.Path = ""
    """PEM bundle that replaces the public certificate authorities for this receiver."""
    AUDIT_STREAM_CLIENT_CERTIFICATE: kinds.Path = ""
    """PEM file with the certificate, and its key, that the portal shows to a syslog+tls:// receiver."""

    STATISTICS_INTERVAL: kinds.Seconds = 600.0
    """Seconds between countings of the figures that charts show."""
    STATISTICS_DAYS: kinds.Number = 400
    """Days for which these figures are kept."""

    MICROSOFT_TIMEOUT: kinds.Seconds = 15.0
    """Timeout of one call, in seconds."""
    MICROSOFT_CA_BUNDLE: kinds.Path = ""
    """PEM bundle that replaces the public certificate authorities, for a proxy that inspects TLS."""
    MICROSOFT_SANDBOX_URL: kinds.WebAddress = ""
    """Adds the environment sandbox at this address. https, or http on this machine."""
    FEDERATED_TOKEN_PATH: kinds.ReadableFile = ""
    """File with a token of a managed identity or a Kubernetes service account, which app registrations can trust instead of a
    secret. It is read at each use, because it is replaced before it expires."""

    SWEEP_INTERVAL: kinds.Seconds = 15.0
    """Seconds between checks for due refreshes."""
    PROBE_INTERVAL: kinds.Seconds = 300.0
    """Seconds between checks for shared mailboxes to test."""
    LOOK_AHEAD_INTERVAL: kinds.Seconds = 600.0
    """Seconds between checks for expiration dates."""
    SWEEP_BATCH: kinds.Number = 500
    """Connections that a worker refreshes in one batch."""
    SWEEP_IN_FLIGHT: kinds.Number = 200
    """Calls to Microsoft at the same time, per worker."""
    WATCHDOG_SECONDS: kinds.Seconds = 600.0
    """Seconds without a tick after which a worker or beat ends with code 75, so that its supervisor starts it again."""

    BIND: kinds.Text = "127.0.0.1:8000"
    """The address of the web server: host:port, or unix: and a path."""
    WEB_WORKERS: kinds.Number = 1
    """Processes of the web server."""
    WEB_THREADS: kinds.Number = 8
    """Threads of each of them, for everything but token requests."""
    LOG_LEVEL: kinds.LogLevel = "INFO"
    """The lowest level that is logged."""
    METRICS_TOKEN: kinds.Secret = ""
    """Bearer token to read /metrics. Without one, only this machine can read it, and not through a proxy."""

    OTEL_EXPORTER_OTLP_ENDPOINT: kinds.TraceReceiver = ""
    """Where traces are sent (OTLP over HTTP), for example a collector's http://localhost:4318. Needs the packages in
    requirements-tracing.txt. Empty: no traces."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_unreadable_files(cls, value: object) -> object:
        if isinstance(value, _Unreadable):
            raise value
        return value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *args: PydanticBaseSettingsSource, **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (_Environment(settings_cls),)


class _Unreadable(ValueError):
    """The value of a setting whose file cannot be read."""


class _Environment(PydanticBaseSettingsSource):
    """Reads values exactly as they are in the environment or in files. Nothing in them is expanded or decoded."""

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                values[name] = value
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | _Unreadable | None, str, bool]:
        path = os.environ.get(f"{field_name}_FILE", "")
        value = _read(path, f"{field_name}_FILE") if path else os.environ.get(field_name)
        may_be_empty = get_origin(field.annotation) is list and not field.is_required()
        return (None if value == "" and not may_be_empty else value), field_name, False


def _read(path: str, name: str) -> str | _Unreadable:
    """Return the text of a file, without the line break at its end."""
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except OSError as problem:
        return _Unreadable(f"can't be read from {path} (set by {name}): {problem.strerror}")
    except UnicodeDecodeError:
        return _Unreadable(f"can't be read from {path} (set by {name}): it isn't UTF-8 text")


def load() -> PortalSettings:
    """Return the settings. Raises ImproperlyConfigured with everything that is missing or invalid."""
    load_dotenv(BASE_DIR / ".env", interpolate=False)
    try:
        return PortalSettings()  # type: ignore[call-arg]
    except ValidationError as wrong:
        problems = [_sentence(error["loc"][0], error) for error in wrong.errors(include_url=False)]
    # Raised outside of the except block, so that no traceback shows pydantic's error with the input.
    raise ImproperlyConfigured(
        "The portal can't start, because these settings are missing or invalid:\n"
        + "\n".join(f"  - {problem}" for problem in problems)
        + "\nSet each as an environment variable or in .env, or as NAME_FILE with the path of a file. "
        "docs/settings.md explains all settings."
    )


def _sentence(name: Any, error: Any) -> str:
    field = PortalSettings.model_fields[name]
    if error["type"] == "missing":
        problem = "is missing"
    elif error["type"] == "value_error":
        problem = str(error["ctx"]["error"])
    elif field.repr:
        problem = f'is "{error["input"]}"'
    else:
        problem = "isn't valid"
    example = (field.examples or [""])[0]
    return f"{name} {problem}. It must be {field.description}, for example {example}"


# Prefixes that only the portal's settings have. Kubernetes adds variables for a service that is called "portal", and
# portalctl has variables of its own.
_OURS = ("PORTAL_", "LOGIN_MICROSOFT_", "AUDIT_", "ALERT_", "SWEEP_", "FIELD_ENCRYPTION_")
_OTHERS = re.compile(r"\w+_SERVICE_(HOST|PORT\w*)|\w+_PORT(_\d+_\w+)?|PORTAL_(API_KEY|TOKEN)(_FILE)?")


def unknown_names(names: Iterable[str]) -> dict[str, str]:
    """Return variables that look like settings but aren't, with the setting that was probably meant ("" if unknown)."""
    known = {name for field in PortalSettings.model_fields for name in (field, f"{field}_FILE")}
    unknown = {}
    for name in sorted(set(names) - known):
        close = get_close_matches(name.upper(), known, n=1, cutoff=0.85)
        if (close or name.startswith(_OURS)) and not _OTHERS.fullmatch(name):
            unknown[name] = close[0] if close else ""
    return unknown
