"""Celery's doorways: they load, call one service, and stop. What is due stands in the database."""

from __future__ import annotations

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
from connections.services.operations import retention
from connections.services.people import directory_sync
from connections.services.sharing import shares
from connections.services.tokens import scheduler

logger = structlog.get_logger(__name__)

LAST_SWEEP = "sweep:last"  # cache key: unix time of the last finished sweep, read by /readyz and /metrics


@shared_task(ignore_result=True)
def sweep() -> None:
    """Refresh what is due."""
    _as_task()
    done = scheduler.sweep(now=timezone.now(), clock=timezone.now)
    cache.set(LAST_SWEEP, time.time(), timeout=None)
    if done.claimed:
        logger.info("sweep", claimed=done.claimed, renewed=done.renewed, flagged=done.flagged, waiting=done.waiting)


@shared_task(ignore_result=True)
def probe_due_mailboxes() -> None:
    """Probe shared mailboxes whose routine probe is due, and look for consent that has come through."""
    _as_task()
    probes.probe_due(now=timezone.now())
    admin_consent.verify_open(now=timezone.now())


@shared_task(ignore_result=True)
def deliver_alerts() -> None:
    """Write the reminders that are due and send what waits in the outbox."""
    _as_task()
    now = timezone.now()
    alerts.remind_due(now)
    done = outbox.deliver_due(now)
    if done.claimed:
        logger.info("alerts", claimed=done.claimed, delivered=done.delivered, failed=done.failed)


@shared_task(ignore_result=True)
def look_ahead() -> None:
    """Read the credentials' true expiry dates that are due, warn of what expires soon, and see who has left."""
    _as_task()
    credential_expiry.check_due(now=timezone.now())
    directory_sync.sync_due(now=timezone.now())


@shared_task(ignore_result=True)
def end_lapsed_shares() -> None:
    """Write down the end of shares whose date is over; they have not counted since then."""
    _as_task()
    shares.end_expired(now=timezone.now())


@shared_task(ignore_result=True)
def seal_audit() -> None:
    """Seal what has been recorded, publish the seals, and carry out the verifications somebody asked for."""
    _as_task()
    denials.write_events(timezone.now())
    sealing.seal_due(timezone.now())
    publishing.publish_due(timezone.now())
    verification.run_due(timezone.now)


@shared_task(ignore_result=True)
def tick_reviews() -> None:
    """Start, remind of, end and close access reviews."""
    _as_task()
    access_review_schedule.run_due(timezone.now())


@shared_task(ignore_result=True)
def tidy() -> None:
    """Remove ended sessions, used-up sign-in states, and sign-in links that are over, and kept answers of the API."""
    _as_task()
    call_command("clearsessions")
    idempotency.prune(now=timezone.now())
    sign_in_links.prune(now=timezone.now())
    retention.prune(timezone.now())


def _as_task() -> None:
    """Give this run an id, so that its log lines and audit rows belong together."""
    run = str(uuid.uuid4())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=run)
    audit.origin.set(audit.Origin(run))
