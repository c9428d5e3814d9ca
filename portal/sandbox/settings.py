"""Django settings of the sandbox process alone: no database, no sessions, nothing read from the environment."""

import logging
import secrets
from pathlib import Path

from django.utils.log import CallbackFilter

HERE = Path(__file__).parent


def is_mistake(record: logging.LogRecord) -> bool:
    """Does this log record tell of a crash, and not of an answer with a bad status?"""
    return record.exc_info is not None


# Only Django's own CSRF masking uses this; the sandbox's cookies are signed with a key that is kept with its state.
SECRET_KEY = secrets.token_urlsafe(50)
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ROOT_URLCONF = "portal.sandbox.urls"
INSTALLED_APPS: list[str] = []
# The token endpoint is called thousands of times in a measurement, so next to nothing runs around every request:
# the pages that people submit carry csrf_protect themselves.
MIDDLEWARE = ["portal.sandbox.middleware.only_known_hosts"]
DATABASES: dict[str, object] = {}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [HERE / "templates"],
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
# Cookies know hosts but no ports: these names must not meet those of a portal on the same host.
CSRF_COOKIE_NAME = "sandbox_csrf"
USE_TZ = True
TIME_ZONE = "UTC"
APPEND_SLASH = False
# Refusals and played outages are the daily business of this process; only its own mistakes are worth a line.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"mistakes": {"()": CallbackFilter, "callback": is_mistake}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["mistakes"]}},
    "loggers": {"django": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
