"""Health checks and metrics of the portal."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError
from django.db import connection as database
from django.db.models import Count
from django.utils import timezone

from connections import keys
from connections.access import counts
from connections.effective_status import EffectiveStatus
from connections.models import AppCredential, AppRegistration, AuditSeal, Connection, Incident, KeyUsage, MailboxAccess
from connections.services.audit import publishing, sealing, streaming
from connections.services.operations import clocks, redis_checks, running_keys, status_counts, write_check
from connections.services.operations.checks import Result, State, ok, problem, warning

MOST = 10_000  # due connections, unreachable mailboxes and unsealed rows are counted up to this limit
PROCESSES = ("web", "worker", "beat")
EXPIRY_WINDOWS = (0, 7, 30)  # days
LAST_SWEEP = "sweep:last"  # cache key: unix time in seconds, written at the end of each sweep


def seconds_since_sweep() -> float | None:
    """Return the seconds since the last finished sweep, or None if there was none.

    Raises RedisError if the broker is down.
    """
    try:
        last = cache.get(LAST_SWEEP)
    except redis.ResponseError:  # the value isn't a string, so the portal did not write it
        return None
    if not isinstance(last, float) or not math.isfinite(last):
        return None
    return max(0.0, time.time() - last)


def database_answers() -> Result:
    """Check that the database has the portal's tables and can be written to. Raises DatabaseError if it is down."""
    try:
        Connection.objects.exists()
    except DatabaseError:
        if Connection._meta.db_table in database.introspection.table_names():
            raise
        return problem("doesn't contain the portal's tables yet", "Run manage.py migrate.")
    try:
        write_check.require_writable()
    except DatabaseError as error:
        action = "Free up disk space, release the lock, or set DATABASE_URL to the primary server."
        return problem(f"reachable, but not writable ({type(error).__name__})", action)
    return ok("reachable and writable")


def broker_answers() -> Result:
    cache.has_key(LAST_SWEEP)
    return ok("answers")


def encryption_keys() -> Result:
    """Check that this process has the keys of all stored values, as last counted, and of running processes."""
    if keys.current().decrypt(keys.current().encrypt(b"probe")) != b"probe":
        return problem("the first key can't decrypt what it encrypted", "Check FIELD_ENCRYPTION_KEYS.")
    if newer := running_keys.encrypting_elsewhere(now=timezone.now()):
        return problem(
            f"this process runs with old keys: others encrypt with {', '.join(sorted(newer))}",
            "Give this process the same FIELD_ENCRYPTION_KEYS as the others, and restart it or send it SIGHUP.",
        )
    counts = _secret_counts()
    if counts.missing:
        named = ", ".join(sorted(counts.missing))
        return problem(
            f"{sum(counts.missing.values())} stored secrets need a key that is missing here: {named}",
            "Add the key to FIELD_ENCRYPTION_KEYS. manage.py keys counts the secrets of each key.",
        )
    others = [f"{counts.unreadable} that no key can decrypt"] if counts.unreadable else []
    others += [f"{counts.altered} moved or altered"] if counts.altered else []
    if others:
        return warning(
            f"decrypt all stored secrets, except {' and '.join(others)}", "Run manage.py keys to list the rows."
        )
    return ok("decrypt all stored secrets")


@dataclass(frozen=True, slots=True)
class _SecretCounts:
    """The stored secrets as last counted, according to the keys of this process."""

    by_key: Counter[str]
    missing: Counter[str]  # by the id of a key that this process does not have
    unreadable: int  # values without the id of a key, which no key decrypts
    altered: int


def _secret_counts() -> _SecretCounts:
    """Sum up the last count (secret_check.count) for this process.

    Values that the counting process could not open may open here.
    """
    by_key: Counter[str] = Counter()
    altered = 0
    for key_id, is_altered, count in KeyUsage.objects.values_list("key_id", "altered", "count"):
        if is_altered:
            altered += count
        else:
            by_key[key_id] += count
    unreadable = by_key.pop("", 0)
    missing = Counter({key_id: count for key_id, count in by_key.items() if key_id not in keys.current().ids})
    return _SecretCounts(by_key, missing, unreadable, altered)


def sweep() -> Result:
    """Check that workers refresh the connections that are due."""
    age = seconds_since_sweep()
    action = "Start a worker and beat, and look for errors of the task sweep in the log."
    if age is None:
        return problem("no sweep has finished yet", action)
    limit = max(4 * settings.SWEEP_INTERVAL, 120.0)
    return Result(State.OK if age <= limit else State.PROBLEM, f"last sweep finished {age:.0f} seconds ago", action)


def clock_differences() -> Result:
    """Name the clocks that differ. The portal still works, so this is a warning that doesn't affect readiness."""
    differing = [str(clock) for clock in clocks.readings() if clock.is_off]
    if differing:
        return warning("; ".join(differing), "Use NTP to set the clocks of all machines.")
    return ok(f"differ by less than {clocks.TOLERANCE:.0f} seconds")


