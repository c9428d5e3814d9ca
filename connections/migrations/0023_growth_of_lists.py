"""What keeps pages fast in a large organisation: kept counts of review items, and indexes in the order of more lists.

On SQLite a later migration that rebuilds the table of review items drops its triggers: call ``install_triggers`` at its
end.
"""

from django.db import migrations, models
from django.db.models import Q

TABLE, TALLY = "connections_reviewitem", "connections_tally"
_INTO = f"INSERT INTO {TALLY} (subject, app_consent_id, value, change)"


def _sums(rows, sign):
    value = "review_id || ':' || decision"
    return f"SELECT 'reviews', NULL, {value}, {sign}COUNT(*) FROM {rows} GROUP BY {value}"  # noqa: S608 - own tables


# On PostgreSQL once for each statement, because a review may begin with a million items.
FUNCTION = f"""
CREATE OR REPLACE FUNCTION portal_tally_reviews() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN {_INTO} {_sums("before", "-")}; END IF;
    IF TG_OP <> 'DELETE' THEN {_INTO} {_sums("after", "")}; END IF;
    RETURN NULL;
END $$
"""
_TABLES = {
    "insert": "NEW TABLE AS after",
    "update": "OLD TABLE AS before NEW TABLE AS after",
    "delete": "OLD TABLE AS before",
}


def _on_sqlite(event):
    changes = {"insert": [("NEW", 1)], "update": [("OLD", -1), ("NEW", 1)], "delete": [("OLD", -1)]}[event]
    body = " ".join(
        f"{_INTO} VALUES ('reviews', NULL, {row}.review_id || ':' || {row}.decision, {change});"
        for row, change in changes
    )
    of = " OF decision" if event == "update" else ""
    when = " WHEN OLD.decision IS NOT NEW.decision" if event == "update" else ""
    return f"AFTER {event.upper()}{of} ON {TABLE} FOR EACH ROW{when} BEGIN {body} END"


def install_triggers(apps, schema_editor):
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    if is_postgresql:
        schema_editor.execute(FUNCTION)
    remove_triggers(apps, schema_editor)
    for event, tables in _TABLES.items():
        definition = (
            f"AFTER {event.upper()} ON {TABLE} REFERENCING {tables} "
            "FOR EACH STATEMENT EXECUTE FUNCTION portal_tally_reviews()"
        )
        schema_editor.execute(
            f"CREATE TRIGGER portal_tally_review_{event} {definition if is_postgresql else _on_sqlite(event)}"
        )


def remove_triggers(apps, schema_editor):
    on_table = f" ON {TABLE}" if schema_editor.connection.vendor == "postgresql" else ""
    for event in _TABLES:
        schema_editor.execute(f"DROP TRIGGER IF EXISTS portal_tally_review_{event}{on_table}")


def count_existing(apps, schema_editor):
    schema_editor.execute(f"{_INTO} {_sums(TABLE, '')}")


def forget_counts(apps, schema_editor):
    schema_editor.execute(f"DELETE FROM {TALLY} WHERE subject = 'reviews'")  # noqa: S608


# --- Searching (as in 0017) -----------------------------------------------------------------------------

SEARCHED = {"connections_apikey": ("prefix",), "connections_delivery": ("email", "subject")}


def text_indexes():
    """Yield name, table and column of each index."""
    for table, columns in SEARCHED.items():
        for column in columns:
            yield f"{table.removeprefix('connections_')}_{column}_trigrams", table, column


def index_texts(apps, schema_editor):
    """Index them by trigrams on PostgreSQL, if the extension is there."""
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'")
        for name, table, column in text_indexes() if cursor.fetchone() else ():
            cursor.execute(
                f"CREATE INDEX IF NOT EXISTS {name} ON {table} USING gin (UPPER({column}::text) gin_trgm_ops)"
            )


def drop_text_indexes(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name, _, _ in text_indexes():
            schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


# --- Order of lists -------------------------------------------------------------------------------------

INDEXES = {
    "reviewitem": (
        models.Index(fields=("review", "owner"), name="review_items_by_owner"),
        models.Index(fields=("review", "owner"), condition=Q(decision="open"), name="review_items_unanswered"),
    ),
    "user": (
        models.Index(
            fields=("id",),
            condition=Q(is_active=False) | Q(left_at__isnull=False) | Q(kind="service"),
            name="person_cannot_answer",
        ),
    ),
    "share": (
        models.Index(fields=("until", "id"), condition=Q(ended_at=None, until__isnull=False), name="share_ending"),
    ),
    "sharedmailbox": (models.Index(fields=("tenant", "address", "id"), name="mailbox_by_tenant"),),
}


class Migration(migrations.Migration):
    dependencies = [("connections", "0022_audit_stream")]

    operations = [
        migrations.RemoveIndex("reviewitem", "review_items_open"),
        migrations.RemoveIndex("share", "share_by_end"),
        *(migrations.AddIndex(model, index) for model, indexes in INDEXES.items() for index in indexes),
        migrations.RunPython(index_texts, drop_text_indexes),
        migrations.RunPython(count_existing, forget_counts),
        migrations.RunPython(install_triggers, remove_triggers),
    ]
