"""The database schema after all migrations (columns, constraints, indexes, triggers) in comparable values.

``tests/schema_sqlite.json`` and ``tests/schema_postgresql.json`` hold the expected schema. After a migration that is
meant to change the tables, rewrite the file with ``TEST_DATABASE=sqlite pytest tests/test_schema.py --write-schema``,
and once more with ``postgres``.
"""

import re
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group
from django.db import connection

PREFIX = "connections_"


def snapshot_path() -> Path:
    return Path(__file__).with_name(f"schema_{connection.vendor}.json")


def collect() -> dict[str, Any]:
    tables = sorted(name for name in connection.introspection.table_names() if name.startswith(PREFIX))
    describe = _postgresql if connection.vendor == "postgresql" else _sqlite
    return {
        "tables": {table: describe(table) for table in tables},
        "functions": _functions(),
        "groups": sorted(Group.objects.values_list("name", flat=True)),
    }


def _rows(sql: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [list(row) for row in cursor.fetchall()]


def _postgresql(table: str) -> dict[str, Any]:
    columns = """
        SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attstorage,
               pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname
    """
    constraints = "SELECT contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
    named = (
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('c', 'u') AND conname !~ %s"
    )
    indexes = "SELECT regexp_replace(indexdef, 'INDEX \\S+ ON', 'INDEX ON') FROM pg_indexes WHERE tablename = %s"
    triggers = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
    return {
        "columns": _rows(columns, table),
        "constraints": sorted(_rows(constraints, table)),
        "constraint_names": sorted(name for (name,) in _rows(named, table, "_[0-9a-f]{8}(_|$)|_key$")),
        "indexes": sorted(text for (text,) in _rows(indexes, table)),
        "triggers": sorted(text for (text,) in _rows(triggers, table)),
    }


def _functions() -> list[str]:
    if connection.vendor != "postgresql":
        return []
    return [text for (text,) in _rows("SELECT prosrc FROM pg_proc WHERE proname LIKE 'portal%%' ORDER BY proname")]


def _sqlite(table: str) -> dict[str, Any]:
    sql = "SELECT sql FROM sqlite_master WHERE tbl_name = %s AND type = %s AND sql IS NOT NULL"
    ((table_sql,),) = _rows(sql, table, "table")
    index_names = re.compile(r'INDEX "[^"]*" ON')
    return {
        "columns": sorted(row[1:] for row in _rows(f'PRAGMA table_info("{table}")')),
        "references": sorted(row[2:] for row in _rows(f'PRAGMA foreign_key_list("{table}")')),
        "constraints": sorted(_named_constraints(table_sql)),
        "deferrable": table_sql.count("DEFERRABLE INITIALLY DEFERRED"),
        "indexes": sorted(index_names.sub("INDEX ON", text) for (text,) in _rows(sql, table, "index")),
        "triggers": sorted(_without_column_order(text) for (text,) in _rows(sql, table, "trigger")),
    }


def _without_column_order(trigger_sql: str) -> str:
    """Remove the column order from triggers: they compare columns in table order, which does not matter."""
    comparison = r"NEW\.(\w+) IS OLD\.\1(?: AND )?"
    columns = sorted(match[1] for match in re.finditer(comparison, trigger_sql))
    return f"{re.sub(comparison, '', trigger_sql)} comparing {', '.join(columns)}"


def _named_constraints(table_sql: str) -> list[str]:
    """Return CHECK and UNIQUE constraints by name, with balanced brackets."""
    texts = []
    for match in re.finditer(r'CONSTRAINT "(?!\w*_fk_)[^"]+" (CHECK|UNIQUE) ', table_sql):
        end, depth = match.end(), 0
        while True:
            depth += {"(": 1, ")": -1}.get(table_sql[end], 0)
            end += 1
            if depth == 0:
                break
        texts.append(table_sql[match.start() : end])
    return texts
