"""What a verification reports."""

from dataclasses import dataclass

from django.db import DataError

# Raised when a column holds what its type cannot hold, such as a date that somebody set to "infinity".
UNREADABLE_VALUE = (DataError, ValueError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch. ``kind`` is altered, removed, inserted, reordered, seal, published or unguarded."""

    seal: int
    kind: str
    what: str
