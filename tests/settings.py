"""The portal's own settings on the test environment, with the few things that must differ in a test process.

Processes that tests start (worker, beat, web) use portal.settings itself.
"""

from tests import environment

RUN_DIRECTORY = environment.prepare()

from portal.settings import *  # noqa: E402, F403
from portal.settings import DATABASES, STORAGES  # noqa: E402

DATABASES["default"]["TEST"] = {"NAME": environment.test_database_name()}
# Threads of the server in this process (the fixture portal_url) leave none open for the end of the run.
DATABASES["default"]["CONN_MAX_AGE"] = 0
# Pages find static files without collectstatic having run.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
# Slow on purpose in production; here hundreds of people sign in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Look static files up when asked for; indexing all of them for every test client took most of a run's time.
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = True
# Tests use keys with the same number again and again within one minute; those about limits set their own.
API_RATE_LIMIT = API_BAD_KEY_LIMIT = 0
