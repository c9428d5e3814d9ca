"""Whoever can write to Redis plants pickles, and values of wrong types, under every key that the portal reads."""

import base64
import json
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.cache import cache
from django.test import Client

from connections.models import User
from connections.services.api_keys import rate_limit
from connections.services.operations import health
from connections.services.tokens import refresh_locks
from portal.processes import Process
from tests import factories
from tests.api.api_client import Program

QUEUE = f"{settings.REDIS_PREFIX}:{settings.CELERY_TASK_DEFAULT_QUEUE}"


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.directory),)


@pytest.fixture
def valkey() -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()
    forget_limits()


def forget_limits() -> None:
    """Let this process count as if it had just started, and as if Redis had always worked."""
    rate_limit.client.cache_clear()
    rate_limit.outage._until = 0.0
    rate_limit._leases.begin(-1)


@contextmanager
def keys_used(valkey: "redis.Redis") -> Iterator[set[str]]:
    """Collect every key that any client names in a command meanwhile."""
    words: set[str] = set()
    client: Any = valkey
    with client.monitor() as monitor:
        reading = threading.Thread(target=_read, args=(monitor, words))
        reading.start()
        yield words
        valkey.echo("the end")
        reading.join(10)
    # Redis' clock, echo and the like name no key.
    words.intersection_update({word for word in words if word.startswith(settings.REDIS_PREFIX)})


def _read(monitor: Any, words: set[str]) -> None:
    for command in monitor.listen():
        if command["command"] == "ECHO the end":
            return
        words.update(command["command"].split()[1:])


def use_everything(program: Program) -> list[int]:
    """Use whatever reads from Redis in the web process; return the statuses of the answers."""
    forget_limits()
    statuses = [Client().get(path).status_code for path in ("/readyz", "/metrics", "/sign-in/")]
    statuses += [program.get("connections").status_code, program.get("connections/1/token").status_code]
    mark = refresh_locks.acquire("refresh:1")
    assert mark is not None, "what stood there counted as the lock of another process"
    refresh_locks.is_done(["refresh:1"])
    refresh_locks.release("refresh:1", mark)
    health.seconds_since_sweep()
    return statuses


def planted(kind: str, bomb: bytes) -> Callable[["redis.Redis", str], object]:
    """Return what plants a value under a key."""
    plants: dict[str, Callable[[redis.Redis, str], object]] = {
        "pickle": lambda valkey, key: valkey.set(key, bomb),
        "list of pickles": lambda valkey, key: valkey.rpush(key, bomb),
        "hash of pickles": lambda valkey, key: valkey.hset(key, mapping={bomb: bomb, "worker": bomb}),
        "text": lambda valkey, key: valkey.set(key, "soon"),
        "object": lambda valkey, key: valkey.set(key, '{"a": [1]}'),
        "no number": lambda valkey, key: valkey.set(key, "NaN"),
        "deep": lambda valkey, key: valkey.set(key, "[" * 100_000),
    }
    return plants[kind]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "kind", ["pickle", "list of pickles", "hash of pickles", "text", "object", "no number", "deep"]
)
def test_what_is_planted_under_the_keys_of_the_web_process_counts_as_missing(
    valkey: "redis.Redis", bob: User, tmp_path: Path, kind: str, settings: Any
) -> None:
    settings.API_RATE_LIMIT = 600
    program, exploded = Program(bob), tmp_path / "exploded"
    factories.make_connection(owner=bob)
    with keys_used(valkey) as keys:
        use_everything(program)
        cache.set(health.LAST_SWEEP, time.time(), timeout=None)
    for expected in ("refresh:1", health.LAST_SWEEP, "rate:", "clocks"):
        assert any(expected in key for key in keys), (expected, keys)
    plant = planted(kind, pickle.dumps(Bomb(exploded)))
    for key in keys:
        valkey.delete(key)
        plant(valkey, key)
    statuses = use_everything(program)
    assert all(status < 500 or status == 503 for status in statuses), statuses
    assert statuses[1:3] == [200, 200]
    assert not exploded.exists()
    assert health.seconds_since_sweep() is None


def message(body: bytes, content_type: str, encoding: str) -> str:
    """Return a task as Kombu puts it into a queue."""
    tag = str(uuid.uuid4())
    properties = {
        "correlation_id": tag,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": settings.CELERY_TASK_DEFAULT_QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    headers = {"lang": "py", "task": "connections.tasks.sweep", "id": tag, "root_id": tag, "argsrepr": "()"}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }
    )


@pytest.mark.slow
def test_a_worker_executes_no_pickle_from_the_queue_and_goes_on(
    valkey: "redis.Redis", celery_worker: Callable[..., list[Process]], tmp_path: Path
) -> None:
    exploded = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    (worker,) = celery_worker()
    tick = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
    for content_type in ("application/x-python-serialize", "application/x-pickle", "pickle", "application/x-yaml"):
        valkey.lpush(QUEUE, message(bomb, content_type, "binary"))
    valkey.lpush(QUEUE, message(bomb, "application/json", "utf-8"))
    valkey.lpush(QUEUE, message(tick, "application/json", "utf-8"))
    worker.wait_until(lambda: cache.get(health.LAST_SWEEP) is not None, seconds=20)
    assert not exploded.exists()
    assert not worker.has_ended()


def test_sessions_are_not_in_redis_and_are_json() -> None:
    assert settings.SESSION_ENGINE == "connections.session_store"
    assert settings.SESSION_SERIALIZER == "django.contrib.sessions.serializers.JSONSerializer"
