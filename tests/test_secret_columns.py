"""No page reads a secret from the database, shows one, or needs the encryption key."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from connections.errors import UnreadableSecret
from connections.models import Connection, User
from tests import factories, full_dataset, permissions_table
from tests.stored_secrets import under_a_lost_key

pytestmark = pytest.mark.django_db

COLUMNS = ("refresh_token", "previous_refresh_token", "access_token", "secret", "private_key")
CHANNEL_COLUMNS = ("url", "signing_secret")
SELECTED = re.compile(rf'"({"|".join(COLUMNS + CHANNEL_COLUMNS)})"')


def pages(contoso: full_dataset.World) -> Iterator[tuple[str, Client, str]]:
    """Yield every page that each person may open: the person, their browser, the path."""
    for person in ("bob", "una", "max", "dave", "alice", "carol"):
        client = factories.signed_in(contoso.people[person])
        for row in permissions_table.rows():
            if row.method == "GET" and row.of(person) == "200":
                yield person, client, contoso.url(row.name)


def admin_pages() -> Iterator[tuple[Client, str]]:
    client = factories.signed_in(User.objects.create_superuser("root", "root@example.org", factories.PASSWORD))
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield client, reverse(f"{name}_changelist")
        for pk in model._default_manager.values_list("pk", flat=True):
            yield client, reverse(f"{name}_change", args=[pk])
            yield client, reverse(f"{name}_history", args=[pk])


def selected(query: str) -> set[str]:
    """Return the secret columns that a query reads; checking for NULL does not read them."""
    without_null_checks = re.sub(r'"\w+"\."\w+" IS (NOT )?NULL', "", query)
    return set(SELECTED.findall(without_null_checks))


def test_the_check_detects_a_secret_being_read(contoso: full_dataset.World) -> None:
    with CaptureQueriesContext(database) as queries:
        assert Connection.objects.get(pk=contoso.connection.pk).access_token == full_dataset.ACCESS_TOKEN
        assert Connection.objects.filter(access_token__isnull=False).exists()
    columns = [selected(query["sql"]) for query in queries.captured_queries]
    assert not columns[0]
    assert "access_token" in columns[1]
    assert not columns[2]


def test_no_page_reads_or_shows_a_secret(contoso: full_dataset.World) -> None:
    opened = [_assert_no_secrets(client, path, person) for person, client, path in pages(contoso)]
    assert len(opened) > 80


def test_no_page_of_the_admin_site_reads_or_shows_a_secret(contoso: full_dataset.World) -> None:
    opened = [_assert_no_secrets(client, path, "root") for client, path in admin_pages()]
    assert len(opened) > 20


def _assert_no_secrets(client: Client, path: str, person: str) -> str:
    """Open a page; assert that it neither reads nor shows a secret."""
    with CaptureQueriesContext(database) as queries:
        response: Any = client.get(path)
    assert response.status_code == 200, (person, path)
    # The published keys are derived from the private ones (docs/decisions.md).
    allowed = {"private_key"} if path == reverse("jwks") else set()
    for query in queries.captured_queries:
        assert selected(query["sql"]) <= allowed, (person, path, query["sql"])
    text = response.getvalue().decode(errors="replace") + str(response.headers)
    for secret in full_dataset.SECRETS:
        assert secret not in text, (person, path)
    return path


def test_every_page_opens_without_the_right_encryption_key(contoso: full_dataset.World) -> None:
    _lose_the_key()
    with pytest.raises(UnreadableSecret):
        assert Connection.objects.get(pk=contoso.connection.pk).refresh_token
    for person, client, path in pages(contoso):
        assert client.get(path).status_code == 200, (person, path)
    for client, path in admin_pages():
        assert client.get(path).status_code == 200, path


def test_actions_that_need_the_key_name_the_problem_and_change_no_status(contoso: full_dataset.World) -> None:
    _lose_the_key()
    client = factories.signed_in(contoso.people["alice"])
    forms = full_dataset.posted(contoso)
    for name in ("app_verify", "connection_check", "mailbox_probe"):
        response = client.post(contoso.url(name), forms.get(name, {}), follow=True)
        assert "encryption key" in response.content.decode(), name
    contoso.connection.refresh_from_db()
    contoso.app.refresh_from_db()
    assert contoso.connection.status == "active"
    assert contoso.app.rejected_at is None


def test_a_sign_in_without_the_key_names_the_problem(contoso: full_dataset.World) -> None:
    _lose_the_key()
    response = factories.signed_in(contoso.people["bob"]).post(contoso.url("connection_sign_in"))
    assert response.status_code == 503
    assert "encryption key" in response.content.decode()


def _lose_the_key() -> None:
    """Fill every encrypted column with a value encrypted with an unknown key."""
    foreign = under_a_lost_key()
    with database.cursor() as cursor:
        for table, columns in (
            ("connections_connection", COLUMNS[:3]),
            ("connections_appcredential", COLUMNS[3:]),
            ("connections_alertchannel", CHANNEL_COLUMNS),
        ):
            for column in columns:
                cursor.execute(f'UPDATE {table} SET "{column}" = %s WHERE "{column}" IS NOT NULL', [foreign])
