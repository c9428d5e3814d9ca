"""Celery tasks, which only call services. The database knows what is due."""

import time
import uuid

import structlog
from celery import shared_task
from django.core.cache import cache
from django.core.management import call_command
from django.utils import timezone

from connections import audit
from connections.services.api_keys import idempotency
from connections.services.audit import denials, publishing, sealing, verification
from connections.services.connections import sign_in_links
from connections.services.consent import admin_consent
from connections.services.expiry import credential_expiry
from connections.services.governance import access_review_schedule
from connections.services.mailboxes import probes
from connections.services.notifications import alerts, outbox
from connections.services.operations import health, retention
from connections.services.people import directory_sync
from connections.services.sharing import shares
from connections.services.tokens import scheduler

logger = structlog.get_logger(__name__)


@shared_task(ignore_result=True)
def sweep() -> None:
    _as_task()
    done = scheduler.sweep(now=timezone.now(), clock=timezone.now)
    cache.set(health.LAST_SWEEP, time.time(), timeout=None)
    if done.claimed:
        logger.info("sweep", claimed=done.claimed, renewed=done.renewed, flagged=done.flagged, waiting=done.waiting)


@shared_task(ignore_result=True)
def probe_due_mailboxes() -> None:
    """Probe the shared mailboxes that are due, and check open consent requests."""
    _as_task()
    probes.probe_due(now=timezone.now())
    admin_consent.verify_open(now=timezone.now())


@shared_task(ignore_result=True)
def deliver_alerts() -> None:
    _as_task()
    now = timezone.now()
    alerts.remind_due(now)
    done = outbox.deliver_due(now)
    if done.claimed:
        logger.info("alerts", claimed=done.claimed, delivered=done.delivered, failed=done.failed)


@shared_task(ignore_result=True)
def look_ahead() -> None:
    """Read when credentials expire, warn of those that expire soon, and sync people with the directory."""
    _as_task()
    credential_expiry.check_due(now=timezone.now())
    directory_sync.sync_due(now=timezone.now())


@shared_task(ignore_result=True)
def end_lapsed_shares() -> None:
    """Record the end of expired shares, which stopped working on their end date."""
    _as_task()
    shares.end_expired(now=timezone.now())


@shared_task(ignore_result=True)
def seal_audit() -> None:
    """Seal recorded events, publish the seals, and run requested verifications."""
    _as_task()
    denials.write_events(timezone.now())
    sealing.seal_due(timezone.now())
    publishing.publish_due(timezone.now())
    verification.run_due(timezone.now)


@shared_task(ignore_result=True)
def tick_reviews() -> None:
    _as_task()
    access_review_schedule.run_due(timezone.now())


@shared_task(ignore_result=True)
def tidy() -> None:
    """Remove expired sessions, sign-in links and stored API replies, and everything past its retention period."""
    _as_task()
    call_command("clearsessions")
    idempotency.prune(now=timezone.now())
    sign_in_links.prune(now=timezone.now())
    retention.prune(timezone.now())


def _as_task() -> None:
    """Give this run an id that links its log lines and audit events."""
    run = str(uuid.uuid4())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=run)
    audit.origin.set(audit.Origin(run))
