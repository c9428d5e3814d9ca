"""Django's settings. The values come from portal/settings_model.py, which defines every environment variable."""

import os
import tomllib
from typing import Any
from urllib.parse import urlsplit

from portal import logs, service_urls, settings_model
from portal.settings_model import BASE_DIR

values = settings_model.load()
VERSION: str = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
# Variables that look like settings but aren't. connections/checks.py warns about them.
UNKNOWN_SETTINGS = settings_model.unknown_names(os.environ)
# The environment variables whose values may be or contain secrets.
SECRET_SETTINGS = frozenset(name for name, field in type(values).model_fields.items() if not field.repr)

DEBUG = values.DEBUG
PORTAL_URL = values.PORTAL_URL
_portal = urlsplit(PORTAL_URL)
HTTPS = _portal.scheme == "https"
ALLOWED_HOSTS = values.ALLOWED_HOSTS or [_portal.hostname or "localhost"]
CSRF_TRUSTED_ORIGINS = [PORTAL_URL]

SECRET_KEY = values.SECRET_KEY
# The first key encrypts; all keys decrypt. django-encrypted-model-fields fixes the name of this setting.
FIELD_ENCRYPTION_KEY = values.FIELD_ENCRYPTION_KEYS

INSTALLED_APPS = [
    "connections",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "social_django",
    "encrypted_model_fields",
]

MIDDLEWARE = [
    "connections.middleware.let_probes_name_any_host",
    "connections.middleware.request_context",
    "connections.middleware.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "connections.middleware.CompressPages",
    "connections.middleware.no_store",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Below the middleware that sets headers, because it may replace Django's response.
    "connections.api.middleware.limit_request_size",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "connections.middleware.note_session_use",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "connections.middleware.use_time_zone",
    "connections.middleware.RequireSecondFactor",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    # Django passes an exception to the lower one first, so that a failed sign-in gets its own page.
    "connections.middleware.PortalErrorMiddleware",
    "connections.middleware.SignInErrorMiddleware",
]

FORCE_SCRIPT_NAME = ""  # the portal is at the root of its host, whatever a server or proxy sends
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

DATABASES = {"default": service_urls.database(values.DATABASE_URL)}
if "sqlite" in DATABASES["default"]["ENGINE"]:
    # WAL and an early write lock let web, worker and beat share one file.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = values.CONN_MAX_AGE
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = values.REDIS_URL
# With rediss://, the cache, the locks and the broker all verify the server's certificate.
REDIS_CA_BUNDLE = values.REDIS_CA_BUNDLE
REDIS_TLS = service_urls.redis_tls(REDIS_URL, REDIS_CA_BUNDLE)
# The beginning of every key, so that several portals and other programs can share a server.
REDIS_PREFIX = values.REDIS_PREFIX or _portal.netloc
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": REDIS_PREFIX,
        # Seconds. The portal works without Redis, so a hanging Redis must not delay callers of the token API.
        "OPTIONS": {
            "serializer": "portal.redis_cache.JSONSerializer",
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            **REDIS_TLS,
        },
    }
}

CELERY_BROKER_URL = service_urls.broker(REDIS_URL)
CELERY_BROKER_USE_SSL = REDIS_TLS or None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": f"{REDIS_PREFIX}:",
    # Seconds after which the connection to a broker that doesn't respond is closed and opened again.
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": True,
}
CELERY_TASK_DEFAULT_QUEUE = "portal"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# Anyone who can write to Redis could use it to stop workers, and the portal doesn't need it.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
# A killed worker's tick doesn't have to be repeated: the next one comes soon, and the database knows what is due.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_SOFT_TIME_LIMIT = None
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TIMEZONE = "UTC"
# Entries only trigger work (portal/celery.py), so beat needs no schedule file.
CELERY_BEAT_SCHEDULER = "portal.beat:TickScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5

