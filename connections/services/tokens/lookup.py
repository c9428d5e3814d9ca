"""The SQL statement behind token calls. It finds the API key, the connection, the right to use it, and its token.

It does for many calls at once what ``api_keys.authenticate`` and ``access`` do with the ORM, and a test ensures that
the results agree. Secrets, networks and dates are checked by the same functions as everywhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from typing import Any

from django.db import connection as database
from django.utils.dateparse import parse_datetime

from connections import prepared
from connections.access import roles
from connections.models import (
    ApiKey,
    AppConsent,
    AppRegistration,
    Connection,
    ConnectionReference,
    ResourceToken,
    Share,
    Team,
    TeamMember,
    User,
)
from connections.models.accounts import AUDITORS, IT_ADMINS

_KEY_COLUMNS = (
    "id", "name", "owner_id", "prefix", "digest", "scopes", "networks", "rate_limit", "expires_at", "revoked_at",
    "last_used_at", "previous_prefix", "previous_digest", "previous_until", "previous_used_at",
)  # fmt: skip
_OWNER_COLUMNS = ("id", "username", "first_name", "last_name", "is_active", "left_at")
_CONNECTION_COLUMNS = (
    "id", "name", "app_registration_id", "status", "status_cause", "status_action", "expires_at", "granted_scopes",
    "access_token", "identity", "trouble_at", "resource",
)  # fmt: skip
_RESOURCE_COLUMNS = (
    "expires_at", "granted_scopes", "access_token", "identity", "trouble_at", "problem_code", "problem_at",
    "resource",
)  # fmt: skip
# Whether Microsoft rejects the app registration (everywhere or in the connection's tenant), or throttles it there.
_APP_COLUMNS = ("rejected_at", "paused_until")
_MOMENTS = {"expires_at", "revoked_at", "last_used_at", "previous_until", "previous_used_at", "trouble_at"}
_MOMENTS |= {"rejected_at", "paused_until", "left_at", "problem_at"}

_CALLS = {
    "postgresql": """SELECT * FROM json_to_recordset(%s::json)
        AS call (n int, prefix text, pk bigint, name text, resource text)""",
    "sqlite": """SELECT value ->> 'n' AS n, value ->> 'prefix' AS prefix, value ->> 'pk' AS pk,
        value ->> 'name' AS name, value ->> 'resource' AS resource FROM json_each(%s)""",
}
_STATEMENT = """
WITH call AS ({calls}),
bearer AS (
    SELECT call.n, call.pk AS wanted_pk, call.name AS wanted_name, call.resource AS wanted_resource,
        {key_columns}, {owner_columns},
        key.only_chosen AS only_chosen, owner.is_superuser AS is_superuser,
        owner.roles_read_at AS roles_read_at, owner.groups_read_at AS groups_read_at,
        {referenced} AS referenced_pk
    FROM call
    JOIN {keys} AS key ON key.prefix = call.prefix OR key.previous_prefix = call.prefix
    JOIN {users} AS owner ON owner.id = key.owner_id AND owner.left_at IS NULL
)
{wanted}
SELECT bearer.*, {connection_columns},
    COALESCE(app.rejected_at, consent.rejected_at) AS app__rejected_at, consent.paused_until AS app__paused_until,
    {resource_columns}
    connection.id = referenced_pk AND connection.name <> wanted_name AS by_reference,
    connection.owner_id = owner__id OR EXISTS (
        SELECT 1 FROM {shares} AS share
        WHERE share.connection_id = connection.id AND {share_counts} AND {share_with_owner}
    ) AS may_use
