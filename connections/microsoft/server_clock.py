"""How far this process's clock is ahead of Microsoft's, from the Date header of answers (RFC 9110, 6.6.1)."""

import re
import time
from email.utils import parsedate_to_datetime

INTERVAL = 60.0  # seconds between two looks at a header
_DATE = re.compile(rb"^date:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_ROUNDING = 0.5  # seconds; the header has whole seconds, rounded down


class _Last:
    looked_at = -INTERVAL  # seconds of time.monotonic()
    ahead: float | None = None


def note(head: bytes) -> None:
    """Compare this process's clock with the Date in the head of an answer that has just arrived."""
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
    """Return the last difference; negative if this clock is behind, None if no answer has arrived yet."""
    return _Last.ahead
