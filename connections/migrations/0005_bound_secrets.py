"""Bind every encrypted value to its table, column and row, and let the database refuse to change a row's identity.

Each row gets a random ``identity``, and each stored secret is encrypted once more, now together with its place and under
the first key. Nothing unbound is accepted afterwards. The migration stops, changing nothing, if no configured key opens
a value: add the missing key and run it again. If that key is lost for good, DISCARD_UNREADABLE_SECRETS=on leaves those
values as they are; nobody will be able to read them.

On SQLite a later migration that rebuilds one of these tables drops its trigger: call ``install`` at its end.
"""

import hashlib
import os
import uuid

from cryptography.fernet import InvalidToken
from django.db import migrations, models

from connections import keys

COLUMNS = {
    "connections_connection": ("refresh_token", "previous_refresh_token", "access_token"),
    "connections_appcredential": ("secret", "private_key"),
    "connections_alertchannel": ("url", "signing_secret"),
    "connections_storedreply": ("answer",),
}
REPLY_OWNER = ("key_id", "digest", "request_digest")
MODELS = ("connection", "appcredential", "alertchannel", "storedreply")
BATCH = 500
REFUSED = "The identity of a row is immutable: its secrets are bound to it."


# --- Values ---------------------------------------------------------------------------------------


def bind(apps, schema_editor):
    """Give every row its identity and encrypt its values for it."""
    unreadable = []
    for table, columns in COLUMNS.items():
        others = REPLY_OWNER if table == "connections_storedreply" else ()
        for pk, values in _rows(schema_editor, table, (*columns, *others)):
            identity = uuid.uuid4()
            if others:
                # As in services.api_keys.idempotency: it says whose reply this is.
                owner = ":".join(str(values.pop(column)) for column in others)
                identity = uuid.UUID(hex=hashlib.sha256(owner.encode()).hexdigest()[:32])
            bound = {}
            for column, value in values.items():
                try:
                    opened = keys.current().decrypt(value).decode()
                except InvalidToken:
                    unreadable.append(f"{table}.{column} of row {pk}")
                    continue
                place = f"{table}.{column}:{identity.hex}"
                bound[column] = keys.current().encrypt(f"{place}\0{opened}".encode()).decode()
            _write(schema_editor, table, pk, {"identity": _adapted(schema_editor, identity), **bound})
    if unreadable and os.environ.get("DISCARD_UNREADABLE_SECRETS", "").lower() not in ("on", "true", "1", "yes"):
        named = ", ".join(unreadable[:20]) + (" and more" if len(unreadable) > 20 else "")
        raise RuntimeError(
            f"{len(unreadable)} stored secrets cannot be opened with the keys in FIELD_ENCRYPTION_KEYS: {named}. Nothing "
            "was changed. Add the missing key and run the migration again. If the key is lost for good, run it with "
            "DISCARD_UNREADABLE_SECRETS=on; these values then stay unreadable."
        )


def unbind(apps, schema_editor):
    """Encrypt every value without its place, as before this migration."""
    for table, columns in COLUMNS.items():
        for pk, values in _rows(schema_editor, table, columns):
            plain = {}
            for column, value in values.items():
                try:
                    _, _, opened = keys.current().decrypt(value).decode().partition("\0")
                except InvalidToken:
                    continue
                plain[column] = keys.current().encrypt(opened.encode()).decode().partition(":")[2]
            if plain:
                _write(schema_editor, table, pk, plain)


def _rows(schema_editor, table, columns):
    """Yield each row's primary key and its encrypted values, in batches."""
    last = 0
    while True:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, {', '.join(columns)} FROM {table} WHERE id > %s ORDER BY id LIMIT {BATCH}",  # noqa: S608
                [last],
            )
            rows = cursor.fetchall()
        for pk, *values in rows:
            last = pk
            pairs = zip(columns, values, strict=True)
            yield pk, {column: value for column, value in pairs if value is not None}
        if len(rows) < BATCH:
            return


def _write(schema_editor, table, pk, values):
    assignments = ", ".join(f"{column} = %s" for column in values)
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {assignments} WHERE id = %s", [*values.values(), pk])  # noqa: S608


def _adapted(schema_editor, identity):
    return models.UUIDField().get_db_prep_value(identity, schema_editor.connection)


# --- Triggers -------------------------------------------------------------------------------------

FUNCTION = f"""
CREATE OR REPLACE FUNCTION portal_identity_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{REFUSED}' USING ERRCODE = 'restrict_violation';
END $$
"""


def install(apps, schema_editor, tables=tuple(COLUMNS)):
    """Put the triggers in place; harmless when they are."""
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    if is_postgresql:
        schema_editor.execute(FUNCTION)
    for table in tables:
        if is_postgresql:
            schema_editor.execute(
                f"CREATE OR REPLACE TRIGGER portal_identity_guard BEFORE UPDATE OF identity ON {table} FOR EACH ROW "
                "WHEN (OLD.identity IS DISTINCT FROM NEW.identity) EXECUTE FUNCTION portal_identity_guard()"
            )
        else:
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {table}_keep_identity")
            schema_editor.execute(
                f"CREATE TRIGGER {table}_keep_identity BEFORE UPDATE OF identity ON {table} "
                f"WHEN OLD.identity IS NOT NEW.identity BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
            )


def remove(apps, schema_editor):
    """Take the triggers away."""
    for table in COLUMNS:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f"DROP TRIGGER IF EXISTS portal_identity_guard ON {table}")
        else:
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {table}_keep_identity")
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP FUNCTION IF EXISTS portal_identity_guard()")


KINDS = [
    ("app_registration", "App registration rejected"),
    ("account", "Sign-in needed"),
    ("consent", "Consent missing"),
    ("policy", "Blocked by policy"),
    ("mailbox", "Shared mailbox not reachable"),
    ("encryption_key", "Encryption key missing"),
    ("altered_secret", "Stored secret moved or altered"),
    ("outage", "Microsoft cannot be reached"),
    ("hand_over", "Sign-in by the new owner"),
    ("leaver", "Owner has left"),
]


class Migration(migrations.Migration):
    dependencies = [("connections", "0004_roles")]

    operations = [
        *(migrations.AddField(model, "identity", models.UUIDField(null=True, editable=False)) for model in MODELS),
        migrations.RunPython(bind, unbind),
        *(
            migrations.AlterField(model, "identity", models.UUIDField(default=uuid.uuid4, editable=False, unique=True))
            for model in MODELS
        ),
        migrations.RunPython(install, remove),
        migrations.AlterField("incident", "kind", models.CharField(choices=KINDS, max_length=20)),
        migrations.CreateModel(
            name="KeyUsage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("table", models.CharField(max_length=63)),
                ("column", models.CharField(max_length=63)),
                ("key_id", models.CharField(blank=True, max_length=8)),
                ("altered", models.BooleanField(default=False)),
                ("count", models.PositiveBigIntegerField()),
                ("counted_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("table", "column", "key_id", "altered"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("table", "column", "key_id", "altered"), name="key_usage_counted_once"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RunningProcess",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=120, unique=True)),
                ("key_ids", models.JSONField()),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
            ],
            options={"ordering": ("name",), "verbose_name_plural": "running processes"},
        ),
    ]
