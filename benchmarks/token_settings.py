"""The portal's settings with an empty view that the token call is compared with."""

from portal.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.token_views"
