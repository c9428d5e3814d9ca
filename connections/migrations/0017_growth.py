"""What keeps pages fast in a large organisation: kept counts, indexes in the order of lists, and indexes for searching.

On SQLite a later migration that rebuilds the table of connections drops its triggers: call ``install_triggers`` at its
end.
"""

import django.db.models.deletion
from django.db import DatabaseError, migrations, models
from django.db.models import Q

TABLE, TALLY = "connections_connection", "connections_tally"
_COUNTED = ("status", "app_consent_id", "granted_scopes", "other_granted")

# --- Counts -------------------------------------------------------------------------------------------


def _rows(row, change):
    """Return the SQL that adds the counts of one connection, NEW or OLD, to the table."""
    granted = f"{row}.granted_scopes || ' ' || {row}.other_granted"
    return f"""
        INSERT INTO {TALLY} (subject, app_consent_id, value, change)
            VALUES ('connections', {row}.app_consent_id, {row}.status, {change});
        INSERT INTO {TALLY} (subject, app_consent_id, value, change)
            SELECT 'permissions', NULL, {granted}, {change} WHERE {row}.status <> 'disabled';
    """  # noqa: S608


FUNCTION = f"""
CREATE OR REPLACE FUNCTION portal_tally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN {_rows("OLD", -1)} END IF;
    IF TG_OP <> 'DELETE' THEN {_rows("NEW", 1)} END IF;
    RETURN NULL;
END $$
"""


def _triggers(vendor):
    """Return the SQL of the three triggers by name."""
    distinct = "IS DISTINCT FROM" if vendor == "postgresql" else "IS NOT"
    changed = " OR ".join(f"OLD.{name} {distinct} NEW.{name}" for name in _COUNTED)
    bodies = {"insert": _rows("NEW", 1), "update": _rows("OLD", -1) + _rows("NEW", 1), "delete": _rows("OLD", -1)}
    events = {"insert": "INSERT", "update": f"UPDATE OF {', '.join(_COUNTED)}", "delete": "DELETE"}
    for name, event in events.items():
        when = f"WHEN ({changed})" if name == "update" else ""
        body = "EXECUTE FUNCTION portal_tally()" if vendor == "postgresql" else f"BEGIN {bodies[name]} END"
        yield f"portal_tally_{name}", f"AFTER {event} ON {TABLE} FOR EACH ROW {when} {body}"


def install_triggers(apps, schema_editor):
    vendor = schema_editor.connection.vendor
    if vendor == "postgresql":
        schema_editor.execute(FUNCTION)
    remove_triggers(apps, schema_editor)
    for name, definition in _triggers(vendor):
        schema_editor.execute(f"CREATE TRIGGER {name} {definition}")


def remove_triggers(apps, schema_editor):
    on_table = f" ON {TABLE}" if schema_editor.connection.vendor == "postgresql" else ""
    for name in ("insert", "update", "delete"):
        schema_editor.execute(f"DROP TRIGGER IF EXISTS portal_tally_{name}{on_table}")


COUNT = f"""
    INSERT INTO {TALLY} (subject, app_consent_id, value, change)
    SELECT 'connections', app_consent_id, status, COUNT(*) FROM {TABLE} GROUP BY app_consent_id, status
    UNION ALL
    SELECT 'permissions', NULL, granted_scopes || ' ' || other_granted, COUNT(*) FROM {TABLE}
    WHERE status <> 'disabled' GROUP BY granted_scopes || ' ' || other_granted
"""  # noqa: S608


def count_existing(apps, schema_editor):
    schema_editor.execute(COUNT)


# --- Searching ------------------------------------------------------------------------------------------

# The columns that lists search for a part of a text (access/search.py).
SEARCHED = {
    "connections_connection": ("name", "account_username"),
    "connections_user": ("username", "email", "first_name", "last_name"),
    "connections_sharedmailbox": ("address", "display_name"),
    "connections_auditevent": ("actor_name", "target_name"),
    "connections_affectedconnection": ("connection_name",),
    "connections_incident": ("title",),
    "connections_connectionreference": ("name", "description"),
    "connections_apikey": ("name",),
}


