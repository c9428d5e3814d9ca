"""SecretField rejects everything that would silently destroy or leak a secret."""

import json
import uuid
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import DatabaseError, models, transaction
from django.db.models import F, Value
from django.utils import timezone

from connections import keys
from connections.errors import AlteredSecret, UnreadableSecret
from connections.fields import SecretField, secret_field
from connections.models import (
    AlertChannel,
    AppCredential,
    Connection,
    IssuerKey,
    ResourceToken,
    SecondFactor,
    StoredReply,
)
from connections.services.operations import secret_columns
from tests import factories
from tests.stored_secrets import encrypted, new_key, plant, stored, using_keys

SECRET = "sbx8Q~a secret with ünïcode and 'quotes'"


@pytest.fixture
def credential(db: None) -> AppCredential:
    return factories.make_secret(factories.make_app_registration(secret=None), SECRET)


def test_it_is_encrypted_at_rest_and_decrypted_when_read(credential: AppCredential) -> None:
    assert "sbx8Q" not in stored(credential, "secret")
    assert stored(credential, "secret").startswith(f"{keys.current().ids[0]}:gAAAA")
    assert AppCredential.objects.get().secret == SECRET


def test_the_same_secret_is_encrypted_differently_each_time(credential: AppCredential) -> None:
    assert encrypted(credential, secret=SECRET) != encrypted(credential, secret=SECRET)


def test_no_secret_is_null(credential: AppCredential) -> None:
    assert AppCredential.objects.filter(private_key__isnull=True).count() == 1
    AppCredential.objects.update(secret=None)
    assert AppCredential.objects.get().secret is None


def test_an_update_takes_only_what_was_encrypted_for_the_row(credential: AppCredential) -> None:
    with pytest.raises(FieldError), transaction.atomic():
        AppCredential.objects.update(secret="another")
    AppCredential.objects.update(**encrypted(credential, secret="another"))
    assert AppCredential.objects.get().secret == "another"


def test_saving_encrypts_for_the_row(credential: AppCredential) -> None:
    credential.secret = "another"  # type: ignore[assignment]
    credential.save()
    assert AppCredential.objects.get().secret == "another"


def test_bulk_create_encrypts_also_when_it_updates_conflicts(credential: AppCredential) -> None:
    values = {"app_registration": credential.app_registration, "kind": "secret", "identity": credential.identity}
    twin = AppCredential(pk=credential.pk, secret="twin", **values)
    AppCredential.objects.bulk_create([twin], update_conflicts=True, unique_fields=["id"], update_fields=["secret"])
    assert AppCredential.objects.get().secret == "twin"


def test_the_first_key_encrypts_and_every_key_decrypts(credential: AppCredential) -> None:
    old, new = new_key(), new_key()
    with using_keys(old):
        AppCredential.objects.update(**encrypted(credential, secret="old"))
    with using_keys(new, old):
        assert AppCredential.objects.get().secret == "old"
        AppCredential.objects.update(**encrypted(credential, secret="new"))
    with using_keys(new):
        assert AppCredential.objects.get().secret == "new"


def test_a_missing_key_is_an_error_that_names_it(credential: AppCredential) -> None:
    lost = new_key()
    with using_keys(lost):
        AppCredential.objects.update(**encrypted(credential, secret="lost"))
    with pytest.raises(UnreadableSecret) as refused:
        AppCredential.objects.get()
    assert refused.value.key_id == keys.key_id(lost)
    assert lost not in str(refused.value)
    assert AppCredential.objects.defer("secret").get().hint == SECRET[:3]


def test_keys_without_values_are_no_keyring() -> None:
    with pytest.raises(ValueError):
        keys.Keyring([])


# --- Every encrypted column of every model --------------------------------------------------------

FIELDS = secret_columns.secret_fields()


