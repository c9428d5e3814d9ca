"""Django settings for the sandbox process only: no database, no sessions, and nothing from the environment."""

import logging
import secrets
from pathlib import Path

from django.utils.log import CallbackFilter

HERE = Path(__file__).parent


def is_mistake(record: logging.LogRecord) -> bool:
    """Whether this log record is about a crash, and not about an error response."""
    return record.exc_info is not None


# Used only for masking Django's CSRF tokens. The sandbox's cookies are signed with a key that is stored with its state.
SECRET_KEY = secrets.token_urlsafe(50)
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ROOT_URLCONF = "portal.sandbox.urls"
INSTALLED_APPS: list[str] = []
# Benchmarks call the token endpoint thousands of times, so there is hardly any middleware. Views with forms use
# csrf_protect instead.
MIDDLEWARE = ["portal.sandbox.middleware.only_known_hosts"]
DATABASES: dict[str, object] = {}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [HERE / "templates"],
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
# Cookies ignore ports, so this name must differ from that of a portal on the same host.
CSRF_COOKIE_NAME = "sandbox_csrf"
USE_TZ = True
TIME_ZONE = "UTC"
APPEND_SLASH = False
# Error responses and injected faults are normal here. Only the sandbox's own errors are logged.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"mistakes": {"()": CallbackFilter, "callback": is_mistake}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["mistakes"]}},
    "loggers": {"django": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
