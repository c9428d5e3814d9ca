"""The faults of a soak. Each is begun while callers and the sweep are at work, and ended before the portal recovers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.faults.soak.stage import MICROSOFT_TIMEOUT

if TYPE_CHECKING:
    from tests.faults.soak.rounds import Soak

RETRY_AFTERS = ("0", "0.5", "7", "date", "missing", "100000")
RECONNECTED = 6  # connections whose owner signs in again during one fault
SCOPES = ["Mail.Read", "offline_access"]


def _nothing(soak: Soak) -> None:
    pass


@dataclass(frozen=True)
class Kind:
    """A fault. ``is_microsoft``: only one of these at a time, because each replaces the one before."""

    name: str
    begin: Callable[[Soak, random.Random], None]
    end: Callable[[Soak], None] = _nothing
    is_microsoft: bool = False
    leaves_locks: bool = False


def _kill(name: str) -> Kind:
    def begin(soak: Soak, rng: random.Random) -> None:
        soak.stage.services[name].kill()

    return Kind(f"kill {name}", begin, leaves_locks=True)


def _kill_broker(soak: Soak, rng: random.Random) -> None:
    soak.stage.stage.valkey.process.popen.kill()
    soak.stage.stage.valkey.process.popen.wait()


def _kill_database(soak: Soak, rng: random.Random) -> None:
    soak.stage.stage.postgres.process.popen.kill()
    soak.stage.stage.postgres.process.popen.wait()


def _cut_broker(soak: Soak, rng: random.Random) -> None:
    soak.stage.proxy.cut()


def _weather(name: str, kind: str, **options: Any) -> Kind:
    def begin(soak: Soak, rng: random.Random) -> None:
        soak.stage.sandbox.weather(kind, where="token", **options)

    return Kind(f"Microsoft {name}", begin, _good_weather, is_microsoft=True)


def _throttle(soak: Soak, rng: random.Random) -> None:
    soak.stage.sandbox.weather("throttle", where="token", retry_after=rng.choice(RETRY_AFTERS))


def _good_weather(soak: Soak) -> None:
    soak.stage.sandbox.weather("normal")


def _reconnect(soak: Soak, rng: random.Random) -> None:
    """Let owners sign in again while the refresh with their former grant is on its way."""
    from django.db import transaction
    from django.utils import timezone

    from connections.microsoft.token_endpoint import token_set
    from connections.models import Connection
    from connections.services.tokens import store
    from portal.sandbox import seed

    soak.stage.sandbox.weather("slow", where="token", delay_ms=int(MICROSOFT_TIMEOUT * 600))
    chosen = rng.sample(soak.numbers, RECONNECTED)
    Connection.objects.filter(pk__in=chosen).update(refresh_after=timezone.now())
    time.sleep(1)  # until the sweep has asked
    grants = soak.stage.sandbox.issue_grant(seed.CONNECTIONS_APP, soak.account, SCOPES, count=len(chosen))
    for pk, token, fingerprint in zip(chosen, grants["refresh_tokens"], grants["fingerprints"], strict=True):
        with transaction.atomic():
            connection = Connection.objects.select_for_update(no_key=True).get(pk=pk)
            answer = token_set({"access_token": "signed-in-again", "refresh_token": token, "expires_in": 3600})
            now = timezone.now()
            values = {"connected_at": now}
            store.store_sign_in(connection, answer=answer, now=now - timedelta(seconds=1), values=values)
        soak.grants.signed_in_again(pk, fingerprint)


KINDS = (
    _kill("web"),
    _kill("worker"),
    _kill("beat"),
    Kind("kill broker", _kill_broker, lambda soak: soak.stage.stage.valkey.start(), leaves_locks=True),
    Kind("kill database", _kill_database, lambda soak: soak.start_database()),
    Kind("silent cut of the broker", _cut_broker, leaves_locks=True),
    Kind("sign-in during a refresh", _reconnect, _good_weather, is_microsoft=True),
    _weather("slow", "slow", delay_ms=int(MICROSOFT_TIMEOUT * 500)),
    _weather("late", "slow", delay_ms=int(MICROSOFT_TIMEOUT * 1250)),
    _weather("503", "unavailable"),
    _weather("hangs", "hang", delay_ms=60_000),
    _weather("breaks off", "reset"),
    _weather("HTML", "html"),
    _weather("broken JSON", "broken_json"),
    _weather("empty 504", "empty_504"),
    _weather("refuses connections", "refuse"),
    _weather("answers twice", "twice"),
    Kind("Microsoft throttles", _throttle, _good_weather, is_microsoft=True),
)
