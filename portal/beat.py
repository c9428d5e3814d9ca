"""The scheduler of beat.

Ticks never expire, so none is lost if clocks differ. A limit keeps them from piling up.
"""

from typing import Any

import celery.apps.beat
import structlog
from celery.beat import ScheduleEntry, Scheduler

from connections.services.operations import clocks

logger = structlog.get_logger(__name__)

# Ticks waiting for a worker. After an outage, workers run at most this many, and nearly all of them find nothing to do.
MOST_WAITING = 100


class Beat(celery.apps.beat.Beat):
    """Celery's beat without its banner, which is not a log line."""

    def run(self) -> None:
        self.quiet = True
        super().run()


class TickScheduler(Scheduler):
    """Sends a tick only while few are waiting. Skipping a tick only changes the timing (portal/celery.py)."""

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        clocks.report("beat")
        if self.waiting(producer) < MOST_WAITING:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        logger.warning("No worker takes the ticks, so this one is left out", task=entry.task, waiting=MOST_WAITING)
        return None

    def waiting(self, producer: Any) -> int:
        """Return the number of ticks in the queue. Raises Kombu's OperationalError if the broker is down."""
        queue = producer.channel.queue_declare(queue=self.app.conf.task_default_queue, durable=True)
        return int(queue.message_count)
