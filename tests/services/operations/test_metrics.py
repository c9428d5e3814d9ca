"""Counters of all processes add up in Redis, whatever happens to Redis, and what /metrics says is well formed."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from connections import counters
from connections.microsoft import http
from connections.services.api_keys import rate_limit
from connections.services.operations import metrics
from portal.sandbox.client import Control
from tests import factories
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def valkey() -> Iterator["redis.Redis"]:
    rate_limit.client.cache_clear()
    client = redis.Redis.from_url(django_settings.REDIS_URL)
    client.delete(metrics._name())
    counters.take()
    yield client
    client.delete(metrics._name())
    client.close()
    rate_limit.client.cache_clear()


def samples() -> dict[tuple[str, ...], float]:
    """Return what /metrics says: the name and the values of the labels of each sample, and its value."""
    text = Client().get("/metrics").content.decode()
    families = text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_what_several_processes_count_adds_up() -> None:
    for _ in range(2):
        counters.add("portal_refreshes_total", "renewed", times=5)
        metrics.flush()
    metrics.flush()  # nothing new
    found = samples()
    assert found["portal_refreshes_total", "renewed"] == 10
    assert found["portal_api_calls_not_limited_total",] == 0


@pytest.mark.slow
def test_without_redis_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    counters.add("portal_alerts_total", "delivered")
    with monkeypatch.context() as broken:
        broken.setattr(rate_limit, "client", lambda: redis.Redis(host="127.0.0.1", port=1))
        metrics.flush()
        assert Client().get("/metrics").status_code == 200
    counters.add("portal_alerts_total", "delivered")
    metrics.flush()
    assert samples()["portal_alerts_total", "delivered"] == 2


def test_what_somebody_else_wrote_into_redis_does_not_count(valkey: "redis.Redis") -> None:
    planted: Any = {
        "not json": "1", json.dumps(["portal_alerts_total", "delivered"]): "NaN", json.dumps({"a": 1}): "1",
        json.dumps(["portal_alerts_total"]): "7", json.dumps(["portal_alerts_total", 'x"} 1\nfake 1', "more"]): "7",
    }  # fmt: skip
    valkey.hset(metrics._name(), mapping=planted)
    assert not [key for key in samples() if key[0] in ("portal_alerts_total", "fake")]
    valkey.delete(metrics._name())
    valkey.set(metrics._name(), "a text")
    counters.add("portal_alerts_total", "delivered")
    assert Client().get("/metrics").status_code == 200
    metrics.flush()
    assert valkey.type(metrics._name()) == b"none"


def test_requests_are_counted_by_kind_and_status_with_their_time() -> None:
    client = PortalClient()
    client.get("/api/v1/connections/1/token")
    client.get("/api/v1/me")
    client.get("/healthz")
    client.get("/sign-in/")
    counts = counters.take()
    assert {key[1:] for key in counts if key[0] == "portal_http_requests_total"} <= {
        ("token", "401"), ("api", "401"), ("probe", "200"), ("page", "200"),
    }  # fmt: skip
    assert counts["portal_http_requests_total", "token", "401"] == 1
    assert counts["portal_http_request_duration_seconds_sum", "token"] > 0


def test_the_buckets_of_a_histogram_are_cumulative() -> None:
    name = "portal_http_request_duration_seconds"
    for seconds in (0.004, 0.2, 30.0):
        for key in counters.duration_keys(name, "token", seconds=seconds):
            counters.add(*key, times=1 if key[0].endswith("_bucket") else seconds)
    metrics.flush()
    found = samples()
    bounds = ("0.005", "0.1", "0.25", "10.0", "+Inf")
    assert [found[f"{name}_bucket", "token", bound] for bound in bounds] == [1, 1, 2, 2, 3]
    assert found[f"{name}_count", "token"] == 3
    assert found[f"{name}_sum", "token"] == pytest.approx(30.204)


def test_requests_to_microsoft_are_counted(sandbox: Control, settings: Any) -> None:
    client = http.Client(timeout=5)
    client.send(http.Request("POST", f"{settings.MICROSOFT_SANDBOX_URL}/contoso.example/oauth2/v2.0/token", b""))
    client.send(http.Request("GET", "http://127.0.0.1:1/v1.0/me"))
    client.close()
    metrics = {key[1:]: times for key, times in counters.take().items() if key[0] == "portal_microsoft_requests_total"}
    assert metrics == {("token", "400"): 1, ("graph", "0"): 1}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which Debian's package prometheus has")
def test_promtool_finds_nothing_to_complain_about() -> None:
    factories.make_connection()
    for key in counters.duration_keys("portal_http_request_duration_seconds", "token", seconds=0.1):
        counters.add(*key)
    counters.add("portal_http_requests_total", "token", "200")
    metrics.flush()
    text = Client().get("/metrics").content
    process = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (process.returncode, process.stdout + process.stderr) == (0, b"")
