"""A log of the requests to the sandbox, with counters and recent calls, for tests that count requests.

It contains no secrets: a delegated grant is identified by the SHA-256 of its grant ID, never by a token.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 5000  # maximum number of calls in the list; the counters have no limit


def fingerprint(grant: str) -> str:
    """Return the public ID of a delegated grant. It stays the same when the refresh token is replaced."""
    return hashlib.sha256(grant.encode()).hexdigest()


@dataclass
class Call:
    """One request. ``time`` is in seconds since 1970 by the real clock, not the sandbox's clock."""

    number: int
    time: float
    endpoint: str
    method: str
    path: str
    tenant: str = ""
    grant_type: str = ""
    client_id: str = ""
    grant: str = ""
    status: int = 0
    outcome: str = ""
    correlation_id: str = ""


class CallLog:
    """All calls since the start or the last ``clear``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._recent: deque[Call] = deque(maxlen=KEPT)
            self._number = 0
            self._endpoints: Counter[str] = Counter()
            self._grant_types: Counter[str] = Counter()
            self._outcomes: Counter[str] = Counter()
            self._grants: dict[str, Counter[str]] = {}
            self._connections: set[str] = set()
            self._running = 0
            self._most_running = 0

    def begin(self, endpoint: str, method: str, path: str, connection: str) -> Call:
        with self._lock:
            self._number += 1
            self._running += 1
            self._most_running = max(self._most_running, self._running)
            self._connections.add(connection)
            call = Call(self._number, time.time(), endpoint, method, path)
            self._recent.append(call)
            return call

    def end(self, call: Call, status: int) -> None:
        """Record the status of the response; 0 means that there was none."""
        call.status = status
        call.outcome = call.outcome or ("ok" if 200 <= status < 400 else str(status))
        with self._lock:
            self._running = max(0, self._running - 1)
            self._endpoints[call.endpoint] += 1
            self._outcomes[call.outcome] += 1
            if call.grant_type:
                self._grant_types[call.grant_type] += 1
            if call.client_id and call.endpoint == "token":
                self._grants.setdefault(call.client_id, Counter())[call.grant or call.grant_type] += 1

    def snapshot(self, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """Return the counters and the newest ``limit`` calls whose number is above ``after``, oldest first."""
        with self._lock:
            recent = [asdict(call) for call in self._recent if call.number > after]
            return {
                "total": self._number,
                "running": self._running,
                "most_running": self._most_running,
                "connections": len(self._connections),
                "by_endpoint": dict(self._endpoints),
                "by_grant_type": dict(self._grant_types),
                "by_outcome": dict(self._outcomes),
                "by_grant": {client: dict(counter) for client, counter in self._grants.items()},
                "recent": recent[-limit:] if limit else [],
            }


log = CallLog()
