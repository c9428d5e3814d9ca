"""Celery tasks, which only call services. The database knows what is due."""

import threading
import time
import uuid
from contextlib import suppress

import structlog
from celery import shared_task, signals
from django.core.cache import cache
from django.utils import timezone
from redis.exceptions import RedisError

from connections import audit, counters
from connections.services.api_keys import idempotency
from connections.services.audit import denials, publishing, sealing
from connections.services.connections import bulk_actions, bulk_execution, directories, sign_in_links
from connections.services.consent import admin_consent
from connections.services.expiry import credential_expiry, renewal, sign_in_secret
from connections.services.governance import access_review_schedule, violation_figures
from connections.services.mailboxes import probes
from connections.services.notifications import alerts, outbox
from connections.services.operations import (
    audit_watch,
    clocks,
    daily_figures,
    health,
    retention,
    secret_check,
    tallies,
)
from connections.services.people import directory_sync, sessions, sign_in_limits
from connections.services.registry import credential_checks, issuer
from connections.services.sharing import shares
from connections.services.tokens import scheduler
from connections.services.tokens.apply_results import Summary

logger = structlog.get_logger(__name__)


_sweeping = threading.Lock()
_is_stopping = False  # no Event: its set() must not interrupt itself, as a second signal would make it do


@signals.worker_shutting_down.connect
def stop_sweeping(**kwargs: object) -> None:
    """Send no more requests, so that the worker can stop when those in flight are answered."""
    global _is_stopping
    _is_stopping = True


@shared_task(ignore_result=True)
def sweep() -> None:
    """Refresh what is due. While this process is still busy with that, a tick only retries rejected apps."""
    _as_task()
    if not _sweeping.acquire(blocking=False):
        _count_refreshes(scheduler.retry_rejected_apps(now=timezone.now()))
        return
    try:
        done = scheduler.sweep(
            now=timezone.now(), clock=timezone.now, is_stopping=lambda: _is_stopping, report=_note_progress
        )
    finally:
        _sweeping.release()
    _note_progress()
    _count_refreshes(done)
    clocks.report("worker")
    if done.claimed:
        logger.info("sweep", claimed=done.claimed, renewed=done.renewed, flagged=done.flagged, waiting=done.waiting)


def _note_progress() -> None:
    with suppress(RedisError, OSError):  # refreshing goes on without the cache
        cache.set(health.LAST_SWEEP, time.time(), timeout=None)


def _count_refreshes(done: Summary) -> None:
    for result in ("renewed", "flagged", "waiting"):
        if number := getattr(done, result):
            counters.add("portal_refreshes_total", result, times=number)
    daily_figures.count_refreshes(renewed=done.renewed, failed=done.flagged, now=timezone.now())


@shared_task(ignore_result=True)
def probe_due_mailboxes() -> None:
    """Attach mailboxes whose directory is known by now, and probe those that are due."""
    _as_task()
    directories.bind_waiting(now=timezone.now())
    probes.probe_due(now=timezone.now())


@shared_task(ignore_result=True)
def run_bulk_actions() -> None:
    """Carry out actions on many connections that people have started."""
    _as_task()
    bulk_execution.run_due(timezone.now)


@shared_task(ignore_result=True)
def verify_consents() -> None:
    """Look for admin consent in tokens, where a check is due."""
    _as_task()
    admin_consent.verify_open(now=timezone.now())


@shared_task(ignore_result=True)
def deliver_alerts() -> None:
    _as_task()
    now = timezone.now()
    alerts.remind_due(now)
    done = outbox.deliver_due(now)
    for result in ("delivered", "failed"):
        if number := getattr(done, result):
            counters.add("portal_alerts_total", result, times=number)
    if done.claimed:
        logger.info("alerts", claimed=done.claimed, delivered=done.delivered, failed=done.failed)


@shared_task(ignore_result=True)
def look_ahead() -> None:
    """Read when credentials expire, warn of those that expire soon, and sync people with the directory."""
    _as_task()
    credential_expiry.check_due(now=timezone.now())
    sign_in_secret.warn_due(now=timezone.now())
    directory_sync.sync_due(now=timezone.now())


@shared_task(ignore_result=True)
def tend_credentials() -> None:
    """Rotate the portal's signing keys, test new federated credentials, and renew secrets and certificates."""
    _as_task()
    issuer.rotate_due(now=timezone.now())
    renewal.run_due(now=timezone.now())
    credential_checks.try_waiting(now=timezone.now())


@shared_task(ignore_result=True)
def end_lapsed_shares() -> None:
    """Every minute: record the end of expired shares, delete ended sessions, and add up the kept counts."""
    _as_task()
    tallies.add_up()
    shares.end_expired(now=timezone.now())
    # Anonymous sign-ins store sessions, which must go as fast as they come.
    sessions.prune(now=timezone.now())


@shared_task(ignore_result=True)
def seal_audit() -> None:
    """Seal recorded events and publish the seals."""
    _as_task()
    denials.write_events(timezone.now())
    sign_in_limits.close_windows(now=timezone.now())
    sealing.seal_due(timezone.now())
    publishing.publish_due(timezone.now())


@shared_task(ignore_result=True)
def watch_audit() -> None:
    """Run requested and scheduled verifications, and raise the alarm if the audit trail is not what it should be."""
    _as_task()
    audit_watch.run(timezone.now)


@shared_task(ignore_result=True)
def tick_reviews() -> None:
    _as_task()
    access_review_schedule.run_due(timezone.now())


@shared_task(ignore_result=True)
def check_secrets() -> None:
    """Open every stored secret once an hour, count those of each key, and report what was moved or altered."""
    _as_task()
    secret_check.count_due(now=timezone.now())


@shared_task(ignore_result=True)
def write_daily_figures() -> None:
    """Write today's figures for charts, those of days that were missed, and the number of policy violations."""
    _as_task()
    daily_figures.update(now=timezone.now())
    violation_figures.update(now=timezone.now())


@shared_task(ignore_result=True)
def tidy() -> None:
    """Remove expired sign-in links and stored API replies, and everything past its retention period."""
    _as_task()
    idempotency.prune(now=timezone.now())
    sign_in_links.prune(now=timezone.now())
    bulk_actions.prune(now=timezone.now())
    retention.prune(timezone.now())


def _as_task() -> None:
    """Give this run an id that links its log lines and audit events."""
    run = str(uuid.uuid4())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=run)
    audit.origin.set(audit.Origin(run))
