"""All settings of the portal. They come only from environment variables, which the README lists.

Every secret may also be given as a file: ``NAME_FILE=/run/secrets/name``.
"""

from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping

BASE_DIR = Path(__file__).resolve().parent.parent


class _Files(FileAwareMapping):  # type: ignore[misc]
    """Values from the environment or from files. The line break that usually ends a file is not part of the value."""

    def __getitem__(self, key: str) -> str:
        return str(super().__getitem__(key)).rstrip("\r\n")


class _Environment(environ.Env):  # type: ignore[misc]
    ENVIRON = _Files()


env = _Environment()
if (BASE_DIR / ".env").is_file():
    env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
PORTAL_URL = env.str("PORTAL_URL", default="http://localhost:8000").rstrip("/")
_portal = urlsplit(PORTAL_URL)
HTTPS = _portal.scheme == "https"
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[_portal.hostname or "localhost"])
CSRF_TRUSTED_ORIGINS = [PORTAL_URL]

SECRET_KEY = env.str("SECRET_KEY", default="")
# The first key encrypts; all keys decrypt. django-encrypted-model-fields fixes the name of this setting.
FIELD_ENCRYPTION_KEY = [key.strip() for key in env.list("FIELD_ENCRYPTION_KEYS", default=[]) if key.strip()]

_missing = [
    name
    for name, value in {"SECRET_KEY": SECRET_KEY, "FIELD_ENCRYPTION_KEYS": FIELD_ENCRYPTION_KEY}.items()
    if not value
]
if _missing:
    raise ImproperlyConfigured(
        f"The portal does not start without {' and '.join(_missing)}. Set each as an environment variable, "
        "or as NAME_FILE pointing to a file. docs/operating.md says how to make good values."
    )

INSTALLED_APPS = [
    "connections",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "social_django",
    "axes",
    "encrypted_model_fields",
]

MIDDLEWARE = [
    "connections.middleware.request_context",
    "connections.middleware.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "connections.middleware.no_store",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Below the middleware that sets headers, because it may replace Django's response.
    "connections.api.middleware.limit_request_size",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    # Django offers an exception to the lower one first, so that a failed sign-in gets its own page.
    "connections.middleware.PortalErrorMiddleware",
    "connections.middleware.SignInErrorMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "connections.context_processors.portal",
            ]
        },
    }
]

DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'portal.sqlite3'}")}
if "sqlite" in DATABASES["default"]["ENGINE"]:
    # WAL and an early write lock let web, worker and beat share one file.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = env.int("CONN_MAX_AGE", default=60)
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        # Seconds. The portal works without Redis, so a hanging Redis must not delay callers of the token API.
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}


def _celery_url(url: str) -> str:
    """Return the URL as Celery needs it: Kombu spells a unix socket differently from redis-py."""
    if not url.startswith("unix://"):
        return url
    path, _, query = url.removeprefix("unix://").partition("?")
    number = query.partition("db=")[2].partition("&")[0] or "0"
    return f"redis+socket://{path}?virtual_host={number}"


CELERY_BROKER_URL = _celery_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SOFT_TIME_LIMIT = None
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TIMEZONE = "UTC"
# All entries only trigger work (portal/celery.py), so beat needs no schedule file.
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5

SWEEP_INTERVAL = env.float("SWEEP_INTERVAL", default=15.0)
PROBE_INTERVAL = env.float("PROBE_INTERVAL", default=300.0)
LOOK_AHEAD_INTERVAL = env.float("LOOK_AHEAD_INTERVAL", default=600.0)
SWEEP_BATCH = env.int("SWEEP_BATCH", default=500)
SWEEP_IN_FLIGHT = env.int("SWEEP_IN_FLIGHT", default=50)
MICROSOFT_TIMEOUT = env.float("MICROSOFT_TIMEOUT", default=15.0)
# A private certificate authority or a TLS-inspecting proxy needs its own bundle; empty means certifi's.
MICROSOFT_CA_BUNDLE = env.str("MICROSOFT_CA_BUNDLE", default="")
MICROSOFT_SANDBOX_URL = env.str("MICROSOFT_SANDBOX_URL", default="").rstrip("/")

AUTH_USER_MODEL = "connections.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "connections.microsoft.backends.MicrosoftSignIn",
    "connections.microsoft.backends.MicrosoftConnect",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign_in"

AXES_FAILURE_LIMIT = env.int("LOGIN_FAILURE_LIMIT", default=5)
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "connections.views.accounts.locked_out"
AXES_CLIENT_IP_CALLABLE = "connections.client_address.client_address"  # takes TRUSTED_PROXIES into account
AXES_SENSITIVE_PARAMETERS = ["password"]
AXES_ENABLE_ADMIN = False

