"""The Celery application and its beat schedule.

A beat entry only triggers work: the database knows what is due, and a worker claims it there. A second beat, a missed
tick or a restart of beat therefore only changes the timing.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import beat_init, celeryd_init, setup_logging, worker_ready
from django.conf import settings

if TYPE_CHECKING:
    from portal.key_announcer import KeyAnnouncer
from portal import logs, watchdog

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# Celery would run Django's checks and ignore their results. They load every page and the whole API, which beat and most
# workers never need. `manage.py check` and `migrate` run them anyway.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

if "celery" in Path(sys.argv[0]).parts[-2:]:  # for workers and beat, but not for other programs that import this module
    logs.start()

logger = logging.getLogger(__name__)

_announcer: KeyAnnouncer | None = None


class PortalCelery(Celery):
    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - Celery's name
        return self.subclass_with_self("portal.beat:Beat")


app = PortalCelery("portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_after_configure.connect
def schedule(sender: Celery, **kwargs: object) -> None:
    """Set the beat schedule. Intervals are in seconds, and most come from the settings."""
    intervals = {
        "sweep": settings.SWEEP_INTERVAL,
        "probe_due_mailboxes": settings.PROBE_INTERVAL,
        "run_bulk_actions": 5,
        "verify_consents": 60,
        "deliver_alerts": settings.ALERT_INTERVAL,
        "look_ahead": settings.LOOK_AHEAD_INTERVAL,
        "tend_credentials": settings.LOOK_AHEAD_INTERVAL / 10,
        "end_lapsed_shares": 60,
        "seal_audit": settings.AUDIT_INTERVAL,
        "stream_audit": settings.AUDIT_INTERVAL,  # a task of its own, because its receiver may be slow
        "watch_audit": settings.AUDIT_INTERVAL,  # a task of its own, so that it goes on if sealing fails
        "tick_reviews": 300,
        "check_secrets": 300,
        "write_daily_figures": settings.STATISTICS_INTERVAL,
        "tidy": 3600,
    }
    # Set no "expires". The worker would compare it with its own clock, and discard every tick if that clock is ahead.
    sender.conf.beat_schedule = {
        name: {"task": f"connections.tasks.{name}", "schedule": seconds} for name, seconds in intervals.items()
    }


@app.on_after_configure.connect
def watch(**kwargs: object) -> None:
    watchdog.watch_this_process()


@setup_logging.connect
def keep_logging(**kwargs: object) -> None:
    """Keep Django's logging settings. Celery would raise the level to WARNING."""


@celeryd_init.connect
def print_nothing(instance: Any, **kwargs: object) -> None:
    """Suppress Celery's banner, and log what it would print when it stops."""
    import celery.apps.worker

    instance.quiet = True
    celery.apps.worker.safe_say = lambda text, *arguments, **options: logger.info(text.strip())


@celeryd_init.connect
def trace(**kwargs: object) -> None:
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from portal import tracing

        tracing.start("worker")
        atexit.register(tracing.stop)


@worker_ready.connect
@beat_init.connect
def announce_keys(signal: object, **kwargs: object) -> None:
    """Announce the encryption keys of this process. On SIGHUP, reload them instead of restarting."""
    from portal.key_announcer import KeyAnnouncer  # imported late, because it needs Django's models

    global _announcer
    if _announcer is None:  # a worker becomes ready again each time it has lost the broker
        _announcer = KeyAnnouncer("beat" if signal is beat_init else "worker")
        _announcer.start()
        atexit.register(_announcer.stop)
