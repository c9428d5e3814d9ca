"""The portal's settings in the test environment, with a few differences for the test process.

Processes that tests start (worker, beat, web) use portal.settings itself.
"""

from tests import environment

environment.prepare()

from django.middleware import csrf  # noqa: E402

from portal.settings import *  # noqa: E402, F403
from portal.settings import DATABASES, STORAGES  # noqa: E402

DATABASES["default"]["TEST"] = {"NAME": environment.test_database_name()}
# Threads of the server in this process (the fixture portal_url) leave no connection open at the end of the run.
DATABASES["default"]["CONN_MAX_AGE"] = 0
# Find static files without collectstatic.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
# Use fast hashing, because tests sign in hundreds of people.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Look up static files on demand; indexing them for every test client took most of the run's time.
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = True
# Tests reuse keys with the same id within a minute; tests of the limits set their own.
API_RATE_LIMIT = API_BAD_KEY_LIMIT = 0
# A random token of a page must not contain a name by chance, such as Bob, that a test looks for in vain.
csrf.CSRF_ALLOWED_CHARS = "QXZJqxzj"
