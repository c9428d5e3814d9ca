"""Settings for the web server under test, without collectstatic and slow password hashing."""

from portal.settings import *  # noqa: F403
from portal.settings import STORAGES

# Serve static files straight from the source, because the pages under test refer to them.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
WHITENOISE_USE_FINDERS = True
# Hash passwords as tests/settings.py does.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