SWEEP_INTERVAL = values.SWEEP_INTERVAL
PROBE_INTERVAL = values.PROBE_INTERVAL
LOOK_AHEAD_INTERVAL = values.LOOK_AHEAD_INTERVAL
SWEEP_BATCH = values.SWEEP_BATCH
SWEEP_IN_FLIGHT = values.SWEEP_IN_FLIGHT
# Seconds without a tick after which a worker or beat ends, so that its supervisor restarts it.
WATCHDOG_SECONDS = values.WATCHDOG_SECONDS
MICROSOFT_TIMEOUT = values.MICROSOFT_TIMEOUT
# The certificates of a private authority or a TLS-inspecting proxy; empty means those of certifi.
MICROSOFT_CA_BUNDLE = values.MICROSOFT_CA_BUNDLE
MICROSOFT_SANDBOX_URL = values.MICROSOFT_SANDBOX_URL.rstrip("/")
# A file with a token of a managed identity or a Kubernetes service account, for federated credentials.
FEDERATED_TOKEN_PATH = values.FEDERATED_TOKEN_PATH

AUTH_USER_MODEL = "connections.User"
AUTHENTICATION_BACKENDS = [
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

# Failed sign-ins of one name from one address before a pause. services/people/sign_in_limits.py has the other limits.
LOGIN_FAILURE_LIMIT = values.LOGIN_FAILURE_LIMIT

SOCIAL_AUTH_URL_NAMESPACE = "social"
SOCIAL_AUTH_STRATEGY = "connections.pipeline.PortalStrategy"
SOCIAL_AUTH_REDIRECT_IS_HTTPS = HTTPS
SOCIAL_AUTH_JSONFIELD_ENABLED = True
# Accepted difference in seconds between the clocks here and at Microsoft when an ID token is checked.
SOCIAL_AUTH_JWT_LEEWAY = 300
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

LOGIN_MICROSOFT: dict[str, Any] = {
    "environment": values.LOGIN_MICROSOFT_ENVIRONMENT,
    "tenant": values.LOGIN_MICROSOFT_TENANT,
    "client_id": values.LOGIN_MICROSOFT_CLIENT_ID,
    "client_secret": values.LOGIN_MICROSOFT_CLIENT_SECRET,
    # Values of the "roles" or "groups" claim that make a person an IT admin or an auditor in the portal.
    "admins": values.LOGIN_MICROSOFT_ADMINS,
    "auditors": values.LOGIN_MICROSOFT_AUDITORS,
}

vars().update(service_urls.email(values.EMAIL_URL))
DEFAULT_FROM_EMAIL = values.EMAIL_FROM or f"portal@{_portal.hostname}"
# Seconds. Without a timeout, a mail server that accepts a connection and then hangs would block a worker forever.
EMAIL_TIMEOUT = values.EMAIL_TIMEOUT

ALERT_INTERVAL = values.ALERT_INTERVAL  # seconds between two runs of the outbox
# The IT admins' mailing list. It gets one copy of each alert, instead of one for every IT admin.
ALERT_COPY_TO = values.ALERT_COPY_TO
# Whether alert channels may use private addresses and plain http.
ALERT_PRIVATE_TARGETS = values.ALERT_PRIVATE_TARGETS

# Limits per minute for calls with one key and for bad keys from one address; 0 means no limit.
API_RATE_LIMIT = values.API_RATE_LIMIT
API_BAD_KEY_LIMIT = values.API_BAD_KEY_LIMIT
# Maximum lifetime of a key; 0 means no limit, and keys then need no expiration date.
API_KEY_MAX_DAYS = values.API_KEY_MAX_DAYS

AUDIT_INTERVAL = values.AUDIT_INTERVAL  # seconds between two sealing runs
STATISTICS_INTERVAL = values.STATISTICS_INTERVAL
STATISTICS_DAYS = values.STATISTICS_DAYS  # days for which daily figures are kept
AUDIT_RETENTION_DAYS = values.AUDIT_RETENTION_DAYS  # 0 means forever
# Where seals are published: an append-only file, a URL and the log.
AUDIT_SEAL_FILE = values.AUDIT_SEAL_FILE
AUDIT_SEAL_WEBHOOK = values.AUDIT_SEAL_WEBHOOK
AUDIT_SEAL_WEBHOOK_SECRET = values.AUDIT_SEAL_WEBHOOK_SECRET
AUDIT_SEAL_LOG = values.AUDIT_SEAL_LOG
# Where events are streamed to, and what its TLS needs.
AUDIT_STREAM_URL = values.AUDIT_STREAM_URL
AUDIT_STREAM_SECRET = values.AUDIT_STREAM_SECRET
AUDIT_STREAM_PRIVATE_TARGET = values.AUDIT_STREAM_PRIVATE_TARGET
AUDIT_STREAM_CA_BUNDLE = values.AUDIT_STREAM_CA_BUNDLE
AUDIT_STREAM_CLIENT_CERTIFICATE = values.AUDIT_STREAM_CLIENT_CERTIFICATE

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

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"  # "Strict" would lose the session on the way back from Microsoft.
SECURE_SSL_REDIRECT = HTTPS and values.SECURE_SSL_REDIRECT
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = values.SECURE_HSTS_SECONDS if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS and values.SECURE_HSTS_INCLUDE_SUBDOMAINS
SECURE_HSTS_PRELOAD = HTTPS and values.SECURE_HSTS_PRELOAD
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
TRUSTED_PROXIES = values.TRUSTED_PROXIES
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500

WEB_WORKERS = values.WEB_WORKERS
WEB_THREADS = values.WEB_THREADS

# The bearer token that /metrics requires. If it is empty, only this machine may read /metrics.
METRICS_TOKEN = values.METRICS_TOKEN.strip()

LOG_LEVEL = values.LOG_LEVEL
# Where traces are sent; empty: there are none.
OTEL_EXPORTER_OTLP_ENDPOINT = values.OTEL_EXPORTER_OTLP_ENDPOINT
LOGGING = logs.configuration(LOG_LEVEL)

# The file with the encryption keys, which processes reload on SIGHUP. Empty: the keys come from the environment.
FIELD_ENCRYPTION_KEYS_FILE = os.environ.get("FIELD_ENCRYPTION_KEYS_FILE", "")
# The keys that sign the audit trail's seals. The first one signs. All of them, and SECRET_KEY, verify.
AUDIT_SEAL_KEYS = values.AUDIT_SEAL_KEYS
# A session ends after this many minutes without use, and this many hours after the sign-in.
SESSION_IDLE_MINUTES = values.SESSION_IDLE_MINUTES
SESSION_MAX_HOURS = values.SESSION_MAX_HOURS
# Minutes after a sign-in during which keys, credentials, policy and roles can be changed and records exported.
FRESH_SIGN_IN_MINUTES = values.FRESH_SIGN_IN_MINUTES
SESSION_ENGINE = "connections.session_store"
SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
SESSION_COOKIE_AGE = SESSION_MAX_HOURS * 3600
# Browsers accept a cookie named __Host-… only from the same host, over https and for all paths.
_COOKIE_PREFIX = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}portal_session"
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}csrftoken"

# The day on which LOGIN_MICROSOFT_CLIENT_SECRET expires (ISO date), so that the portal can send a warning.
LOGIN_MICROSOFT_SECRET_EXPIRES = values.LOGIN_MICROSOFT_SECRET_EXPIRES
# Hours for which roles and teams from Entra are valid after the directory has confirmed them; 0: no limit.
ENTRA_AUTHORITY_MAX_AGE = values.ENTRA_AUTHORITY_MAX_AGE
# Directories, by ID, whose accounts may sign in to the portal as guests of the sign-in tenant; none by default.
LOGIN_MICROSOFT_DIRECTORIES = values.LOGIN_MICROSOFT_DIRECTORIES
# Guests, by object ID in the sign-in tenant, who may sign in to the portal; * means every guest.
LOGIN_MICROSOFT_GUESTS = values.LOGIN_MICROSOFT_GUESTS
# The longest emergency access that an IT admin may take to a connection, in hours.
EMERGENCY_ACCESS_HOURS = values.EMERGENCY_ACCESS_HOURS
