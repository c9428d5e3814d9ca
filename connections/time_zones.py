"""The time zones in which people can read times."""

from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import cache, wraps
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, available_timezones

from django.utils import timezone

COOKIE = "time_zone"  # the browser's time zone, set by portal.js

_View = TypeVar("_View", bound=Callable[..., Any])


@cache
def names() -> tuple[str, ...]:
    """Return UTC and the names of all zones with a region, for example "Europe/Berlin"."""
    return ("UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/")))


def find(name: str) -> tzinfo:
    """Return the zone with this name, or UTC if there is none."""
    return ZoneInfo(name) if name != "UTC" and name in names() else UTC


def in_utc(view: _View) -> _View:
    """Show all times on the page in UTC, for pages that serve as evidence or whose forms have days and times in UTC."""

    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with timezone.override(UTC):
            return view(*args, **kwargs)

    return cast(_View, wrapper)
