"""The Celery application and its beat schedule.

A beat entry only triggers work: the database says what is due, and a worker claims it there. A second beat, a missed
tick or a restart of beat therefore only changes the timing.
"""

import os

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# Celery would run Django's checks and ignore their results. They load every page and the whole API, which most workers
# and beat never need. `manage.py check` and `migrate` run them anyway.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_after_configure.connect
def schedule(sender: Celery, **kwargs: object) -> None:
    """Set the beat schedule, with the intervals (in seconds) from the settings."""
    sender.conf.beat_schedule = {
        "sweep": {
            "task": "connections.tasks.sweep",
            "schedule": settings.SWEEP_INTERVAL,
            # Drop a tick that no worker has picked up by the time the next one is due.
            "options": {"expires": settings.SWEEP_INTERVAL},
        },
        "probe-mailboxes": {
            "task": "connections.tasks.probe_due_mailboxes",
            "schedule": settings.PROBE_INTERVAL,
            "options": {"expires": settings.PROBE_INTERVAL},
        },
        "deliver-alerts": {
            "task": "connections.tasks.deliver_alerts",
            "schedule": settings.ALERT_INTERVAL,
            "options": {"expires": settings.ALERT_INTERVAL},
        },
        "look-ahead": {
            "task": "connections.tasks.look_ahead",
            "schedule": settings.LOOK_AHEAD_INTERVAL,
            "options": {"expires": settings.LOOK_AHEAD_INTERVAL},
        },
        "end-lapsed-shares": {
            "task": "connections.tasks.end_lapsed_shares",
            "schedule": 60,
            "options": {"expires": 60},
        },
        "seal-audit": {
            "task": "connections.tasks.seal_audit",
            "schedule": settings.AUDIT_INTERVAL,
            "options": {"expires": settings.AUDIT_INTERVAL},
        },
        "tick-reviews": {"task": "connections.tasks.tick_reviews", "schedule": 300, "options": {"expires": 300}},
        "tidy": {"task": "connections.tasks.tidy", "schedule": 3600, "options": {"expires": 3600}},
    }


@setup_logging.connect
def keep_logging(**kwargs: object) -> None:
    """Keep Django's logging settings: Celery would raise the level to WARNING."""
