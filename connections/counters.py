"""This process's counters for ``/metrics``, since they were last added to the totals of all processes.

services/operations/metrics.py adds them every few seconds and defines the names of the counters. Counting needs no I/O.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping

# The name of a counter, followed by the values of its labels.
Key = tuple[str, ...]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_LABELS = (*(str(bound) for bound in BUCKETS), "+Inf")

_lock = threading.Lock()
_counts: defaultdict[Key, float] = defaultdict(float)


def add(name: str, *labels: str, times: float = 1) -> None:
    with _lock:
        _counts[name, *labels] += times


def add_all(counts: Mapping[Key, float]) -> None:
    with _lock:
        for key, times in counts.items():
            _counts[key] += times


def duration_keys(name: str, *labels: str, seconds: float) -> tuple[Key, Key]:
    """Return the two keys of a histogram to count: add 1 for the bucket, and ``seconds`` for the sum."""
    return (f"{name}_bucket", *labels, _LABELS[bisect_left(BUCKETS, seconds)]), (f"{name}_sum", *labels)


def take() -> dict[Key, float]:
    """Return the counts since the last call, and reset them."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
