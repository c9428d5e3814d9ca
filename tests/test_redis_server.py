"""One Redis server: its certificate is verified by all who use it, and several portals can share it."""

import contextlib
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.cache import cache

from connections import tasks
from connections.services.operations import health
from connections.services.tokens import refresh_locks
from portal.processes import Process
from tests import tls
from tests.conftest import portal_environment
from tests.test_settings import run

_USE_ALL = """
import django; django.setup()
from django.core.cache import cache
from connections.services.api_keys import rate_limit
from portal.celery import app

def broker():
    with app.connection_for_write() as connection:
        connection.connect()
        connection.channel().client.ping()

for name, use in {"cache": lambda: cache.get("x"), "locks": lambda: rate_limit.client().ping(), "broker": broker}.items():
    try:
        use()
        print(name, "works")
    except Exception as error:
        print(name, "refuses", "certificate verify failed" in str(error))
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return tls.self_signed(tmp_path)[0]


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    with behind_tls(certificate, "127.0.0.1") as port:
        yield port


@contextlib.contextmanager
def behind_tls(certificate: Path, address: str) -> Iterator[int]:
    """Serve the run's Valkey behind TLS on a local port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    listener = socket.create_server((address, 0))
    path = settings.REDIS_URL.removeprefix("unix://").partition("?")[0]
    threading.Thread(target=_serve, args=(listener, context, path), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _serve(listener: socket.socket, context: ssl.SSLContext, path: str) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_forward, args=(client, context, path), daemon=True).start()


def _forward(client: socket.socket, context: ssl.SSLContext, path: str) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        with context.wrap_socket(client, server_side=True) as secured:
            while True:
                ready = [secured] if secured.pending() else select.select([secured, server], [], [], 10)[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (server if source is secured else secured).sendall(data)


def results(url: str, ca_bundle: str) -> list[str]:
    environment = portal_environment(REDIS_URL=url, REDIS_CA_BUNDLE=ca_bundle, DATABASE_URL="sqlite://:memory:")
    process = run("-c", _USE_ALL, **environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_everybody_refuses_a_certificate_that_nobody_vouches_for(port: int) -> None:
    refused = ["cache refuses True", "locks refuses True", "broker refuses True"]
    assert results(f"rediss://localhost:{port}/0", "") == refused


def test_everybody_accepts_a_private_authority(port: int, certificate: Path) -> None:
    works = ["cache works", "locks works", "broker works"]
    assert results(f"rediss://localhost:{port}/0", str(certificate)) == works


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere this machine has one address only")
def test_everybody_refuses_a_certificate_for_another_name(certificate: Path) -> None:
    refused = ["cache refuses True", "locks refuses True", "broker refuses True"]
    with behind_tls(certificate, "127.0.0.2") as port:
        assert results(f"rediss://127.0.0.2:{port}/0", str(certificate)) == refused


@pytest.mark.parametrize("parameter", ["ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=false"])
def test_the_url_cannot_switch_verification_off(parameter: str) -> None:
    environment = portal_environment(REDIS_URL=f"rediss://redis.example.org/0?{parameter}")
    process = run("-c", "from portal import settings", **environment)
    assert process.returncode != 0
    assert "REDIS_URL has an ssl_ parameter" in process.stderr


@pytest.mark.slow
def test_two_portals_on_one_server_do_not_touch_each_other(
    celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> None:
    client: Any = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    other = {"REDIS_PREFIX": "other", "AUDIT_INTERVAL": "0.5", "ALERT_INTERVAL": "0.5"}
    (worker,) = celery_worker(**other)
    celery_beat(**other)
    worker.wait_until(lambda: client.exists("other:1:sweep:last"), seconds=20)
    assert health.seconds_since_sweep() is None, "the last sweep of the other portal counted as ours"
    keys = {key.decode() for key in client.scan_iter()}
    assert [key for key in keys if not key.startswith("other:")] == []

    tasks.sweep.delay()  # nobody works for this portal
    cache.set("refresh:1", 5)
    time.sleep(1)
    queue = f"{settings.REDIS_PREFIX}:{settings.CELERY_TASK_DEFAULT_QUEUE}"
    assert client.llen(queue) == 1
    assert refresh_locks.acquire("refresh:1") is None
    assert not client.exists("other:1:refresh:1")
    client.flushdb()
    client.close()
