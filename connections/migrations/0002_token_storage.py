"""PostgreSQL tries to compress long values. Ciphertext does not compress, and trying costs more than a token call."""

from django.db import migrations

COLUMNS = ("refresh_token", "previous_refresh_token", "access_token")


def _set_storage(schema_editor, storage):
    if schema_editor.connection.vendor == "postgresql":
        for column in COLUMNS:
            schema_editor.execute(f"ALTER TABLE connections_connection ALTER COLUMN {column} SET STORAGE {storage}")


def without_compression(apps, schema_editor):
    _set_storage(schema_editor, "EXTERNAL")


def with_compression(apps, schema_editor):
    _set_storage(schema_editor, "EXTENDED")


class Migration(migrations.Migration):
    dependencies = [("connections", "0001_tables")]

    operations = [migrations.RunPython(without_compression, with_compression)]
