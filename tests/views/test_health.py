"""Endpoints for monitoring."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.cache import cache
from django.db import connection as database
from django.test import Client

from connections.models import AppCredential, Connection
from connections.services.operations import health
from tests import factories
from tests.views.pages import assert_shows


@pytest.fixture
def swept() -> Iterator[None]:
    cache.set(health.LAST_SWEEP, time.time() - 7)
    yield
    cache.delete(health.LAST_SWEEP)


@pytest.fixture
def never_swept() -> None:
    cache.delete(health.LAST_SWEEP)


def test_healthz_responses_without_a_database() -> None:
    # There is no django_db mark, so a query would fail this test.
    response = Client().get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_readyz_is_ready_when_every_part_is(swept: None) -> None:
    factories.make_app_registration()
    response = Client().get("/readyz")
    assert response.status_code == 200, response.content
    body = response.json()
    assert body["ready"] is True
    assert set(body["parts"]) == {"database", "broker", "encryption_keys", "sweep"}
    assert body["parts"]["sweep"]["detail"].startswith("last one finished ")


@pytest.mark.django_db
def test_readyz_says_when_no_sweep_has_finished(never_swept: None) -> None:
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["sweep"] == {"ok": False, "detail": "no sweep has finished yet"}
    assert response.json()["parts"]["broker"]["ok"]


@pytest.mark.django_db
def test_readyz_says_when_the_last_sweep_is_long_ago(never_swept: None) -> None:
    cache.set(health.LAST_SWEEP, time.time() - 3600)
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert not response.json()["parts"]["sweep"]["ok"]
    cache.delete(health.LAST_SWEEP)


@pytest.mark.django_db
def test_readyz_says_when_a_stored_secret_opens_with_no_key(swept: None) -> None:
    app = factories.make_app_registration()
    factories.make_secret(app, "another secret")
    oldest = AppCredential.objects.order_by("pk").values_list("pk", flat=True)[0]
    foreign = Fernet(Fernet.generate_key()).encrypt(b"secret").decode()
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = %s WHERE id = %s", [foreign, oldest])
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert not response.json()["parts"]["encryption_keys"]["ok"]
    assert foreign not in response.content.decode()


@pytest.mark.django_db
def test_readyz_tells_a_lost_broker_without_its_address(settings: Any) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://:hunter2@127.0.0.1:1/0",
        }
    }
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["broker"] == {"ok": False, "detail": "not reachable (ConnectionError)"}
    assert response.json()["parts"]["database"]["ok"]
    assert "hunter2" not in response.content.decode()


@pytest.mark.django_db
def test_metrics_count_what_matters(swept: None) -> None:
    factories.make_connection()
    factories.make_connection(name="Dead", status=Connection.Status.RECONNECT_NEEDED)
    factories.make_connection(name="Due", refresh_after="2020-01-01T00:00:00Z")
    metrics = Client().get("/metrics").content.decode()
    assert 'portal_connections{status="active"} 2.0' in metrics
    assert 'portal_connections{status="reconnect_needed"} 1.0' in metrics
    assert 'portal_connections{status="disabled"} 0.0' in metrics
    assert "portal_connections_due 1.0" in metrics
    assert_shows(metrics, "portal_app_registrations_rejected 0.0", "portal_seconds_since_last_sweep ")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("request_data", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "192.0.2.7"}, 401),
        ({"REMOTE_ADDR": ""}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.7"}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 401),
    ],
)
def test_without_a_token_metrics_are_for_this_machine_alone(request_data: Any, status: int) -> None:
    assert Client().get("/metrics", **request_data).status_code == status


@pytest.mark.django_db
def test_with_a_token_metrics_want_it_from_everybody(settings: Any) -> None:
    settings.METRICS_TOKEN = "watchful"
    client = Client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    right = client.get("/metrics", headers={"Authorization": "Bearer watchful"}, REMOTE_ADDR="192.0.2.7")
    assert right.status_code == 200