def processes() -> Result:
    """Check that a process of each kind has been seen in the last two minutes."""
    running = running_keys.running(now=timezone.now())
    numbers = Counter(process.name.partition(" ")[0] for process in running)
    missing = [kind for kind in PROCESSES if not numbers[kind]]
    if missing:
        return problem(f"not running: {', '.join(missing)}", "Start it, and look for errors in its log.")
    return ok(", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items())))


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def metrics() -> Iterator[Metric]:
    """Yield metrics for Prometheus. Raises DatabaseError if the database is down."""
    by_status = status_counts.of_organization()
    for status in EffectiveStatus:
        count = by_status[status]
        yield Metric("portal_connections", "Connections by status", count, (("status", status.value),))
    due = Connection.objects.filter(status=Connection.Status.ACTIVE, refresh_after__lte=timezone.now())
    yield Metric(
        "portal_connections_due", f"Active connections whose refresh is due, up to {MOST}", counts.capped(due, MOST)
    )
    rejected = AppRegistration.objects.filter(rejected_at__isnull=False).count()
    yield Metric("portal_app_registrations_rejected", "App registrations that Microsoft rejects", rejected)
    unreachable = counts.capped(MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE), MOST)
    yield Metric(
        "portal_mailboxes_unreachable", f"Shared mailboxes that a connection can't reach, up to {MOST}", unreachable
    )
    incidents = dict(Incident.objects.filter(closed_at=None).order_by().values_list("kind").annotate(Count("pk")))
    for kind in Incident.Kind:
        where = (("kind", kind.value),)
        yield Metric("portal_incidents_open", "Open incidents by kind", incidents.get(kind.value, 0), where)
    yield from _expiry_metrics()
    kinds = Counter(process.name.partition(" ")[0] for process in running_keys.running(now=timezone.now()))
    for kind_of_process in PROCESSES:
        where = (("kind", kind_of_process),)
        yield Metric("portal_processes", "Processes seen in the last two minutes", kinds[kind_of_process], where)
    yield Metric("portal_build_info", "The version that answers", 1, (("version", settings.VERSION),))
    yield Metric("portal_audit_unsealed", "Events and token requests not sealed yet", sealing.count_unsealed(most=MOST))
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    for publication in publishing.publication_states():
        where = (("place", str(publication.place)),)
        yield Metric(
            "portal_audit_seals_unpublished", "Seals not published yet", max(newest - publication.upto, 0), where
        )
    if settings.AUDIT_STREAM_URL:
        waiting_for = streaming.lag(timezone.now()).total_seconds()
        name, text = "portal_audit_stream_lag_seconds", "Age of the oldest event that the stream has not delivered"
        yield Metric(name, text, waiting_for)
    yield from _secret_metrics()
    try:
        age, clock_readings, waiting = seconds_since_sweep(), clocks.readings(), redis_checks.waiting_ticks()
    except (redis.RedisError, OSError):
        return
    yield Metric("portal_ticks_waiting", "Ticks that wait for a worker", waiting)
    if age is not None:
        at = time.time() - age
        yield Metric("portal_last_sweep_timestamp_seconds", "Unix time at which the last sweep finished", at)
    for clock in clock_readings:
        where = (("clock", clock.name),)
        yield Metric("portal_clock_ahead_seconds", "Seconds a clock is ahead of that of Redis", clock.ahead, where)


def _expiry_metrics() -> Iterator[Metric]:
    now = timezone.now()
    live = AppCredential.objects.live().order_by()
    for days in EXPIRY_WINDOWS:
        count = live.filter(expires_at__lt=now + timedelta(days=days)).count()
        name, text = "portal_credentials_expiring", "Credentials of app registrations that expire within so many days"
        yield Metric(name, text, count, (("days", str(days)),))
    day = settings.LOGIN_MICROSOFT_SECRET_EXPIRES
    if day is not None:
        at = datetime.combine(day, datetime.min.time(), UTC).timestamp()
        yield Metric(
            "portal_sign_in_secret_expiry_timestamp_seconds", "Unix time at which the sign-in secret expires", at
        )


def _secret_metrics() -> Iterator[Metric]:
    counts = _secret_counts()
    for key_id, count in sorted(counts.by_key.items()):
        where = (("key", key_id),)
        yield Metric(
            "portal_secrets", "Stored secrets by the key they are encrypted with, as last counted", count, where
        )
    unreadable = counts.unreadable + sum(counts.missing.values())
    yield Metric("portal_secrets_unreadable", "Stored secrets that no key of this process can decrypt", unreadable)
    yield Metric("portal_secrets_altered", "Stored secrets that were moved or altered", counts.altered)
