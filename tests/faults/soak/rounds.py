# ruff: noqa: T201 - it prints, that is its purpose
"""One run of a soak: a portal with granted connections, its callers, and the rounds of faults that happen to them."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta

from portal.processes import ProcessError
from tests.faults.soak import kinds
from tests.faults.soak.kinds import Kind
from tests.faults.soak.observe import Callers, Findings, StoredGrants
from tests.faults.soak.stage import SoakStage

CONNECTIONS = 40
HELD = (1.5, 3.0)  # seconds that the faults of a round last
RECOVERY = 120.0  # seconds in which everything must have been refreshed; far less on an idle machine


class Soak:
    """The portal of a run, and what happened to it. ``table`` counts by fault what its rounds broke."""

    stage: SoakStage
    grants: StoredGrants
    numbers: list[int]  # primary keys of the connections
    account: str  # whose connections they are

    def __init__(self, stage: SoakStage) -> None:
        from tests import factories

        self.stage = stage
        self.account = factories.ADA
        issued = stage.sandbox.issue_grant(factories.CLIENT_ID, self.account, kinds.SCOPES, count=CONNECTIONS)
        owner = factories.make_person("bob")
        self.numbers = [
            factories.make_connection(name=f"Connection {number}", owner=owner, refresh_token=token).pk
            for number, token in enumerate(issued["refresh_tokens"])
        ]
        self.grants = StoredGrants(stage, dict(zip(self.numbers, issued["fingerprints"], strict=True)))
        _, self.key = factories.make_key(owner)
        self.table: dict[str, Counter[str]] = {}

    def play(self, rounds: int, rng: random.Random, allowed: Sequence[Kind]) -> bool:
        """Play the rounds and print what each broke; return whether that is nothing."""
        self.stage.start()
        callers = Callers(self.stage, self.key, self.numbers)
        try:
            plan = list(draw_plan(allowed, rounds, rng))
            for number, drawn in enumerate(plan, start=1):
                findings = self._round(drawn, rng, callers)
                print(f"round {number}: {', '.join(kind.name for kind in drawn)}", *findings.lines(), sep="\n    ")
                sys.stdout.flush()
        finally:
            callers.stop()
        print(f"\n{dict(sorted(callers.statuses.items()))} answers to token calls by status; 0: web was down")
        return not any(sum(counts.values()) - counts["injected"] for counts in self.table.values())

    def _round(self, drawn: Sequence[Kind], rng: random.Random, callers: Callers) -> Findings:
        self._make_due()
        for kind in drawn:
            kind.begin(self, rng)
            time.sleep(rng.uniform(0.1, 0.6))
        time.sleep(rng.uniform(*HELD))
        for kind in reversed(drawn):
            kind.end(self)
        findings = Findings()
        self._recover(findings, any(kind.leaves_locks for kind in drawn))
        self.grants.check(findings)
        findings.undocumented_answers, callers.undocumented = callers.undocumented, []
        for service in self.stage.services.values():
            findings.ended_processes += service.ended
            service.ended = []
        for kind in drawn:
            self.table.setdefault(kind.name, Counter()).update(findings.counts() + Counter(injected=1))
        return findings

    def _make_due(self) -> None:
        """Make every connection due, and let the token of every other one have expired, so that callers wait for it."""
        from django.db.models import F
        from django.db.models.functions import Mod
        from django.utils import timezone

        from connections.models import Connection

        now = timezone.now()
        Connection.objects.update(refresh_after=now)
        Connection.objects.annotate(half=Mod(F("pk"), 2)).filter(half=0).update(expires_at=now - timedelta(minutes=1))

    def _recover(self, findings: Findings, leaves_locks: bool) -> None:
        """Wait until everything has been refreshed since the faults ended. Leases, pauses and locks pass quickly."""
        from django.db import transaction
        from django.db.models import Q
        from django.utils import timezone

        from connections.models import AppConsent, Connection

        mark, end = timezone.now(), time.monotonic() + RECOVERY
        if leaves_locks:
            self.stage.forget_locks()
        stale = Connection.objects.filter(Q(refreshed_at=None) | Q(refreshed_at__lt=mark))
        while stale.exists() and time.monotonic() < end:
            with transaction.atomic():  # without waiting for rows that a worker has locked in another order
                later = stale.filter(refresh_after__gt=timezone.now()).select_for_update(skip_locked=True)
                Connection.objects.filter(pk__in=list(later.values_list("pk", flat=True))).update(refresh_after=mark)
            AppConsent.objects.exclude(paused_until=None).update(paused_until=None)
            time.sleep(0.5)
        findings.stuck_rows += [f"connection {pk} was not refreshed" for pk in stale.values_list("pk", flat=True)]

    def start_database(self) -> None:
        """Start PostgreSQL again; the children of the killed server may need a moment to end."""
        from django.db import connection as database

        database.close()
        for _ in range(20):
            try:
                self.stage.stage.postgres.start()
                return
            except ProcessError:
                time.sleep(0.5)
        raise RuntimeError("PostgreSQL does not start again.")


def draw_plan(allowed: Sequence[Kind], rounds: int, rng: random.Random) -> Iterator[list[Kind]]:
    """Yield one to three faults for each round, at most one of them at Microsoft, which comes first.

    They are dealt from a shuffled deck, so that all kinds come equally often.
    """
    deck: list[Kind] = []
    for _ in range(rounds):
        drawn: list[Kind] = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            deck = deck or rng.sample(allowed, len(allowed))
            is_taken = any(kind.is_microsoft for kind in drawn)
            fitting = [kind for kind in deck if kind not in drawn and not (kind.is_microsoft and is_taken)]
            for kind in fitting[:1]:
                deck.remove(kind)
                drawn.append(kind)
        yield sorted(drawn, key=lambda kind: not kind.is_microsoft)