def text_indexes():
    """Yield name, table and column of each index."""
    for table, columns in SEARCHED.items():
        for column in columns:
            yield f"{table.removeprefix('connections_')}_{column}_trigrams", table, column


def index_texts(apps, schema_editor):
    """Index them by trigrams on PostgreSQL, if the role may install the extension. The doctor tells if it may not."""
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT trigrams")
        try:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        except DatabaseError:  # it isn't installed on the server, or this role may not create it
            cursor.execute("ROLLBACK TO SAVEPOINT trigrams")
            return
        cursor.execute("RELEASE SAVEPOINT trigrams")
        for name, table, column in text_indexes():
            cursor.execute(
                f"CREATE INDEX IF NOT EXISTS {name} ON {table} USING gin (UPPER({column}::text) gin_trgm_ops)"
            )


def drop_text_indexes(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name, _, _ in text_indexes():
            schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


# --- Order of lists -------------------------------------------------------------------------------------

_BROKEN = Q(status__in=("reconnect_needed", "consent_needed", "blocked"))
_PARKED = Q(status__in=("disabled", "blocked", "consent_needed"), refreshed_at__isnull=False)
INDEXES = {
    "connection": (
        models.Index(fields=("name", "id"), name="connection_by_name"),
        models.Index(fields=("status", "name", "id"), condition=~Q(status="active"), name="connection_not_active"),
        models.Index(fields=("-status_since", "id"), condition=_BROKEN, name="connection_broken"),
        models.Index(fields=("refreshed_at", "id"), condition=_PARKED, name="connection_parked"),
        models.Index(
            fields=("connected_at", "id"),
            condition=Q(status="active", sign_in_max_age__isnull=False),
            name="connection_sign_in_limited",
        ),
    ),
    "user": (models.Index(fields=("kind", "first_name", "last_name", "id"), name="person_by_name"),),
    "sharedmailbox": (models.Index(fields=("address", "id"), name="mailbox_by_address"),),
    "mailboxaccess": (models.Index(fields=("id",), condition=Q(state="unreachable"), name="mailbox_unreachable"),),
    "apikey": (models.Index(fields=("name", "id"), name="key_by_name"),),
    "connectionreference": (
        models.Index(fields=("name", "id"), condition=Q(removed_at=None), name="reference_by_name"),
    ),
    "incident": (models.Index(fields=("-opened_at", "-id"), condition=Q(closed_at=None), name="incident_open"),),
    "affectedconnection": (
        models.Index(fields=("incident", "connection_name", "id"), name="affected_by_name"),
    ),
    "tokenfetch": (models.Index(fields=("connection_ref", "-minute"), name="fetches_by_connection_ref"),),
    "auditevent": (
        models.Index(fields=("owner_id", "-id"), name="event_by_owner"),
        models.Index(fields=("at",), condition=~Q(outcome="done"), name="event_not_done"),
    ),
}  # fmt: skip


class Migration(migrations.Migration):
    dependencies = [("connections", "0016_connect")]

    operations = [
        migrations.CreateModel(
            name="Tally",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("subject", models.CharField(max_length=20)),
                ("value", models.TextField(blank=True)),
                ("change", models.IntegerField()),
                (
                    "app_consent",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="tallies",
                        to="connections.appconsent",
                    ),
                ),
            ],
            options={"indexes": [models.Index(fields=["subject", "app_consent"], name="tally_by_consent")]},
        ),
        *(migrations.AddIndex(model, index) for model, indexes in INDEXES.items() for index in indexes),
        migrations.RunPython(count_existing, migrations.RunPython.noop),
        migrations.RunPython(install_triggers, remove_triggers),
        migrations.RunPython(index_texts, drop_text_indexes),
    ]
