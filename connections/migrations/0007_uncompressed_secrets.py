"""PostgreSQL tries to compress long values. Ciphertext does not compress, and trying costs more than a token call."""

from django.db import migrations

COLUMNS = (
    ("connections_connection", "refresh_token"),
    ("connections_connection", "previous_refresh_token"),
    ("connections_connection", "access_token"),
)


def _set_storage(schema_editor, storage):
    if schema_editor.connection.vendor == "postgresql":
        for table, column in COLUMNS:
            schema_editor.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE {storage}")


def without_compression(apps, schema_editor):
    _set_storage(schema_editor, "EXTERNAL")


def with_compression(apps, schema_editor):
    _set_storage(schema_editor, "EXTENDED")


class Migration(migrations.Migration):
    dependencies = [("connections", "0006_roles")]

    operations = [migrations.RunPython(without_compression, with_compression)]