def row_of(model: Any) -> Any:
    """Make a row of any model with encrypted columns; a new model needs an entry here."""
    if model is Connection:
        return factories.make_connection()
    if model is ResourceToken:
        connection = Connection.objects.first() or factories.make_connection()
        return ResourceToken.objects.create(connection=connection, resource=f"https://{uuid.uuid4()}.example")
    if model is AppCredential:
        return factories.make_secret(factories.make_app_registration(secret=None), SECRET)
    if model is AlertChannel:
        return AlertChannel.objects.create(name=f"Channel {uuid.uuid4()}", kind="webhook", host="example.org")
    if model is SecondFactor:
        return SecondFactor.objects.create(person=factories.make_person("erin"), kind="app", name="Phone")
    if model is IssuerKey:
        now = timezone.now()
        number = IssuerKey.objects.count() + 1
        return IssuerKey.objects.create(number=number, key_id=str(number), created_at=now, use_after=now)
    assert model is StoredReply, f"no row of {model} can be made"
    key, _ = factories.make_key(factories.make_person("dave"))
    return StoredReply.objects.create(key=key, digest=uuid.uuid4().hex, started_at=timezone.now())


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_a_value_opens_only_in_its_own_row_and_column(db: None, field: SecretField) -> None:
    row = row_of(field.model)
    places = [(other, identity) for other in FIELDS for identity in (uuid.uuid4(), row.identity)]
    reads = field.model._default_manager.filter(pk=row.pk).values_list(field.name, flat=True)
    if field.name == "private_key" and field.model is AppCredential:
        type(row).objects.filter(pk=row.pk).update(kind="certificate", secret=None)
    for other, identity in places:
        if (other, identity) == (field, row.identity):
            continue
        plant(row, field.column, other.encrypt("moved", identity))
        with pytest.raises(AlteredSecret) as refused:
            reads.get()
        assert (refused.value.location.table, refused.value.location.column) == (
            field.model._meta.db_table,
            field.column,
        )
    plant(row, field.column, field.encrypt("own", row.identity))
    assert reads.get() == "own"
    assert getattr(field.model._default_manager.get(pk=row.pk), field.name) == "own"


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_the_database_keeps_the_identity_of_every_row_with_a_secret(db: None, field: SecretField) -> None:
    row = row_of(field.model)
    with pytest.raises(DatabaseError, match="immutable"), transaction.atomic():
        field.model._default_manager.filter(pk=row.pk).update(identity=uuid.uuid4())


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_a_value_from_before_the_binding_is_refused(db: None, field: SecretField) -> None:
    row = row_of(field.model)
    if field.name == "private_key" and field.model is AppCredential:
        type(row).objects.filter(pk=row.pk).update(kind="certificate", secret=None)
    unbound = keys.current().encrypt(b"unbound").decode()
    for text in (unbound, unbound.partition(":")[2]):
        plant(row, field.column, text)
        with pytest.raises(AlteredSecret):
            field.model._default_manager.values_list(field.name).get(pk=row.pk)


def test_a_model_without_identity_is_an_error() -> None:
    class Careless(models.Model):
        secret = SecretField()

        class Meta:
            app_label = "careless"

    assert [message.id for message in secret_field(Careless, "secret").check()] == ["connections.E008"]


def test_a_secret_read_by_raw_sql_needs_its_row(credential: AppCredential) -> None:
    with pytest.raises(FieldError):
        list(AppCredential.objects.raw("SELECT * FROM connections_appcredential"))


def test_a_secret_of_a_joined_table_is_bound_to_its_own_row(credential: AppCredential) -> None:
    app = credential.app_registration
    assert list(type(app).objects.values_list("credentials__secret", flat=True)) == [SECRET]
    assert AppCredential.objects.annotate(copy=F("secret")).values_list("copy", flat=True).get() == SECRET


# --- What the field refuses -----------------------------------------------------------------------


def test_plaintext_in_the_column_is_an_error(credential: AppCredential) -> None:
    plant(credential, "secret", "planted plaintext")
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
    token = keys.current().encrypt(b"x").decode()
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
