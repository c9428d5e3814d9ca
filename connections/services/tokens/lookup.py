"""The SQL statement behind token calls. It finds the API key, the connection, whether it may be used, and its token.

It does for many calls at once what ``api_keys.authenticate`` and ``access`` do through the ORM; a test ensures that
they agree. Secrets, networks and dates are checked by the same functions as everywhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import psycopg
from django.db import connection as database
from django.utils.dateparse import parse_datetime

from connections.models import ApiKey, AppRegistration, Connection, Share, TeamMember, User
from connections.models.accounts import AUDITORS, IT_ADMINS

_KEY_COLUMNS = (
    "id", "name", "owner_id", "prefix", "digest", "scopes", "networks", "rate_limit", "expires_at", "revoked_at",
    "last_used_at", "previous_prefix", "previous_digest", "previous_until", "previous_used_at",
)  # fmt: skip
_OWNER_COLUMNS = ("id", "username", "first_name", "last_name", "is_active")
_CONNECTION_COLUMNS = (
    "id", "name", "app_registration_id", "status", "status_cause", "status_action", "expires_at", "granted_scopes",
    "access_token", "trouble_at",
)  # fmt: skip
_APP_COLUMNS = ("rejected_at", "paused_until")
_MOMENTS = {"expires_at", "revoked_at", "last_used_at", "previous_until", "previous_used_at", "trouble_at"}
_MOMENTS |= {"rejected_at", "paused_until"}

_CALLS = {
    "postgresql": "SELECT * FROM unnest(%s::int[], %s::text[], %s::bigint[], %s::text[]) AS call (n, prefix, pk, name)",
    "sqlite": """SELECT key AS n, json_extract(value, '$[0]') AS prefix, json_extract(value, '$[1]') AS pk,
        json_extract(value, '$[2]') AS name FROM json_each(%s)""",
}
_STATEMENT = """
WITH call AS ({calls}),
bearer AS (
    SELECT call.n, call.pk AS wanted_pk, call.name AS wanted_name, {key_columns}, {owner_columns},
        key.only_chosen AS only_chosen, owner.is_superuser AS is_superuser
    FROM call
    JOIN {keys} AS key ON key.prefix = call.prefix OR key.previous_prefix = call.prefix
    JOIN {users} AS owner ON owner.id = key.owner_id
),
wanted AS (
    SELECT n, connection.id FROM bearer JOIN {connections} AS connection ON connection.id = wanted_pk
    {by_name}
)
SELECT bearer.*, {connection_columns}, {app_columns},
    connection.owner_id = owner__id OR EXISTS (
        SELECT 1 FROM {shares} AS share
        WHERE share.connection_id = connection.id AND {share_counts} AND {share_with_owner}
    ) AS may_use
FROM bearer
JOIN wanted ON wanted.n = bearer.n
JOIN {connections} AS connection ON connection.id = wanted.id
JOIN {apps} AS app ON app.id = connection.app_registration_id
WHERE NOT only_chosen OR EXISTS (
    SELECT 1 FROM {chosen} AS chosen WHERE chosen.apikey_id = key__id AND chosen.connection_id = connection.id
)
"""
# Finds connections that the key's owner can see by name; left out if every call gives an ID.
_BY_NAME = """
    UNION
    SELECT n, connection.id FROM bearer
    JOIN {connections} AS connection ON connection.owner_id = owner__id AND connection.name = wanted_name
    UNION
    SELECT n, connection.id FROM bearer
    JOIN {shares} AS share ON {share_counts} AND {share_with_owner}
    JOIN {connections} AS connection ON connection.id = share.connection_id AND connection.name = wanted_name
    WHERE wanted_name IS NOT NULL
    UNION
    SELECT n, connection.id FROM bearer JOIN {connections} AS connection ON connection.name = wanted_name
    WHERE wanted_name IS NOT NULL AND (is_superuser OR EXISTS (
        SELECT 1 FROM {memberships} AS membership JOIN auth_group ON auth_group.id = membership.group_id
        WHERE membership.user_id = owner__id AND auth_group.name IN ('{it_admins}', '{auditors}')
    ))
"""
_SHARE_COUNTS = "share.ended_at IS NULL AND (share.until IS NULL OR share.until > %s)"
_SHARE_WITH_OWNER = f"""(share.person_id = owner__id OR share.team_id IN (
    SELECT team_id FROM {TeamMember._meta.db_table} AS member WHERE member.user_id = owner__id
))"""  # noqa: S608 - a name of our own table


@dataclass(frozen=True, slots=True)
class Question:
    """What one call asks for: the prefix of its key, and the connection by ID or by name."""

    prefix: str
    pk: int | None
    name: str | None


@dataclass(slots=True)
class Match:
    """The call's key, not yet checked, and the only connection with that ID or name that the key can see."""

    key: ApiKey  # with its owner; only the fields needed for authentication are loaded
    connection: dict[str, Any]  # its columns; the access token is still encrypted
    app: dict[str, Any]
    may_use: bool  # whether the key's owner may fetch its token


