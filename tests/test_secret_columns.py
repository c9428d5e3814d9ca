"""No page reads a secret from the database, shows one, or needs the encryption key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib import admin
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from connections.errors import UnreadableSecret
from connections.models import Connection, User
from portal.sandbox.client import Control
from tests import factories, full_dataset, permissions_table

pytestmark = pytest.mark.django_db

COLUMNS = ("refresh_token", "previous_refresh_token", "access_token", "secret", "private_key")
CHANNEL_COLUMNS = ("url", "signing_secret")
SELECTED = re.compile(rf'"({"|".join(COLUMNS + CHANNEL_COLUMNS)})"')


@pytest.fixture
def contoso(alice: User, bob: User, carol: User, dave: User, sandbox: Control) -> full_dataset.World:
    made = full_dataset.relate(full_dataset.make({"alice": alice, "bob": bob, "carol": carol, "dave": dave}))
    full_dataset.make_elsewhere()
    return made


def pages(contoso: full_dataset.World) -> Iterator[tuple[str, Client, str]]:
    """Every page each person may open: who, their browser, the address."""
    for person in ("bob", "una", "max", "dave", "alice", "carol"):
        user = contoso.people[person]
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        for row in permissions_table.rows():
            if row.method == "GET" and row.of(person) == "200":
                yield person, client, contoso.url(row.name)


def admin_pages() -> Iterator[tuple[Client, str]]:
    client = Client()
    root = User.objects.create_superuser("root", "root@example.org", factories.PASSWORD)
    client.force_login(root, backend="django.contrib.auth.backends.ModelBackend")
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield client, reverse(f"{name}_changelist")
        for pk in model._default_manager.values_list("pk", flat=True):
            yield client, reverse(f"{name}_change", args=[pk])
            yield client, reverse(f"{name}_history", args=[pk])


def selected(query: str) -> set[str]:
    """Secret columns that a statement reads; asking whether one is null reads nothing."""
    asked = re.sub(r'"\w+"\."\w+" IS (NOT )?NULL', "", query)
    return set(SELECTED.findall(asked))


def test_the_check_itself_sees_a_secret_being_read(contoso: full_dataset.World) -> None:
    with CaptureQueriesContext(database) as queries:
        assert Connection.objects.get(pk=contoso.connection.pk).access_token == full_dataset.ACCESS_TOKEN
        assert Connection.objects.filter(access_token__isnull=False).exists()
    found = [selected(query["sql"]) for query in queries.captured_queries]
    assert not found[0]
    assert "access_token" in found[1]
    assert not found[2]


def test_no_page_reads_or_shows_a_secret(contoso: full_dataset.World) -> None:
    looked_at = 0
    for person, client, path in pages(contoso):
        with CaptureQueriesContext(database) as queries:
            answer = client.get(path)
        assert answer.status_code == 200, (person, path)
        for query in queries.captured_queries:
            assert not selected(query["sql"]), (person, path, query["sql"])
        _shows_nothing(answer, (person, path))
        looked_at += 1
    assert looked_at > 80


def test_no_page_of_the_admin_site_reads_or_shows_a_secret(contoso: full_dataset.World) -> None:
    looked_at = 0
    for client, path in admin_pages():
        with CaptureQueriesContext(database) as queries:
            answer = client.get(path)
        assert answer.status_code == 200, path
        for query in queries.captured_queries:
            assert not selected(query["sql"]), (path, query["sql"])
        _shows_nothing(answer, path)
        looked_at += 1
    assert looked_at > 20


def _shows_nothing(answer: Any, where: Any) -> None:
    text = answer.getvalue().decode(errors="replace") + str(answer.headers)
    for secret in full_dataset.SECRETS:
        assert secret not in text, where


def test_every_page_opens_without_the_right_encryption_key(contoso: full_dataset.World) -> None:
    _lose_the_key()
    with pytest.raises(UnreadableSecret):
        assert Connection.objects.get(pk=contoso.connection.pk).refresh_token
    for person, client, path in pages(contoso):
        assert client.get(path).status_code == 200, (person, path)
    for client, path in admin_pages():
        assert client.get(path).status_code == 200, path


def test_what_needs_the_key_says_so_and_blames_nobody(contoso: full_dataset.World) -> None:
    _lose_the_key()
    client = Client()
    client.force_login(contoso.people["alice"], backend="django.contrib.auth.backends.ModelBackend")
    forms = full_dataset.posted(contoso)
    for name in ("app_verify", "connection_check", "mailbox_probe"):
        answer = client.post(contoso.url(name), forms.get(name, {}), follow=True)
        assert "encryption key" in answer.content.decode(), name
    contoso.connection.refresh_from_db()
    contoso.app.refresh_from_db()
    assert contoso.connection.status == "active"
    assert contoso.app.rejected_at is None


def test_a_sign_in_that_cannot_read_the_app_secret_says_so(contoso: full_dataset.World) -> None:
    _lose_the_key()
    client = Client()
    client.force_login(contoso.people["bob"], backend="django.contrib.auth.backends.ModelBackend")
    answer = client.post(contoso.url("connection_sign_in"))
    assert answer.status_code == 503
    assert "encryption key" in answer.content.decode()


def _lose_the_key() -> None:
    """Write into every encrypted column something that no configured key opens."""
    foreign = Fernet(Fernet.generate_key()).encrypt(b"sealed with a key that is gone").decode()
    with database.cursor() as cursor:
        for table, columns in (
            ("connections_connection", COLUMNS[:3]),
            ("connections_appcredential", COLUMNS[3:]),
            ("connections_alertchannel", CHANNEL_COLUMNS),
        ):
            for column in columns:
                cursor.execute(f'UPDATE {table} SET "{column}" = %s WHERE "{column}" IS NOT NULL', [foreign])
