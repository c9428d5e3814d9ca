"""Each process of the portal announces its encryption keys, and reloads them on SIGHUP."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
from typing import Literal

from django.db import DatabaseError, connections
from django.utils import timezone

from connections import keys
from connections.services.operations import metrics, running_keys, secret_check

logger = logging.getLogger(__name__)


class KeyAnnouncer:
    """A thread that announces this process's keys, and reports the altered secrets that the process has found."""

    def __init__(self, kind: str) -> None:
        self.name = f"{kind} {socket.gethostname()[:90]}:{os.getpid()}"
        self.has_announced = threading.Event()
        # What the thread should do next. SimpleQueue.put may be interrupted by a signal handler that calls it;
        # Event.set may not.
        self._orders: queue.SimpleQueue[Literal["reload", "stop"]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="key-announcer", daemon=True)

    def start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, lambda number, frame: self.reload())
        self._thread.start()

    def reload(self) -> None:
        """Make the thread reload the keys now. May be called in a signal handler, even one that interrupts this method."""
        self._orders.put("reload")

    def stop(self) -> None:
        self._orders.put("stop")
        self._thread.join(timeout=5)

    def _run(self) -> None:
        order = None
        while order != "stop":
            if order == "reload":
                self._read_keys()
            self._announce()
            self.has_announced.set()
            try:
                order = self._orders.get(timeout=running_keys.ANNOUNCE_EVERY)
            except queue.Empty:
                order = None
        self._withdraw()

    def _read_keys(self) -> None:
        try:
            keyring = keys.reload()
        except (OSError, ValueError) as error:
            # Log only the class, because the message could contain part of a key.
            logger.error("The encryption keys could not be read again, so the old ones stay: %s", type(error).__name__)
        else:
            logger.info("The encryption keys were read again: %s", ", ".join(keyring.ids))

    def _announce(self) -> None:
        now = timezone.now()
        try:
            running_keys.announce(self.name, now=now)
            secret_check.report_noted(now=now)
            metrics.flush()
        except DatabaseError as error:
            logger.warning("The encryption keys of this process could not be announced: %s", type(error).__name__)
        except Exception:  # if the thread ended, the process would ignore SIGHUP
            logger.exception("The encryption keys of this process could not be announced.")
        finally:
            connections.close_all()

    def _withdraw(self) -> None:
        try:
            metrics.flush()
            running_keys.withdraw(self.name)
        except DatabaseError as error:
            logger.warning("The end of this process could not be announced: %s", type(error).__name__)
        finally:
            connections.close_all()
