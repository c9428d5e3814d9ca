"""Triggers by which the database itself rejects changes to the audit trail.

They still allow three things: setting a reference to NULL when its object is deleted, increasing a count of token
requests until it is sealed, and removing old rows in a transaction that declares it (services.operations.retention).
The database's owner can remove the triggers; the seals exist to detect what happens then.

On SQLite, a later migration that rebuilds one of these tables drops its triggers, so it must call ``install`` at its
end.
"""

from django.db import migrations

EVENTS, FETCHES, SEALS = "connections_auditevent", "connections_tokenfetch", "connections_auditseal"
SEALING = "connections_auditsealing"
REFUSED = "The audit trail is append-only."
RETENTION = "portal.audit_retention"

# --- PostgreSQL -----------------------------------------------------------------------------------

FUNCTION = f"""
CREATE OR REPLACE FUNCTION portal_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME <> '{SEALS}' AND current_setting('{RETENTION}', true) = 'on' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = '{EVENTS}' THEN
        IF NEW.actor_id IS NULL AND to_jsonb(NEW) - 'actor_id' = to_jsonb(OLD) - 'actor_id' THEN
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = '{FETCHES}' THEN
        IF OLD.seal IS NULL THEN
            RETURN NEW;
        END IF;
        IF (NEW.key_id IS NULL OR NEW.key_id = OLD.key_id)
            AND (NEW.connection_id IS NULL OR NEW.connection_id = OLD.connection_id)
            AND to_jsonb(NEW) - 'key_id' - 'connection_id' = to_jsonb(OLD) - 'key_id' - 'connection_id' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '{REFUSED}' USING ERRCODE = 'restrict_violation';
END $$
"""


def _install_on_postgresql(schema_editor):
    schema_editor.execute(FUNCTION)
    for table in (EVENTS, FETCHES, SEALS):
        schema_editor.execute(
            f"CREATE OR REPLACE TRIGGER portal_audit_guard BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION portal_audit_guard()"
        )
        schema_editor.execute(
            f"CREATE OR REPLACE TRIGGER portal_audit_guard_all BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION portal_audit_guard()"
        )


def _remove_on_postgresql(schema_editor):
    for table in (EVENTS, FETCHES, SEALS):
        schema_editor.execute(f"DROP TRIGGER IF EXISTS portal_audit_guard ON {table}")
        schema_editor.execute(f"DROP TRIGGER IF EXISTS portal_audit_guard_all ON {table}")
    schema_editor.execute("DROP FUNCTION IF EXISTS portal_audit_guard()")


# --- SQLite ---------------------------------------------------------------------------------------


def _install_on_sqlite(schema_editor):
    _remove_on_sqlite(schema_editor)
    closed = f"NOT EXISTS (SELECT 1 FROM {SEALING} WHERE retention_open)"  # noqa: S608
    when = {
        (EVENTS, "UPDATE"): f"NEW.actor_id IS NOT NULL OR NOT ({_same(schema_editor, EVENTS, 'actor_id')})",
        (EVENTS, "DELETE"): closed,
        (FETCHES, "UPDATE"): (
            "OLD.seal IS NOT NULL AND NOT ("
            "(NEW.key_id IS NULL OR NEW.key_id IS OLD.key_id)"
            " AND (NEW.connection_id IS NULL OR NEW.connection_id IS OLD.connection_id)"
            f" AND {_same(schema_editor, FETCHES, 'key_id', 'connection_id')})"
        ),
        (FETCHES, "DELETE"): closed,
        (SEALS, "UPDATE"): "1",
        (SEALS, "DELETE"): "1",
    }
    for (table, operation), condition in when.items():
        schema_editor.execute(
            f"CREATE TRIGGER {table}_no_{operation.lower()} BEFORE {operation} ON {table} WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        )


def _remove_on_sqlite(schema_editor):
    for table in (EVENTS, FETCHES, SEALS):
        for operation in ("update", "delete"):
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {table}_no_{operation}")


def _same(schema_editor, table, *but):
    """Return an SQL condition that all columns except ``but`` are unchanged."""
    with schema_editor.connection.cursor() as cursor:
        columns = [
            column.name for column in schema_editor.connection.introspection.get_table_description(cursor, table)
        ]
    return " AND ".join(f"NEW.{column} IS OLD.{column}" for column in columns if column not in but)


# --- Both -----------------------------------------------------------------------------------------


def install(apps, schema_editor):
    """Create the triggers. Safe to repeat."""
    on = {"postgresql": _install_on_postgresql, "sqlite": _install_on_sqlite}
    on[schema_editor.connection.vendor](schema_editor)


def remove(apps, schema_editor):
    on = {"postgresql": _remove_on_postgresql, "sqlite": _remove_on_sqlite}
    on[schema_editor.connection.vendor](schema_editor)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0002_token_storage"),
    ]

    operations = [
        migrations.RunPython(install, remove),
    ]
