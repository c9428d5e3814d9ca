"""The URLs of services that the portal uses, in the form that Django and Celery need.

Each function raises ValueError if the URL is invalid. The message never contains the URL, which may include a password.
"""

from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_POSTGRESQL = ("postgres", "postgresql", "pgsql", "psql")
_PARTS = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST"}
# Parameters of libpq for servers that disappear without closing connections. Queries would otherwise wait for hours.
_NOTICE_SILENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
_MAIL_BACKENDS = {
    "smtp": "smtp",
    "smtps": "smtp",
    "smtp+tls": "smtp",
    "smtp+ssl": "smtp",
    "consolemail": "console",
    "filemail": "filebased",
    "memorymail": "locmem",
    "dummymail": "dummy",
}
_MAIL_PORTS = {"smtp": 25, "smtps": 587, "smtp+tls": 587, "smtp+ssl": 465}


def database(url: str) -> dict[str, Any]:
    """Return Django's database settings."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        name = rest.partition("?")[0]
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": unquote(name.removeprefix("/")) or ":memory:"}
    if scheme in _POSTGRESQL:
        return _postgresql(f"postgresql://{rest}")
    raise ValueError("isn't for PostgreSQL or SQLite")


def _postgresql(url: str) -> dict[str, Any]:
    """Have libpq parse the URL, so that all its features work: several hosts, sockets, parameters such as sslmode."""
    from psycopg import ProgrammingError, conninfo  # not installed everywhere, because SQLite doesn't need it

    try:
        parts = conninfo.conninfo_to_dict(url)
    except ProgrammingError:
        raise ValueError("isn't a valid PostgreSQL URL") from None
    config = {name: str(parts.pop(key, None) or "") for key, name in _PARTS.items()}
    if config["NAME"].startswith("/"):  # postgres://user@//run/postgresql/portal: the directory of a unix socket
        config["HOST"], _, config["NAME"] = config["NAME"].rpartition("/")
    port = str(parts.pop("port", ""))
    return {
        "ENGINE": "portal.postgresql",
        **config,
        "PORT": int(port) if port.isdigit() else port,
        "OPTIONS": {**_NOTICE_SILENCE, **parts},
    }


def email(url: str) -> dict[str, Any]:
    """Return Django's settings for outgoing mail."""
    parts = _split(url)
    if parts.scheme not in _MAIL_BACKENDS:
        raise ValueError("doesn't start with smtp://, smtp+tls://, smtp+ssl:// or consolemail://")
    if parts.scheme in _MAIL_PORTS and not parts.hostname:
        raise ValueError("contains no mail server")
    return {
        "EMAIL_BACKEND": f"django.core.mail.backends.{_MAIL_BACKENDS[parts.scheme]}.EmailBackend",
        "EMAIL_HOST": parts.hostname or "localhost",
        "EMAIL_PORT": parts.port or _MAIL_PORTS.get(parts.scheme, 25),
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme in ("smtps", "smtp+tls"),
        "EMAIL_USE_SSL": parts.scheme == "smtp+ssl",
        "EMAIL_FILE_PATH": unquote(parts.path[1:]),
    }


def check_redis(url: str) -> None:
    """Raise ValueError unless ``url`` is the URL of a Redis server."""
    parts = _split(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("doesn't start with redis://, rediss:// or unix://")
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("names no server")
    if any(name.startswith("ssl_") for name in parse_qs(parts.query, keep_blank_values=True)):
        raise ValueError("has an ssl_ parameter; certificates are always verified, if need be with REDIS_CA_BUNDLE")


def redis_tls(url: str, ca_bundle: str) -> dict[str, Any]:
    """Return the options with which redis-py and Kombu verify the server's certificate; {} unless it is rediss://."""
    if urlsplit(url).scheme != "rediss":
        return {}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": ca_bundle or None}


def broker(redis_url: str) -> str:
    """Return the URL for Celery. Kombu's URLs of unix sockets differ from those of redis-py."""
    if not redis_url.startswith("unix://"):
        return redis_url
    path, _, query = redis_url.removeprefix("unix://").partition("?")
    number = query.partition("db=")[2].partition("&")[0] or "0"
    return f"redis+socket://{path}?virtual_host={number}"


def check_audit_stream(url: str) -> None:
    """Raise ValueError unless it is the URL of a syslog server or a web server."""
    parts = _split(url)
    if parts.scheme in ("http", "https"):
        web(url)
        return
    if parts.scheme not in ("syslog+tls", "syslog+tcp"):
        raise ValueError("doesn't start with syslog+tls://, syslog+tcp:// or https://")
    if not parts.hostname:
        raise ValueError("contains no host")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must contain only a scheme, a host and a port")


def web(url: str) -> SplitResult:
    """Return the parts of a web server's URL."""
    parts = _split(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("doesn't start with https:// or http://")
    if not parts.hostname:
        raise ValueError("contains no host")
    return parts


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only when it is read; invalid if it is not a number
    except ValueError:
        raise ValueError("isn't a URL") from None
    return parts
