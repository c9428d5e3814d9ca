"""The portal's own settings for the web server under test, which then needs neither collectstatic nor patience."""

from portal.settings import *  # noqa: F403
from portal.settings import STORAGES

# Static files straight from the source, as the pages under test refer to them.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
WHITENOISE_USE_FINDERS = True
# The cast's passwords, as tests/settings.py hashes them.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
