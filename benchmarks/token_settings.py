"""The portal's settings with an empty view to which the token request is compared."""

from portal.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.token_views"
