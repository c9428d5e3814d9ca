"""SecretField refuses everything that would silently destroy or leak a secret."""

import json
from io import StringIO

import pytest
from cryptography.fernet import Fernet, MultiFernet
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
    """What really stands in the column."""
    with database.cursor() as cursor:
        cursor.execute("SELECT secret FROM connections_appcredential WHERE id = %s", [credential.pk])
        return str(cursor.fetchone()[0])


def plant(credential: AppCredential, text: str) -> None:
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = %s WHERE id = %s", [text, credential.pk])


def test_it_is_encrypted_at_rest_and_read_back_whole(credential):
    assert "secret" not in stored(credential)
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == SECRET


def test_the_same_secret_never_looks_the_same_twice():
    assert encrypt(SECRET) != encrypt(SECRET)


def test_no_secret_is_null(credential):
    assert AppCredential.objects.filter(private_key__isnull=True).count() == 1
    AppCredential.objects.update(secret=None)
    assert AppCredential.objects.get().secret is None


def test_an_update_encrypts(credential):
    AppCredential.objects.update(secret="another")
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == "another"


def test_bulk_create_encrypts_also_when_it_updates_conflicts(credential):
    twin = AppCredential(pk=credential.pk, app_registration=credential.app_registration, kind="secret", secret="twin")
    AppCredential.objects.bulk_create([twin], update_conflicts=True, unique_fields=["id"], update_fields=["secret"])
    assert stored(credential).startswith("gAAAA")
    assert AppCredential.objects.get().secret == "twin"


# --- Keys -----------------------------------------------------------------------------------------


def use_keys(monkeypatch: pytest.MonkeyPatch, *keys: bytes) -> None:
    monkeypatch.setattr(library, "CRYPTER", MultiFernet([Fernet(key) for key in keys]))


def test_the_first_key_encrypts_and_every_key_decrypts(monkeypatch):
    old, new = Fernet.generate_key(), Fernet.generate_key()
    use_keys(monkeypatch, old)
    sealed_before = encrypt(SECRET)
    use_keys(monkeypatch, new, old)
    assert decrypt(sealed_before) == SECRET
    assert Fernet(new).decrypt(encrypt(SECRET).encode()).decode() == SECRET


def test_a_missing_key_is_an_error_and_never_a_value(credential, monkeypatch):
    use_keys(monkeypatch, Fernet.generate_key())
    with pytest.raises(UnreadableSecret):
        AppCredential.objects.get()
    assert AppCredential.objects.defer("secret").get().hint == SECRET[:3]


def test_plaintext_in_the_column_is_an_error_and_never_a_value(credential):
    plant(credential, "planted plaintext")
    with pytest.raises(UnreadableSecret) as refused:
        AppCredential.objects.get()
    assert "planted" not in str(refused.value)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", ["exact", "iexact", "contains", "startswith", "in", "gt", "regex", "length"])
def test_it_cannot_be_searched(db, lookup):
    with pytest.raises(FieldError):
        list(AppCredential.objects.filter(**{f"secret__{lookup}": [SECRET] if lookup == "in" else SECRET}))


def test_it_cannot_be_searched_by_equality(db):
    with pytest.raises(FieldError):
        AppCredential.objects.filter(secret=SECRET)


@pytest.mark.parametrize("expression", [F("label"), Value("x"), models.functions.Upper("label")])
def test_an_expression_cannot_be_stored(credential, expression):
    with pytest.raises(FieldError), transaction.atomic():
        AppCredential.objects.update(secret=expression)
    assert AppCredential.objects.get().secret == SECRET


def test_bulk_update_is_refused_because_it_would_mix_the_rows_secrets(credential):
    credential.secret = "changed"
    with pytest.raises(FieldError), transaction.atomic():
        AppCredential.objects.bulk_update([credential], ["secret"])
    assert AppCredential.objects.get().secret == SECRET


def test_validation_does_not_decrypt_what_it_is_given():
    token = encrypt(SECRET)
    assert SecretField().to_python(token) == token


# --- Where it must not turn up --------------------------------------------------------------------


def test_dumps_leave_it_out(credential):
    written = StringIO()
    call_command("dumpdata", "connections.appcredential", stdout=written)
    assert json.loads(written.getvalue())[0]["fields"]["label"] == "Test secret"
    assert "sbx8Q" not in written.getvalue()
    assert "sbx8Q" not in serializers.serialize("xml", [credential])


def test_connections_leave_it_in_the_database_until_it_is_asked_for(db, django_assert_num_queries):
    connection = factories.make_connection(refresh_token=SECRET)
    with django_assert_num_queries(1) as queries:
        read = Connection.objects.select_related("app_registration").get(pk=connection.pk)
    assert "token" not in queries.captured_queries[0]["sql"].partition("FROM")[0].replace("token_version", "")
    assert read.get_deferred_fields() >= {"refresh_token", "previous_refresh_token", "access_token"}
    assert read.refresh_token == SECRET


def test_related_objects_leave_it_in_the_database_too(db):
    mailbox = factories.make_mailbox_access(factories.make_connection(), factories.make_mailbox())
    mailbox.refresh_from_db()
    assert "refresh_token" in mailbox.connection.get_deferred_fields()


def test_every_secret_column_is_a_secret_field():
    """A column named like a secret that is not encrypted would be found by nobody else."""
    from django.apps import apps

    words = ("secret", "private_key", "refresh_token", "access_token", "id_token")
    columns = [
        (f"{model.__name__}.{field.name}", field)
        for model in apps.get_app_config("connections").get_models()
        for field in model._meta.get_fields()
        if getattr(field, "column", None) and any(word in field.name for word in words)
    ]
    assert len(columns) >= 5
    assert [name for name, field in columns if not isinstance(field, SecretField)] == []
