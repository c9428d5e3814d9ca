"""Counters and histograms of all processes together. Each process adds its counts to a hash in Redis.

A process that is killed loses the counts of its last seconds. If Redis loses the hash, counters start again at zero,
which Prometheus expects of a counter.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import redis
from django.conf import settings
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from connections import counters
from connections.counters import BUCKETS, Key
from connections.services.api_keys import rate_limit


@dataclass(frozen=True, slots=True)
class Known:
    help: str
    labels: tuple[str, ...] = ()


COUNTERS = {
    "portal_http_requests_total": Known("Requests by kind (token, api, page, probe) and status", ("kind", "status")),
    "portal_microsoft_requests_total": Known(
        "Requests to Microsoft by endpoint and status; status 0 means that none came", ("endpoint", "status")
    ),
    "portal_refreshes_total": Known("Refreshes by the sweep: renewed, flagged or waiting for another try", ("result",)),
    "portal_alerts_total": Known("Alerts that were delivered, or not at this try", ("result",)),
    "portal_api_calls_not_limited_total": Known("API calls not rate limited because Redis was unavailable"),
}
HISTOGRAMS = {
    "portal_http_request_duration_seconds": Known("Time until a request was answered", ("kind",)),
    "portal_microsoft_request_duration_seconds": Known("Time until Microsoft had answered", ("endpoint",)),
}
_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")


def flush() -> None:
    """Add the counts of this process to the totals in Redis. Without Redis, they are kept for the next time."""
    counts = counters.take()
    if not counts:
        return
    try:
        with rate_limit.client().pipeline() as pipe:
            for key, times in counts.items():
                pipe.hincrbyfloat(_name(), json.dumps(key), times)
            pipe.execute()
    except redis.ResponseError:  # the value isn't ours
        rate_limit.client().delete(_name())
    except (redis.RedisError, OSError):
        counters.add_all(counts)


def collect() -> Iterator[Metric]:
    """Yield the counters and histograms. Raises RedisError."""
    totals = _totals()
    for name, known in COUNTERS.items():
        counter = CounterMetricFamily(name, known.help, labels=known.labels)
        for key, total in sorted(totals.items()):
            if key[0] == name and len(key) == 1 + len(known.labels):
                counter.add_metric(key[1:], total)
        if not known.labels and not counter.samples:
            counter.add_metric((), 0)
        yield counter
    for name, known in HISTOGRAMS.items():
        yield _histogram(name, known, totals)


def _histogram(name: str, known: Known, totals: dict[Key, float]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, known.help, labels=known.labels)
    length = 1 + len(known.labels)
    for labels in sorted({key[1:length] for key in totals if key[0] == f"{name}_sum" and len(key) == length}):
        so_far, buckets = 0.0, []
        for bound in _BOUNDS:
            so_far += totals.get((f"{name}_bucket", *labels, bound), 0)
            buckets.append((bound, so_far))
        family.add_metric(labels, buckets, totals[f"{name}_sum", *labels])
    return family


def _totals() -> dict[Key, float]:
    """Return the totals in Redis. Ignores entries that the portal did not write."""
    try:
        stored = cast("dict[bytes, bytes]", rate_limit.client().hgetall(_name()))
    except redis.ResponseError:
        return {}
    return {key: total for key, total in map(_parse, stored.items()) if key and math.isfinite(total) and total >= 0}


def _parse(item: tuple[bytes, bytes]) -> tuple[Key, float]:
    try:
        parts: Any = json.loads(item[0])
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return tuple(parts), float(item[1])
    except (ValueError, RecursionError):
        pass
    return (), 0.0


def _name() -> str:
    return f"{settings.REDIS_PREFIX}:metrics"
