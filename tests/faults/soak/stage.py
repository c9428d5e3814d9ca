"""The processes of a soak: PostgreSQL, Valkey, Microsoft behind TLS, web, worker and beat, and their supervisor."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

import redis

from benchmarks.stage import Stage
from portal.processes import Process
from portal.sandbox.process import free_port
from tests.faults.soak.silent_proxy import SilentProxy

MICROSOFT_TIMEOUT = 2.0  # seconds
_WORKER = ("celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip")


class Service:
    """A process of the portal. ``ended`` lists what it said whenever it ended without having been killed by ``kill``."""

    def __init__(self, name: str, start: Callable[[], Process], is_up: Callable[[], bool]) -> None:
        self.name = name
        self._start, self._is_up = start, is_up
        self.ended: list[str] = []
        self.last_down = 0.0  # time.monotonic() at which it was last seen not to work
        self._was_killed = False
        self.process = start()

    def kill(self) -> None:
        self._was_killed, self.last_down = True, time.monotonic()
        self.process.popen.kill()
        self.process.popen.wait()

    def look(self) -> None:
        """Start the process again if it has ended."""
        if self.process.has_ended():
            if not self._was_killed:
                code = self.process.popen.returncode
                self.ended.append(f"{self.name} ended with code {code}:\n{self.process.last_lines(8)}")
            self._was_killed = False
            self.process = self._start()
        if time.monotonic() - self.last_down < 60 and not self._is_up():
            self.last_down = time.monotonic()


class SoakStage:
    """Everything that runs. The broker is reached through a proxy that can fall silent."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.sandbox = self.stage.sandbox.control
        self.proxy = SilentProxy(self.stage.valkey.socket)
        self.port = free_port()
        self.stage.environment |= {
            "REDIS_URL": f"redis://127.0.0.1:{self.proxy.port}/0",
            "MICROSOFT_TIMEOUT": str(MICROSOFT_TIMEOUT),
            "API_RATE_LIMIT": "0",
            "SWEEP_INTERVAL": "0.5",
            "PYTHONUNBUFFERED": "1",
        }
        self.services: dict[str, Service] = {}
        self._must_stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")

    def start(self) -> None:
        """Start web, worker and beat; the database must have been migrated."""
        launch = self.stage.launch
        starts: dict[str, tuple[Callable[[], Process], Callable[[], bool]]] = {
            "web": (lambda: launch("web", "portal.server", BIND=f"127.0.0.1:{self.port}"), self._web_answers),
            "worker": (lambda: launch("worker", *_WORKER), lambda: True),
            "beat": (lambda: launch("beat", "celery", "-A", "portal", "beat"), lambda: True),
        }
        self.services = {name: Service(name, *start) for name, start in starts.items()}
        self.services["web"].process.wait_until(self._web_answers, seconds=90)
        self.services["worker"].process.wait_for_line(" ready.", seconds=90)
        self._supervisor.start()

    def forget_locks(self) -> None:
        """Remove the locks of killed processes, as if they had expired."""
        client = redis.Redis.from_url(self.stage.valkey.url())
        for pattern in ("*grant:*", "*refresh:*"):
            for name in client.scan_iter(pattern):
                client.delete(name)
        client.close()

    def close(self) -> None:
        self._must_stop.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        self.stage.close()
        self.proxy.close()

    def _supervise(self) -> None:
        while not self._must_stop.wait(0.2):
            for service in self.services.values():
                service.look()

    def _web_answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/healthz", headers={"Host": "localhost"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
