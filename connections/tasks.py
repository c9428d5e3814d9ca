"""Celery tasks. They only call services, which find in the database what is due."""

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
from connections.services.audit import denials, publishing, sealing, streaming
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
_is_stopping = False  # not an Event, because a second signal could interrupt its set() and call it again


@signals.worker_shutting_down.connect
def stop_sweeping(**kwargs: object) -> None:
    """Start no more requests, so that the worker can stop when the running ones are finished."""
    global _is_stopping
    _is_stopping = True


@shared_task(ignore_result=True)
def sweep() -> None:
    """Refresh the connections that are due. If this process is still refreshing, only retry rejected apps."""
    _as_task()
    if not _sweeping.acquire(blocking=False):
        _count_refreshes(scheduler.retry_rejected_apps(now=timezone.now(), is_stopping=lambda: _is_stopping))
        return
    try:
        summary = scheduler.sweep(
            now=timezone.now(), clock=timezone.now, is_stopping=lambda: _is_stopping, report=_note_progress
        )
    finally:
        _sweeping.release()
    _note_progress()
    _count_refreshes(summary)
    clocks.report("worker")
    if summary.claimed:
        logger.info(
            "sweep", claimed=summary.claimed, renewed=summary.renewed, flagged=summary.flagged, waiting=summary.waiting
        )


def _note_progress() -> None:
    with suppress(RedisError, OSError):  # refreshes continue without the cache
        cache.set(health.LAST_SWEEP, time.time(), timeout=None)


def _count_refreshes(summary: Summary) -> None:
    for result in ("renewed", "flagged", "waiting"):
        if number := getattr(summary, result):
            counters.add("portal_refreshes_total", result, times=number)
    daily_figures.count_refreshes(renewed=summary.renewed, failed=summary.flagged, now=timezone.now())


@shared_task(ignore_result=True)
def probe_due_mailboxes() -> None:
    """Attach mailboxes whose directory has become known, and test those that are due."""
    _as_task()
    directories.bind_waiting(now=timezone.now())
    probes.probe_due(now=timezone.now())


@shared_task(ignore_result=True)
def run_bulk_actions() -> None:
    """Carry out the bulk actions that people have started."""
    _as_task()
    bulk_execution.run_due(timezone.now)


@shared_task(ignore_result=True)
def verify_consents() -> None:
    """Check tokens for admin consent, if a check is due."""
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
    """Read the expiry dates of credentials, warn about those that expire soon, and sync people with the directory."""
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
    """Add up the tallies of connections, end expired shares, and delete ended sessions. Runs every minute."""
    _as_task()
    tallies.add_up()
    shares.end_expired(now=timezone.now())
    # Anonymous sign-ins also store sessions, so these must be deleted as fast as they are created.
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
def stream_audit() -> None:
    """Send sealed events and token requests to AUDIT_STREAM_URL."""
    _as_task()
    streaming.stream_due(timezone.now, is_stopping=lambda: _is_stopping)


@shared_task(ignore_result=True)
def watch_audit() -> None:
    """Run requested and scheduled verifications, and raise an alarm if the audit trail is not intact."""
    _as_task()
    audit_watch.run(timezone.now)


@shared_task(ignore_result=True)
def tick_reviews() -> None:
    _as_task()
    access_review_schedule.run_due(timezone.now())


@shared_task(ignore_result=True)
def check_secrets() -> None:
    """Once an hour, decrypt every stored secret, count the secrets of each key, and report altered ones."""
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
    """Delete expired sign-in links, stored API replies and old bulk actions, and data past its retention period."""
    _as_task()
    idempotency.prune(now=timezone.now())
    sign_in_links.prune(now=timezone.now())
    bulk_actions.prune(now=timezone.now())
    retention.prune(timezone.now())


def _as_task() -> None:
    """Give this run an ID that links its log lines and audit events."""
    run = str(uuid.uuid4())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=run)
    audit.origin.set(audit.Origin(run))
