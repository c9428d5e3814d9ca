"""Endpoints for monitoring."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.db import connection as database
from django.test import Client
from django.utils import timezone

from connections import keys
from connections.fields import SecretField
from connections.models import AppRegistration, Connection, KeyUsage, RunningProcess
from connections.services.operations import health, running_keys, secret_check, secret_columns
from portal.asgi import Portal
from tests import factories
from tests.asgi_client import PortalClient
from tests.stored_secrets import new_key, plant, stored, using_keys
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
    assert set(body["parts"]) == {"database", "migrations", "broker", "encryption_keys", "sweep", "clocks"}
    assert body["parts"]["sweep"]["detail"].startswith("last sweep finished ")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("INSERT INTO django_migrations (app, name, applied) VALUES ('connections', '9999_next', '2030-01-01 00:00:00Z')",
         "the database is newer than this program: it has 9999_next"),
        ("DELETE FROM django_migrations WHERE app = 'connections' AND name = '0016_connect'",
         "1 migrations are missing, first connections.0016_connect"),
    ],
)  # fmt: skip
def test_readyz_says_when_program_and_database_do_not_fit(swept: None, change: str, detail: str) -> None:
    with database.cursor() as cursor:
        cursor.execute(change)
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["migrations"] == {"ok": False, "detail": detail}


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


def encryption_keys(response: Any) -> dict[str, Any]:
    part: dict[str, Any] = response.json()["parts"]["encryption_keys"]
    return part


@pytest.mark.parametrize("field", secret_columns.secret_fields(), ids=str)
@pytest.mark.django_db
def test_readyz_says_when_a_key_is_missing_for_any_encrypted_column(swept: None, field: SecretField) -> None:
    usage = {"table": field.model._meta.db_table, "column": field.column, "counted_at": timezone.now()}
    KeyUsage.objects.create(key_id=keys.current().ids[0], count=100, **usage)
    KeyUsage.objects.create(key_id="0badc0de", count=3, **usage)
    response = Client().get("/readyz")
    assert response.status_code == 503
    detail = "3 stored secrets need a key that is missing here: 0badc0de"
    assert encryption_keys(response) == {"ok": False, "detail": detail}


@pytest.mark.django_db
def test_a_process_with_wrong_keys_is_not_ready(swept: None) -> None:
    factories.make_connection()
    secret_check.count(now=timezone.now())
    assert Client().get("/readyz").status_code == 200
    with using_keys(new_key()):
        response = Client().get("/readyz")
    assert response.status_code == 503
    assert "need a key that is missing here" in encryption_keys(response)["detail"]


@pytest.mark.django_db
def test_a_process_that_others_have_left_behind_is_not_ready(swept: None) -> None:
    with using_keys(new_key()):
        running_keys.announce("web elsewhere:1", now=timezone.now())
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert encryption_keys(response)["detail"].startswith("this process runs with old keys")
    RunningProcess.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert Client().get("/readyz").status_code == 200


@pytest.mark.django_db
def test_readyz_tells_values_that_nothing_opens_but_stays_ready(
    swept: None, django_assert_max_num_queries: Any
) -> None:
    plant(factories.make_connection(name="One"), "access_token", "garbage")
    moved = factories.make_connection(name="Two", app_registration=AppRegistration.objects.get())
    plant(moved, "access_token", stored(moved, "refresh_token"))
    secret_check.count(now=timezone.now())
    with django_assert_max_num_queries(5):
        response = Client().get("/readyz")
    assert response.status_code == 200
    assert (
        encryption_keys(response)["detail"]
        == "decrypt all stored secrets, except 1 that no key can decrypt and 1 moved or altered"
    )
    metrics = Client().get("/metrics").content.decode()
    assert "portal_secrets_unreadable 1.0" in metrics
    assert "portal_secrets_altered 1.0" in metrics
    assert f'portal_secrets{{key="{keys.current().ids[0]}"}}' in metrics


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
    assert_shows(metrics, "portal_app_registrations_rejected 0.0", "portal_last_sweep_timestamp_seconds ")


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
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_VIA": "1.1 proxy"}, 401),
    ],
)
def test_without_a_token_metrics_are_for_this_machine_alone(request_data: Any, status: int) -> None:
    assert Client().get("/metrics", **request_data).status_code == status


@pytest.mark.django_db
def test_a_trusted_proxy_does_not_make_a_stranger_local(settings: Any) -> None:
    settings.TRUSTED_PROXIES = 2
    forwarded: Any = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1, 192.0.2.7"}
    assert Client().get("/metrics", **forwarded).status_code == 401


@pytest.mark.django_db
@pytest.mark.parametrize("client", [Client(), PortalClient()], ids=["Django", "the web process"])
@pytest.mark.parametrize("host", ["10.1.2.3:8000", "portal-7d9f.internal", "[::1]", "not a host"])
def test_probes_answer_whatever_the_host(client: Client, host: str, swept: None, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["portal.example.org"]
    assert client.get("/healthz", HTTP_HOST=host).content == b"ok\n"
    assert client.get("/readyz", HTTP_HOST=host).status_code == 200
    assert client.get("/metrics", HTTP_HOST=host).status_code == 200
    assert client.get("/sign-in/", HTTP_HOST=host).status_code == 400


def test_a_process_whose_threads_all_wait_is_alive() -> None:
    async def never(*arguments: Any) -> Any:
        raise AssertionError("no thread is free")

    portal = Portal(threads=1, run_in_thread=never)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "path": "/healthz", "scheme": "http", "headers": [], "client": None}
    async_to_sync(portal)(scope, never, send)
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"ok\n")
    assert (b"x-frame-options", b"DENY") in sent[0]["headers"]


@pytest.mark.django_db
def test_with_a_token_metrics_want_it_from_everybody(settings: Any) -> None:
    settings.METRICS_TOKEN = "watchful"
    client = Client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    right = client.get("/metrics", headers={"Authorization": "Bearer watchful"}, REMOTE_ADDR="192.0.2.7")
    assert right.status_code == 200
