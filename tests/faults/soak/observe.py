"""What a soak watches: the answers of token calls, and whether the stored grants are those that people gave last."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from portal.sandbox.client import ControlError
from tests.faults.soak.stage import SoakStage

CALLERS = 6
PAUSE = 0.02  # seconds between two calls of one caller
# What docs/api.md allows while nothing is wrong with a connection.
DOCUMENTED = ("microsoft_unavailable", "database_unavailable")


@dataclass
class Findings:
    """What a round broke, in words; all empty if nothing."""

    lost_grants: list[str] = field(default_factory=list)
    stale_overwrites: list[str] = field(default_factory=list)
    wrong_flags: list[str] = field(default_factory=list)
    stuck_rows: list[str] = field(default_factory=list)
    undocumented_answers: list[str] = field(default_factory=list)
    ended_processes: list[str] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter({each.name: len(getattr(self, each.name)) for each in fields(self)})

    def lines(self) -> list[str]:
        return [f"{each.name}: {text}" for each in fields(self) for text in getattr(self, each.name)]


class Callers:
    """Threads that fetch tokens until stopped. ``undocumented`` lists answers that docs/api.md does not allow."""

    def __init__(self, stage: SoakStage, key: str, numbers: Sequence[int]) -> None:
        self.statuses: Counter[int] = Counter()
        self.undocumented: list[str] = []
        self._stage, self._numbers = stage, numbers
        self._headers = {"Authorization": f"Bearer {key}", "Host": "localhost"}
        self._must_stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(place,)) for place in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._must_stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._stage.port, timeout=60)
        while not self._must_stop.wait(PAUSE):
            number = self._numbers[place % len(self._numbers)]
            place += CALLERS + 1
            began = time.monotonic()
            try:
                connection.request("GET", f"/api/v1/connections/{number}/token", headers=self._headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._note_cut(began, error)
                continue
            self.statuses[response.status] += 1
            if problem := undocumented(response.status, dict(response.getheaders()), body):
                self.undocumented.append(problem)

    def _note_cut(self, began: float, error: Exception) -> None:
        """Excuse a call that broke off while the web process was down; the supervisor may see that a little later."""
        self.statuses[0] += 1
        if not self._must_stop.wait(0.5) and self._stage.services["web"].last_down < began - 1:
            self.undocumented.append(f"no answer: {error!r}")


def undocumented(status: int, headers: dict[str, str], body: bytes) -> str:
    """Return what is wrong with an answer to a token call, or ""."""
    try:
        content = json.loads(body)
    except ValueError:
        return f"{status} with a body that is no JSON"
    names = {name.lower(): value for name, value in headers.items()}
    if status == 200 and content.get("access_token") and content.get("expires_at"):
        return ""
    if status == 503 and content.get("code") in DOCUMENTED and names.get("retry-after", "").isdigit():
        return ""
    return f"{status} {content.get('code')} with Retry-After {names.get('retry-after')}"


class StoredGrants:
    """Compares stored refresh tokens with the grants that people gave last, by their fingerprints at Microsoft."""

    def __init__(self, stage: SoakStage, fingerprints: dict[int, str]) -> None:
        self._stage = stage
        self._latest = fingerprints
        self._former: dict[int, set[str]] = {pk: set() for pk in fingerprints}
        self._flagged = 0

    def signed_in_again(self, pk: int, fingerprint: str) -> None:
        self._former[pk].add(self._latest[pk])
        self._latest[pk] = fingerprint

    def check(self, findings: Findings) -> None:
        """Add lost grants, stale overwrites and wrong flags, and put flagged connections right for the next round."""
        from connections.models import Connection

        for pk, token in Connection.objects.defer(None).values_list("pk", "refresh_token"):
            try:
                fingerprint = self._stage.sandbox.describe_token(token or "")["fingerprint"]
            except ControlError:
                fingerprint = ""
            if fingerprint in self._former[pk]:
                findings.stale_overwrites.append(f"connection {pk} has the grant of an earlier sign-in")
            elif fingerprint != self._latest[pk]:
                findings.lost_grants.append(f"connection {pk} has a refresh token of no grant")
        self._check_flags(findings)

    def _check_flags(self, findings: Findings) -> None:
        from connections.models import AppConsent, AppRegistration, AuditEvent, Connection, Incident

        rows = Connection.objects.exclude(status=Connection.Status.ACTIVE)
        findings.wrong_flags += [f"connection {pk} is {status}" for pk, status in rows.values_list("pk", "status")]
        rejected = AppRegistration.objects.filter(rejected_at__isnull=False).count()
        rejected += AppConsent.objects.filter(rejected_at__isnull=False).count()
        flagged = AuditEvent.objects.filter(action="connection.flagged").count()
        incidents = Incident.objects.filter(closed_at=None).exclude(kind=Incident.Kind.OUTAGE)
        findings.wrong_flags += ["the app registration is rejected"] * bool(rejected)
        findings.wrong_flags += [f"{flagged - self._flagged} flagged meanwhile"] * bool(flagged > self._flagged)
        findings.wrong_flags += [f"incident: {incident.kind}" for incident in incidents]
        self._flagged = flagged
        rows.update(status=Connection.Status.ACTIVE)
        incidents.update(closed_at="2000-01-01 00:00:00+00:00")
