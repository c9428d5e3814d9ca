"""The kinds of values of settings: what is accepted, and how errors describe it.

Validators raise ValueError with a message that continues after the setting's name, as in "PORTAL_URL has a path".
"""

import base64
import importlib.util
from datetime import date
from typing import Annotated, Any, Literal

from cryptography.fernet import Fernet
from pydantic import AfterValidator, BeforeValidator, Field

from portal import service_urls


def described(kind: str, example: str, **limits: Any) -> Any:
    """Return the field for a setting. Its errors say "It must be KIND, for example EXAMPLE." """
    return Field(description=kind, examples=[example], **limits)


def _split(value: object) -> object:
    """Split a list at its commas. Spaces around values and empty values are dropped."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _split_keys(value: object) -> object:
    """Split a list of keys at commas and line breaks, as keys.reload does."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _check_fernet_keys(keys: list[str]) -> list[str]:
    if not keys:
        raise ValueError("contains no key")
    for number, key in enumerate(keys, start=1):
        try:
            Fernet(key)
        except ValueError:
            raise ValueError(f"isn't valid: key {number} isn't a Fernet key") from None
    return keys


def _check_origin(url: str) -> str:
    """Accept a web address without a path, because the portal is always at the root of its host."""
    parts = service_urls.web(url)
    if parts.path.strip("/"):
        raise ValueError("has a path, but the portal must be at the root of its host")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must contain only a scheme, a host and a port")
    return url.rstrip("/")


def _check_web(url: str) -> str:
    if url:
        service_urls.web(url)
    return url


def _check_database(url: str) -> str:
    service_urls.database(url)
    return url


def _check_email(url: str) -> str:
    service_urls.email(url)
    return url


def _check_redis(url: str) -> str:
    service_urls.check_redis(url)
    return url


def _check_stream(url: str) -> str:
    if url:
        service_urls.check_audit_stream(url)
    return url


def _check_traces(url: str) -> str:
    if url:
        service_urls.web(url)
        if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError(
                "needs packages that aren't installed: pip install --require-hashes -r requirements-tracing.txt"
            )
    return url


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of one of its parents
        return False


def _check_signing_secret(secret: str) -> str:
    if secret:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ValueError("isn't valid: what follows whsec_ isn't base64") from None
        if len(key) < 24:
            raise ValueError("is too short: it needs at least 24 bytes")
    return secret


def _check_readable(path: str) -> str:
    """Accept the path of a readable file, so that a wrong path is noticed at the start."""
    if path:
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as problem:
            raise ValueError(f"names the file {path}, which can't be read: {problem.strerror}") from None
    return path


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Switch = Annotated[bool, described("on or off", "on")]
Seconds = Annotated[float, described("a number of seconds above 0", "15", gt=0, allow_inf_nan=False)]
HoursOrZero = Annotated[float, described("a number of hours of 0 or more", "24", ge=0, allow_inf_nan=False)]
Number = Annotated[int, described("a whole number of 1 or more", "50", ge=1)]
NumberOrZero = Annotated[int, described("a whole number of 0 or more", "0", ge=0)]
Text = Annotated[str, described("a text", "portal")]
OptionalDay = Annotated[date | None, described("a day as an ISO date", "2027-03-31")]
Path = Annotated[str, described("the path of a file", "/etc/ssl/private-ca.pem")]
ReadableFile = Annotated[
    str,
    AfterValidator(_check_readable),
    described("the path of a file", "/var/run/secrets/azure/tokens/azure-identity-token"),
]
Prefix = Annotated[
    str,
    described("letters, digits, dots, dashes and colons", "portal-a", pattern=r"^[A-Za-z0-9.:_-]*$", max_length=100),
]
Names = Annotated[list[str], BeforeValidator(_split), described("a list separated by commas", "first,second")]
# Values of the following kinds may be or contain secrets, so the repr leaves them out.
Secret = Annotated[str, described("a long random text", "the output of: openssl rand -base64 48", repr=False)]
Secrets = Annotated[
    list[str], BeforeValidator(_split), described("long random texts separated by commas", "first,second", repr=False)
]
FernetKeys = Annotated[
    list[str],
    BeforeValidator(_split_keys),
    AfterValidator(_check_fernet_keys),
    described(
        "one or more Fernet keys (32 bytes, URL-safe base64) separated by commas",
        # A command instead of a key, because people might use an example key that everybody knows.
        'the output of: python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"',
        repr=False,
    ),
]
Origin = Annotated[
    str,
    AfterValidator(_check_origin),
    described("the address of the portal without a path", "https://portal.example.org"),
]
WebAddress = Annotated[
    str, AfterValidator(_check_web), described("a web address", "https://siem.example.org/seals", repr=False)
]
SigningSecret = Annotated[
    str,
    AfterValidator(_check_signing_secret),
    described("whsec_ and base64", "whsec_ and the output of: openssl rand -base64 32", repr=False),
]
StreamURL = Annotated[
    str,
    AfterValidator(_check_stream),
    described("the URL of a syslog server or a web address", "syslog+tls://siem.example.org:6514", repr=False),
]
TraceReceiver = Annotated[
    str, AfterValidator(_check_traces), described("a web address", "http://localhost:4318", repr=False)
]
DatabaseURL = Annotated[
    str,
    AfterValidator(_check_database),
    described("the URL of a database", "postgres://portal:password@db.example.org:5432/portal", repr=False),
]
RedisURL = Annotated[
    str,
    AfterValidator(_check_redis),
    described("the URL of a Redis or Valkey server", "rediss://:password@redis.example.org:6379/0", repr=False),
]
EmailURL = Annotated[
    str,
    AfterValidator(_check_email),
    described("the URL of a mail server", "smtp+tls://user:password@mail.example.org:587", repr=False),
]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(_upper),
    described("DEBUG, INFO, WARNING or ERROR", "INFO"),
]