def find(questions: Sequence[Question], *, now: datetime) -> list[Match | None]:
    """Return the match for each question; None if the key or connection does not exist or the name is ambiguous."""
    matches: list[list[Match]] = [[] for _ in questions]
    keys: dict[int, ApiKey] = {}  # many calls may use the same key
    for row in _rows(questions, now):
        matches[row[0]].append(_match(row, keys))
    return [rows[0] if len(rows) == 1 else None for rows in matches]


def _rows(questions: Sequence[Question], now: datetime) -> list[tuple[Any, ...]]:
    if database.vendor == "postgresql":
        calls: list[Any] = [
            list(range(len(questions))),
            [question.prefix for question in questions],
            [question.pk for question in questions],
            [question.name for question in questions],
        ]
    else:
        calls = [json.dumps([(question.prefix, question.pk, question.name) for question in questions])]
    has_names = any(question.name is not None for question in questions)
    statement = _statement(database.vendor, has_names)
    parameters = [*calls, *[database.ops.adapt_datetimefield_value(now)] * (2 if has_names else 1)]
    if database.vendor != "postgresql":
        with database.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())
    database.ensure_connection()
    connection: Any = database.connection
    # Django turns prepared statements off, but planning this one takes longer than running it.
    connection.prepare_threshold = 5
    with database.wrap_database_errors, psycopg.Cursor(connection) as cursor:
        return list(cursor.execute(statement, parameters).fetchall())


@cache
def _statement(vendor: str, has_names: bool) -> str:
    return _STATEMENT.replace("{by_name}", _BY_NAME if has_names else "").format(
        calls=_CALLS[vendor],
        key_columns=_listed("key", _KEY_COLUMNS),
        owner_columns=_listed("owner", _OWNER_COLUMNS),
        connection_columns=_listed("connection", _CONNECTION_COLUMNS),
        app_columns=_listed("app", _APP_COLUMNS),
        keys=ApiKey._meta.db_table,
        chosen=ApiKey.connections.through._meta.db_table,
        users=User._meta.db_table,
        memberships=User.groups.through._meta.db_table,
        connections=Connection._meta.db_table,
        apps=AppRegistration._meta.db_table,
        shares=Share._meta.db_table,
        share_counts=_SHARE_COUNTS,
        share_with_owner=_SHARE_WITH_OWNER,
        it_admins=IT_ADMINS,
        auditors=AUDITORS,
    )


def _listed(table: str, columns: tuple[str, ...]) -> str:
    return ", ".join(f"{table}.{column} AS {table}__{column}" for column in columns)


_KEY_START = 3
_OWNER_START = _KEY_START + len(_KEY_COLUMNS)
_CONNECTION_START = _OWNER_START + len(_OWNER_COLUMNS) + 2
_APP_START = _CONNECTION_START + len(_CONNECTION_COLUMNS)


def _match(row: tuple[Any, ...], keys: dict[int, ApiKey]) -> Match:
    if (key := keys.get(row[_KEY_START])) is None:
        key = ApiKey.from_db("default", _KEY_COLUMNS, _values(_KEY_COLUMNS, row, _KEY_START))
        key.owner = User.from_db("default", _OWNER_COLUMNS, _values(_OWNER_COLUMNS, row, _OWNER_START))
        keys[key.pk] = key
    connection = dict(zip(_CONNECTION_COLUMNS, _values(_CONNECTION_COLUMNS, row, _CONNECTION_START), strict=True))
    app = dict(zip(_APP_COLUMNS, _values(_APP_COLUMNS, row, _APP_START), strict=True))
    return Match(key, connection, app, bool(row[-1]))


def _values(columns: tuple[str, ...], row: tuple[Any, ...], start: int) -> list[Any]:
    return [_python(column, row[start + place]) for place, column in enumerate(columns)]


def _python(column: str, value: Any) -> Any:
    """The value as the ORM would return it."""
    if value is None:
        return None
    if column in _MOMENTS:
        moment = parse_datetime(value) if isinstance(value, str) else value
        return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
    if column in ("scopes", "networks"):
        return json.loads(value) if isinstance(value, str) else value
    return value