FROM bearer
{join_connection}
JOIN {apps} AS app ON app.id = connection.app_registration_id
JOIN {consents} AS consent ON consent.id = connection.app_consent_id
{join_resource}
WHERE NOT only_chosen OR EXISTS (
    SELECT 1 FROM {chosen} AS chosen WHERE chosen.apikey_id = key__id AND chosen.connection_id = connection.id
)
"""
# Used only if a call names a resource.
_JOIN_RESOURCE = f"""LEFT JOIN {ResourceToken._meta.db_table} AS other
    ON other.connection_id = connection.id AND other.resource = bearer.wanted_resource"""
# The connection at which a reference of this name points: the organisation's reference, or the owner's own default.
_REFERENCED = """coalesce(
            (SELECT connection_id FROM {references} AS reference
                WHERE reference.name = call.name AND connector = '' AND removed_at IS NULL),
            (SELECT connection_id FROM {references} AS reference
                WHERE reference.name = call.name AND owner_id = owner.id AND connector <> '' AND removed_at IS NULL)
        )"""
_JOIN_BY_ID = "JOIN {connections} AS connection ON connection.id = wanted_pk"
_JOIN_WANTED = """JOIN wanted ON wanted.n = bearer.n
JOIN {connections} AS connection ON connection.id = wanted.id"""
# Finds connections by ID, or by name among those the key's owner can see. Omitted if every call gives an ID.
_WANTED = """, wanted AS (
    SELECT n, connection.id FROM bearer JOIN {connections} AS connection ON connection.id = wanted_pk
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
    WHERE wanted_name IS NOT NULL AND {oversees}
    UNION
    SELECT n, connection.id FROM bearer JOIN {connections} AS connection ON connection.id = referenced_pk
    WHERE connection.owner_id = owner__id OR {oversees} OR EXISTS (
        SELECT 1 FROM {shares} AS share
        WHERE share.connection_id = connection.id AND {share_counts} AND {share_with_owner}
    )
)"""
_OVERSEES = """(is_superuser OR (roles_read_at IS NULL OR roles_read_at > %s) AND EXISTS (
        SELECT 1 FROM {memberships} AS membership JOIN auth_group ON auth_group.id = membership.group_id
        WHERE membership.user_id = owner__id AND auth_group.name IN ('{it_admins}', '{auditors}')
    ))"""
_SHARE_COUNTS = "share.ended_at IS NULL AND (share.until IS NULL OR share.until > %s)"
_SHARE_WITH_OWNER = f"""(share.person_id = owner__id OR share.team_id IN (
    SELECT team_id FROM {TeamMember._meta.db_table} AS member
    JOIN {Team._meta.db_table} AS team ON team.id = member.team_id
    WHERE member.user_id = owner__id AND (team.entra_group = '' OR groups_read_at IS NULL OR groups_read_at > %s)
))"""  # noqa: S608 - a name of our own table


@dataclass(frozen=True, slots=True)
class Question:
    """What one call requests: the prefix of its key, the connection by ID, name or reference, and the resource."""

    prefix: str
    pk: int | None
    name: str | None
    resource: str = ""  # empty: the connection's own resource


@dataclass(slots=True)
class Match:
    """A call's API key, not authenticated yet, and the one connection the call names that this key can see."""

    key: ApiKey  # with its owner; has only the fields needed for authentication
    connection: dict[str, Any]  # its columns; the access token is still encrypted
    app: dict[str, Any]
    may_use: bool  # whether the key's owner may fetch the connection's token
    by_reference: bool  # whether the call names a reference instead of the connection
    # The columns of the ResourceToken, if the call names a resource other than the connection's own and there is one.
    other: dict[str, Any] | None = None


def find(questions: Sequence[Question], *, now: datetime) -> list[Match | None]:
    """Return the match for each question. None: the key or connection does not exist, or the name is ambiguous."""
    matches: list[list[Match]] = [[] for _ in questions]
    keys: dict[int, ApiKey] = {}  # many calls may use the same key
    for row in _rows(questions, now):
        matches[row[0]].append(_match(row, keys))
    return [rows[0] if len(rows) == 1 else None for rows in matches]


def _rows(questions: Sequence[Question], now: datetime) -> Sequence[Sequence[Any]]:
    # Pass one JSON text, because arrays of parameters would cost the driver more time than the statement takes.
    calls = json.dumps(
        [
            {"n": n, "prefix": each.prefix, "pk": each.pk, "name": each.name, "resource": each.resource}
            for n, each in enumerate(questions)
        ]
    )
    has_names = any(question.name is not None for question in questions)
    has_resources = any(question.resource for question in questions)
    statement = _statement(database.vendor, has_names, has_resources)
    moment, read_after = map(database.ops.adapt_datetimefield_value, (now, roles.read_after(now)))
    by_name = [moment, read_after, read_after, read_after, moment, read_after] if has_names else []
    parameters = [calls, *by_name, moment, read_after]
    if database.vendor != "postgresql":
        with database.cursor() as cursor:
            cursor.execute(statement, parameters)
            return [_from_sqlite(row, has_resources) for row in cursor.fetchall()]
    return prepared.rows(statement, parameters)


