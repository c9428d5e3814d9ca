"""The findings of a verification."""

from dataclasses import dataclass

from django.db import DataError

# Raised when a column contains a value that its type cannot represent, such as a date that someone set to "infinity".
UNREADABLE_VALUE = (DataError, ValueError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch. ``kind`` is one of altered, removed, inserted, reordered, seal, published and unguarded."""

    seal: int
    kind: str
    what: str
