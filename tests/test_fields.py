"""SecretField rejects everything that would silently destroy or leak a secret."""

import json
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet
from django.apps import apps
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import connection as database
from django.db import models, transaction
from django.db.models import F, Value
from encrypted_model_fields import fields as library

from connections.errors import UnreadableSecret
from connections.fields import SecretField, decrypt, encrypt
from connections.models import AppCredential, Connection
from tests import factories

SECRET = "sbx8Q~a secret with ünïcode and 'quotes'"


@pytest.fixture
def credential(db: None) -> AppCredential:
    return factories.make_secret(factories.make_app_registration(secret=None), SECRET)


def stored(credential: AppCredential) -> str:
    """Return the raw value of the column."""
    with database.cursor() as cursor:
        cursor.execute("SELECT secret FROM connections_appcredential WHERE id = %s", [credential.pk])
        return str(cursor.fetchone()[0])


def plant(credential: AppCredential, text: str) -> None:
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = %s WHERE id = %s", [text, credential.pk])


def test_it_is_encrypted_at_rest_and_decrypted_when_read(credential: AppCredential) -> None:
    assert "secret" not in stored(credential)
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == SECRET


def test_the_same_secret_is_encrypted_differently_each_time() -> None:
    assert encrypt(SECRET) != encrypt(SECRET)


def test_no_secret_is_null(credential: AppCredential) -> None:
    assert AppCredential.objects.filter(private_key__isnull=True).count() == 1
    AppCredential.objects.update(secret=None)
    assert AppCredential.objects.get().secret is None


def test_an_update_encrypts(credential: AppCredential) -> None:
    AppCredential.objects.update(secret="another")
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == "another"


def test_bulk_create_encrypts_also_when_it_updates_conflicts(credential: AppCredential) -> None:
    twin = AppCredential(pk=credential.pk, app_registration=credential.app_registration, kind="secret", secret="twin")
    AppCredential.objects.bulk_create([twin], update_conflicts=True, unique_fields=["id"], update_fields=["secret"])
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == "twin"


def use_keys(monkeypatch: pytest.MonkeyPatch, *keys: bytes) -> None:
    monkeypatch.setattr(library, "CRYPTER", MultiFernet([Fernet(key) for key in keys]))


def test_the_first_key_encrypts_and_every_key_decrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    use_keys(monkeypatch, old)
    sealed_before = encrypt(SECRET)
    use_keys(monkeypatch, new, old)
    assert decrypt(sealed_before) == SECRET
    assert Fernet(new).decrypt(encrypt(SECRET).encode()).decode() == SECRET


def test_a_missing_key_is_an_error(credential: AppCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    use_keys(monkeypatch, Fernet.generate_key())
    with pytest.raises(UnreadableSecret):
        AppCredential.objects.get()
    assert AppCredential.objects.defer("secret").get().hint == SECRET[:3]


def test_plaintext_in_the_column_is_an_error(credential: AppCredential) -> None:
    plant(credential, "planted plaintext")
    with pytest.raises(UnreadableSecret) as refused:
        AppCredential.objects.get()
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("lookup", ["exact", "iexact", "contains", "startswith", "in", "gt", "regex", "length"])
def test_it_cannot_be_searched(db: None, lookup: str) -> None:
    with pytest.raises(FieldError):
        list(AppCredential.objects.filter(**{f"secret__{lookup}": [SECRET] if lookup == "in" else SECRET}))
    with pytest.raises(FieldError):
        AppCredential.objects.filter(secret=SECRET)


@pytest.mark.parametrize("expression", [F("label"), Value("x"), models.functions.Upper("label")])
def test_an_expression_cannot_be_stored(credential: AppCredential, expression: Any) -> None:
    with pytest.raises(FieldError), transaction.atomic():
        AppCredential.objects.update(secret=expression)
    assert AppCredential.objects.get().secret == SECRET


def test_bulk_update_is_refused(credential: AppCredential) -> None:
    credential.secret = "changed"  # type: ignore[assignment]
    with pytest.raises(FieldError), transaction.atomic():
        AppCredential.objects.bulk_update([credential], ["secret"])
    assert AppCredential.objects.get().secret == SECRET


def test_validation_does_not_decrypt() -> None:
    token = encrypt(SECRET)
    assert SecretField().to_python(token) == token


def test_dumps_omit_it(credential: AppCredential) -> None:
    written = StringIO()
    call_command("dumpdata", "connections.appcredential", stdout=written)
    assert json.loads(written.getvalue())[0]["fields"]["label"] == "Test secret"
    assert "sbx8Q" not in written.getvalue()
    assert "sbx8Q" not in serializers.serialize("xml", [credential])


def test_connections_defer_it_until_it_is_accessed(db: None, django_assert_num_queries: Any) -> None:
    connection = factories.make_connection(refresh_token=SECRET)
    with django_assert_num_queries(1) as queries:
        read = Connection.objects.select_related("app_registration").get(pk=connection.pk)
    assert "token" not in queries.captured_queries[0]["sql"].partition("FROM")[0].replace("token_version", "")
    assert read.get_deferred_fields() >= {"refresh_token", "previous_refresh_token", "access_token"}
    assert read.refresh_token == SECRET


def test_related_objects_defer_it(db: None) -> None:
    mailbox = factories.make_mailbox_access(factories.make_connection(), factories.make_mailbox())
    mailbox.refresh_from_db()
    assert "refresh_token" in mailbox.connection.get_deferred_fields()


def test_every_secret_column_is_a_secret_field() -> None:
    words = ("secret", "private_key", "refresh_token", "access_token", "id_token")
    columns = [
        (f"{model.__name__}.{field.name}", field)
        for model in apps.get_app_config("connections").get_models()
        for field in model._meta.get_fields()
        if getattr(field, "column", None) and any(word in field.name for word in words)
    ]
    assert len(columns) >= 5
    assert [name for name, field in columns if not isinstance(field, SecretField)] == []