@cache
def _statement(vendor: str, has_names: bool, has_resources: bool) -> str:
    statement = _STATEMENT.replace("{wanted}", _WANTED.replace("{oversees}", _OVERSEES) if has_names else "")
    statement = statement.replace("{join_connection}", _JOIN_WANTED if has_names else _JOIN_BY_ID)
    statement = statement.replace("{referenced}", _REFERENCED if has_names else "CAST(NULL AS bigint)")
    return statement.format(
        calls=_CALLS[vendor],
        key_columns=_listed("key", _KEY_COLUMNS),
        owner_columns=_listed("owner", _OWNER_COLUMNS),
        connection_columns=_listed("connection", _CONNECTION_COLUMNS),
        resource_columns=f"{_listed('other', _RESOURCE_COLUMNS)}," if has_resources else "",
        join_resource=_JOIN_RESOURCE if has_resources else "",
        keys=ApiKey._meta.db_table,
        chosen=ApiKey.connections.through._meta.db_table,
        users=User._meta.db_table,
        memberships=User.groups.through._meta.db_table,
        connections=Connection._meta.db_table,
        apps=AppRegistration._meta.db_table,
        consents=AppConsent._meta.db_table,
        shares=Share._meta.db_table,
        references=ConnectionReference._meta.db_table,
        share_counts=_SHARE_COUNTS,
        share_with_owner=_SHARE_WITH_OWNER,
        it_admins=IT_ADMINS,
        auditors=AUDITORS,
    )


def _listed(table: str, columns: tuple[str, ...]) -> str:
    return ", ".join(f"{table}.{column} AS {table}__{column}" for column in columns)


_KEY_START = 4
_OWNER_START = _KEY_START + len(_KEY_COLUMNS)
_CONNECTION_START = _OWNER_START + len(_OWNER_COLUMNS) + 5
_APP_START = _CONNECTION_START + len(_CONNECTION_COLUMNS)
_RESOURCE_START = _APP_START + len(_APP_COLUMNS)
_OTHERS = ("",) * (_CONNECTION_START - _OWNER_START - len(_OWNER_COLUMNS))
_NAMES = ("",) * _KEY_START + _KEY_COLUMNS + _OWNER_COLUMNS + _OTHERS + _CONNECTION_COLUMNS + _APP_COLUMNS
_NAMES += _RESOURCE_COLUMNS


def _match(row: Sequence[Any], keys: dict[int, ApiKey]) -> Match:
    if (key := keys.get(row[_KEY_START])) is None:
        key = ApiKey.from_db("default", _KEY_COLUMNS, row[_KEY_START:_OWNER_START])
        key.owner = User.from_db("default", _OWNER_COLUMNS, row[_OWNER_START : _OWNER_START + len(_OWNER_COLUMNS)])
        keys[key.pk] = key
    connection = dict(zip(_CONNECTION_COLUMNS, row[_CONNECTION_START:_APP_START], strict=True))
    app = dict(zip(_APP_COLUMNS, row[_APP_START:_RESOURCE_START], strict=True))
    other = None
    if len(row) > _RESOURCE_START + 2:
        other = dict(zip(_RESOURCE_COLUMNS, row[_RESOURCE_START:-2], strict=True))
    has_other = other is not None and other["identity"] is not None
    return Match(key, connection, app, bool(row[-1]), bool(row[-2]), other if has_other else None)


def _from_sqlite(row: tuple[Any, ...], has_resources: bool) -> list[Any]:
    """Return the row as PostgreSQL would return it."""
    names = _NAMES if has_resources else _NAMES[:_RESOURCE_START]
    return [_python(name, value) for name, value in zip_longest(names, row, fillvalue="")]


def _python(column: str, value: Any) -> Any:
    if value is None:
        return None
    if column in _MOMENTS:
        moment = parse_datetime(value) if isinstance(value, str) else value
        return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
    return json.loads(value) if column in ("scopes", "networks") else value
