"""The time zones in which people can read times."""

from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import cache, wraps
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, available_timezones

from django.utils import timezone

COOKIE = "time_zone"  # what the browser says, set by portal.js

_View = TypeVar("_View", bound=Callable[..., Any])


@cache
def names() -> tuple[str, ...]:
    """Return the names of all zones by region, for example "Europe/Berlin", and UTC."""
    return ("UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/")))


def find(name: str) -> tzinfo:
    """Return the zone of this name, or UTC if there is none."""
    return ZoneInfo(name) if name != "UTC" and name in names() else UTC


def in_utc(view: _View) -> _View:
    """Show a page's times in UTC, whoever reads it: it is evidence, or its forms ask for days and times in UTC."""

    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with timezone.override(UTC):
            return view(*args, **kwargs)

    return cast(_View, wrapper)