SOCIAL_AUTH_URL_NAMESPACE = "social"
SOCIAL_AUTH_STRATEGY = "connections.pipeline.PortalStrategy"
SOCIAL_AUTH_REDIRECT_IS_HTTPS = HTTPS
SOCIAL_AUTH_JSONFIELD_ENABLED = True
SOCIAL_AUTH_REQUESTS_TIMEOUT = MICROSOFT_TIMEOUT
SOCIAL_AUTH_VERIFY_SSL = MICROSOFT_CA_BUNDLE or True
SOCIAL_AUTH_PIPELINE = [
    "social_core.pipeline.social_auth.social_details",
    "social_core.pipeline.social_auth.social_uid",
    "social_core.pipeline.social_auth.auth_allowed",
    "social_core.pipeline.social_auth.social_user",
    "connections.pipeline.admit_person",
    "social_core.pipeline.social_auth.associate_user",
    "connections.pipeline.follow_directory",
]
SOCIAL_AUTH_MICROSOFT_CONNECT_PIPELINE = ["connections.pipeline.finish_connect"]

LOGIN_MICROSOFT = {
    "environment": env.str("LOGIN_MICROSOFT_ENVIRONMENT", default="global"),
    "tenant": env.str("LOGIN_MICROSOFT_TENANT", default=""),
    "client_id": env.str("LOGIN_MICROSOFT_CLIENT_ID", default=""),
    "client_secret": env.str("LOGIN_MICROSOFT_CLIENT_SECRET", default=""),
    # Values of the "roles" or "groups" claim that make a person an IT admin or an auditor in the portal.
    "admins": env.list("LOGIN_MICROSOFT_ADMINS", default=["ITAdmin"]),
    "auditors": env.list("LOGIN_MICROSOFT_AUDITORS", default=["Auditor"]),
}

vars().update(env.email_url("EMAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", default=f"portal@{_portal.hostname}")
# Seconds. Without a time-out, a mail server that accepts a connection and then hangs would block a worker forever.
EMAIL_TIMEOUT = env.float("EMAIL_TIMEOUT", default=15.0)

ALERT_INTERVAL = env.float("ALERT_INTERVAL", default=10.0)  # seconds between two runs of the outbox
# The IT admins' mailing list, which gets one copy of each alert instead of one for every IT admin.
ALERT_COPY_TO = [address.strip() for address in env.list("ALERT_COPY_TO", default=[]) if address.strip()]
# Whether alert channels may use private addresses and plain http.
ALERT_PRIVATE_TARGETS = env.bool("ALERT_PRIVATE_TARGETS", default=False)

# Limits per minute for calls with one key and for bad keys from one address; 0 means no limit.
API_RATE_LIMIT = env.int("API_RATE_LIMIT", default=600)
API_BAD_KEY_LIMIT = env.int("API_BAD_KEY_LIMIT", default=60)
# Maximum lifetime of a key; 0 means no limit, and keys then need no expiration date.
API_KEY_MAX_DAYS = env.int("API_KEY_MAX_DAYS", default=730)

AUDIT_INTERVAL = env.float("AUDIT_INTERVAL", default=15.0)  # seconds between two sealing runs
AUDIT_RETENTION_DAYS = env.int("AUDIT_RETENTION_DAYS", default=0)  # 0 means forever
# Where seals are published: an append-only file, a URL and the log.
AUDIT_SEAL_FILE = env.str("AUDIT_SEAL_FILE", default="")
AUDIT_SEAL_WEBHOOK = env.str("AUDIT_SEAL_WEBHOOK", default="")
AUDIT_SEAL_WEBHOOK_SECRET = env.str("AUDIT_SEAL_WEBHOOK_SECRET", default="")
AUDIT_SEAL_LOG = env.bool("AUDIT_SEAL_LOG", default=True)

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_MANIFEST_STRICT = False
LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

SESSION_COOKIE_NAME = "portal_session"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"  # "Strict" would lose the session on the way back from Microsoft.
SECURE_SSL_REDIRECT = HTTPS and env.bool("SECURE_SSL_REDIRECT", default=True)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31536000) if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500

# /metrics requires this as a bearer token; if it is empty, only this machine may read /metrics.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="").strip()

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"secrets": {"()": "portal.logs.HideSecrets"}},
    "formatters": {"line": {"()": "portal.logs.formatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["secrets"]}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {"django": {"level": LOG_LEVEL}, "axes": {"level": "WARNING"}, "urllib3": {"level": "WARNING"}},
}
