"""Read-only health checks and metrics of the portal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError
from django.db.models import Count
from django.utils import timezone

from connections.errors import UnreadableSecret
from connections.fields import decrypt, encrypt
from connections.models import AppCredential, AppRegistration, AuditSeal, Connection, MailboxAccess
from connections.services.api_keys import rate_limit
from connections.services.audit import publishing, sealing

MOST = 10_000  # unsealed rows are counted up to this number
LAST_SWEEP = "sweep:last"  # cache key: unix time in seconds, written at the end of each sweep


@dataclass(frozen=True, slots=True)
class HealthCheck:
    name: str
    ok: bool
    detail: str


def run_checks() -> list[HealthCheck]:
    """Check database, broker, encryption keys and the sweep independently of each other. Never raises."""
    checks = {"database": _database, "broker": _broker, "encryption_keys": _encryption_keys, "sweep": _sweep}
    return [_run(name, check) for name, check in checks.items()]


def seconds_since_sweep() -> float | None:
    """Seconds since the last finished sweep; None if there was none. Raises RedisError if the broker is down."""
    last = cache.get(LAST_SWEEP)
    return None if last is None else max(0.0, time.time() - float(last))


def _run(name: str, check: Callable[[], tuple[bool, str]]) -> HealthCheck:
    try:
        ok, detail = check()
    except (DatabaseError, redis.RedisError, OSError) as error:
        # Show only the class, because drivers' messages contain addresses and user names.
        return HealthCheck(name, ok=False, detail=f"not reachable ({type(error).__name__})")
    except UnreadableSecret:
        return HealthCheck(name, ok=False, detail="a stored secret cannot be opened with the configured keys")
    return HealthCheck(name, ok, detail)


def _database() -> tuple[bool, str]:
    Connection.objects.exists()
    return True, "answers"


def _broker() -> tuple[bool, str]:
    cache.get(LAST_SWEEP)
    return True, "answers"


def _encryption_keys() -> tuple[bool, str]:
    """Decrypt the oldest and the newest stored secret, because a failed key rotation makes one of them unreadable."""
    if decrypt(encrypt("probe")) != "probe":
        return False, "the first key does not open what it sealed"
    stored = AppCredential.objects.filter(secret__isnull=False)
    for order in ("pk", "-pk"):
        # Reading the column decrypts it; the value is discarded.
        stored.order_by(order).values_list("secret", flat=True).first()
    return True, "open what is stored"


def _sweep() -> tuple[bool, str]:
    age = seconds_since_sweep()
    if age is None:
        return False, "no sweep has finished yet"
    limit = max(4 * settings.SWEEP_INTERVAL, 120.0)
    return age <= limit, f"last one finished {age:.0f} seconds ago"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def metrics() -> Iterator[Metric]:
    """Yield metrics for Prometheus. Raises DatabaseError if the database is down."""
    counts = dict(Connection.objects.order_by().values_list("status").annotate(Count("pk")))
    for status in Connection.Status:
        count = counts.get(status.value, 0)
        yield Metric("portal_connections", "Connections by status", count, (("status", status.value),))
    due = Connection.objects.filter(status=Connection.Status.ACTIVE, refresh_after__lte=timezone.now())
    yield Metric("portal_connections_due", "Active connections whose refresh is due", due.count())
    rejected = AppRegistration.objects.filter(rejected_at__isnull=False).count()
    yield Metric("portal_app_registrations_rejected", "App registrations that Microsoft rejects", rejected)
    unreachable = MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE).count()
    yield Metric("portal_mailboxes_unreachable", "Shared mailboxes a connection cannot reach", unreachable)
    uncounted = rate_limit.outage.uncounted
    yield Metric("portal_api_calls_not_limited", "API calls let through while the cache was away", uncounted)
    yield Metric(
        "portal_audit_unsealed", "Events and token hand-outs not sealed yet", sealing.count_unsealed(most=MOST)
    )
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    for place in publishing.publication_states():
        where = (("place", str(place.place)),)
        yield Metric("portal_audit_seals_unpublished", "Seals not published yet", max(newest - place.upto, 0), where)
    try:
        age = seconds_since_sweep()
    except (redis.RedisError, OSError):
        age = None
    if age is not None:
        yield Metric("portal_seconds_since_last_sweep", "Seconds since a sweep finished", age)
