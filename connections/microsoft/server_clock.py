"""The difference between this process's clock and Microsoft's, from the Date header of responses (RFC 9110, 6.6.1)."""

import re
import time
from email.utils import parsedate_to_datetime

INTERVAL = 60.0  # seconds between two comparisons
_DATE = re.compile(rb"^date:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_ROUNDING = 0.5  # seconds; the header has whole seconds, rounded down


class _Last:
    looked_at = -INTERVAL  # seconds of time.monotonic()
    ahead: float | None = None


def note(head: bytes) -> None:
    """Compare this process's clock with the Date in the headers of a response that has just arrived."""
    if time.monotonic() - _Last.looked_at < INTERVAL:
        return
    date = _DATE.search(head)
    if date is None:
        return
    try:
        theirs = parsedate_to_datetime(date[1].decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return
    _Last.looked_at, _Last.ahead = time.monotonic(), time.time() - theirs - _ROUNDING


def seconds_ahead() -> float | None:
    """Return by how many seconds this clock was ahead at the last comparison; None before the first one.

    The value is negative if this clock is behind.
    """
    return _Last.ahead
