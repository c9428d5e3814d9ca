"""Thousands of rows of everything beside those of full_dataset, loaded set-based into PostgreSQL.

Each row is a copy of one in full_dataset with some columns changed, so new columns need no work here. The people of
full_dataset keep the same number of own rows at any size: what grows is the organisation.
"""

from dataclasses import dataclass, field
from typing import Any

from django.db import connection as database
from django.db.models import Model
from django.utils import timezone

from connections import models
from connections.services.api_keys import api_keys
from connections.services.operations import tallies
from connections.services.sharing import history
from tests.full_dataset import World

BASE = 10_000_000  # ids of copies begin above it
OWN = 40  # connections of bob; as many are shared with una, and with tina's team


@dataclass(frozen=True)
class Copies:
    """``count`` copies of the row of ``model``; ``columns`` are SQL expressions, in which n is the copy's number."""

    model: type[Model]
    count: int
    columns: dict[str, str] = field(default_factory=dict)
    pk: int | None = None  # of the row; by default the first one


def fill(world: World, connections: int, *, after: int = 0) -> None:
    """Grow the organisation from ``after`` to so many connections, and gather statistics for the planner."""
    if not after:
        _complete(world)
    before = {item.model: item.count for item in _copies(world, after)} if after else {}
    with database.cursor() as cursor:
        for item in _copies(world, connections):
            _insert(cursor, item, before.get(item.model, 0))
        tallies.add_up()
        cursor.execute("ANALYZE")


def _complete(world: World) -> None:
    """Create the rows to copy that full_dataset has none of."""
    now = timezone.now()
    api_keys.record_token_request(world.key, world.connection, address="192.0.2.7", now=now)
    history.ownership_began(world.connection, actor=None, now=now)


def _insert(cursor: Any, item: Copies, first: int) -> None:
    options = item.model._meta
    columns = {str(column.column): f't."{column.column}"' for column in options.concrete_fields}
    columns |= {"id": f"{BASE} + n", **item.columns}
    names = ", ".join(f'"{name}"' for name in columns)
    where = f"WHERE t.id = {item.pk}" if item.pk else ""
    cursor.execute(
        f"INSERT INTO {options.db_table} ({names}) SELECT {', '.join(columns.values())} "
        f"FROM (SELECT * FROM {options.db_table} t {where} ORDER BY id LIMIT 1) t, "
        f"generate_series({first + 1}, {item.count}) n"
    )


def _copies(world: World, size: int) -> list[Copies]:
    """List what to copy, in the order of foreign keys."""
    people, tenants, apps = max(20, size // 50), max(2, size // 5000), max(2, size // 1000)
    boxes, teams, keys, incidents = max(5, size // 5), max(4, size // 500), max(5, size // 20), max(300, size // 100)
    bob, una, tina = (world.people[name].pk for name in ("bob", "una", "tina"))
    accounting = models.TeamMember.objects.get(user=tina).team_id

    def pick(count: int, spread: str = "n") -> str:
        return f"{BASE} + 1 + ({spread}) % {count}"

    owner = f"CASE WHEN n <= {OWN} THEN {bob} ELSE {pick(people)} END"
    ago = f"now() - ({size} - n) * interval '3 seconds'"
    with_team = f"n % 3 = 0 AND n > {3 * OWN}"
    person = f"CASE WHEN n BETWEEN {OWN + 1} AND {2 * OWN} THEN {una} ELSE {pick(people, 'n * 7 + 3')} END"
    team = f"CASE WHEN n BETWEEN {2 * OWN + 1} AND {3 * OWN} THEN {accounting} ELSE {pick(teams)} END"
    is_team = f"({with_team} OR n BETWEEN {2 * OWN + 1} AND {3 * OWN})"
    status = """CASE n % 100 WHEN 1 THEN 'reconnect_needed' WHEN 2 THEN 'consent_needed' WHEN 3 THEN 'blocked'
        WHEN 4 THEN 'disabled' WHEN 5 THEN 'pending' ELSE 'active' END"""
    done = "CASE WHEN n % 10 = 0 THEN NULL ELSE now() END"
    return [
        Copies(
            models.User,
            people,
            {
                "username": "'person' || n || '@contoso.example'",
                "email": "'person' || n || '@contoso.example'",
                "first_name": "(ARRAY['Anna', 'Bernd', 'Chloe', 'Deniz', 'Eva'])[1 + n % 5]",
                "last_name": "'Surname' || n",
                "left_at": "CASE WHEN n % 50 = 0 THEN now() END",
            },
            bob,
        ),
        Copies(
            models.Tenant,
            tenants,
            {"name": "'Tenant ' || n", "directory_id": "gen_random_uuid()::text", "tid": "gen_random_uuid()::text"},
        ),
        Copies(
            models.AppRegistration,
            apps,
            {
                "name": "'App registration ' || n",
                "client_id": "gen_random_uuid()::text",
                "tenant_id": pick(tenants),
                "rejected_at": "CASE WHEN n % 100 = 0 THEN now() END",
            },
        ),
        Copies(models.AppConsent, apps, {"app_registration_id": f"{BASE} + n", "tenant_id": pick(tenants)}),
        Copies(
            models.AppCredential,
            apps,
            {
                "app_registration_id": f"{BASE} + n",
                "identity": "gen_random_uuid()",
                "expires_at": "now() + (1 + n % 400) * interval '1 day'",
            },
        ),
        Copies(
            models.Connection,
            size,
            {
                "name": "(ARRAY['Invoices', 'Payroll', 'Support inbox', 'Sales'])[1 + n % 4] || ' ' || n",
                "app_registration_id": pick(apps),
                "app_consent_id": pick(apps),
                "tenant_id": f"{BASE} + 1 + (1 + n % {apps}) % {tenants}",
                "owner_id": owner,
                "identity": "gen_random_uuid()",
                "account_username": "'account' || n || '@contoso.example'",
                "account_oid": "gen_random_uuid()::text",
                "status": status,
                "status_since": ago,
                "connected_at": ago,
                "refreshed_at": "now() - CASE WHEN n % 100 IN (2, 3, 4) THEN n % 80 ELSE 0 END * interval '1 day'",
                "refresh_after": "now() + (n % 3600) * interval '1 second'",
                "sign_in_max_age": "CASE WHEN n % 20 = 0 THEN 86400 * 30 END",
                "granted_scopes": "(ARRAY['Mail.Read', 'Mail.Read Files.Read', 'Calendars.Read'])[1 + n % 3]",
            },
            world.connection.pk,
        ),
        Copies(
            models.SharedMailbox,
            boxes,
            {"address": "'box' || n || '@contoso.example'", "display_name": "'Box ' || n", "tenant_id": pick(tenants)},
        ),
        Copies(
            models.MailboxAccess,
            size // 4,
            {
                "connection_id": f"{BASE} + 4 * n - 3",
                "mailbox_id": pick(boxes),
                "state": "CASE WHEN n % 50 = 0 THEN 'unreachable' ELSE 'reachable' END",
                "probe_after": "now() + (n % 3600) * interval '1 second'",
            },
        ),
        Copies(models.Team, teams, {"name": "'Team ' || n", "entra_group": "''"}),
        Copies(models.TeamMember, people, {"team_id": pick(teams), "user_id": f"{BASE} + n"}),
        Copies(
            models.Share,
            size,
            {
                "connection_id": f"{BASE} + n",
                "person_id": f"CASE WHEN NOT {is_team} THEN {person} END",
                "team_id": f"CASE WHEN {is_team} THEN {team} END",
                "until": "CASE WHEN n % 5 = 0 THEN now() + (1 + n % 300) * interval '1 day' END",
                "ended_at": "CASE WHEN n % 10 = 9 THEN now() END",
                "created_by_id": owner,
            },
        ),
        Copies(
            models.ApiKey,
            keys,
            {
                "name": "'Robot ' || n",
                "owner_id": pick(people),
                "prefix": "lpad(n::text, 10, 'k')",
                "previous_prefix": "NULL",
                "digest": "md5(n::text) || md5(n::text)",
                "expires_at": "now() + (1 + n % 400) * interval '1 day'",
                "revoked_at": "CASE WHEN n % 10 = 0 THEN now() END",
            },
        ),
        Copies(
            models.ConnectionReference,
            size // 50,
            {"name": "'reference-' || n", "connection_id": f"{BASE} + 50 * n", "owner_id": owner},
        ),
        Copies(
            models.AuditEvent,
            2 * size,
            {
                "at": f"now() - (2 * {size} - n) * interval '3 seconds'",
                "action": "(ARRAY['connection.created', 'connection.changed', 'share.created', 'account.signed_in',"
                " 'api_key.issued', 'connection.reconnected'])[1 + n % 6]",
                "outcome": "CASE WHEN n % 40 = 0 THEN 'denied' ELSE 'done' END",
                "actor_id": pick(people),
                "actor_ref": pick(people),
                "actor_name": f"'Person ' || (1 + n % {people}) || ' <person' || (1 + n % {people}) || '>'",
                "target_id": f"(CASE WHEN n % 500 = 0 THEN {world.connection.pk} ELSE {pick(size)} END)::text",
                "target_name": f"'Invoices ' || n % {size}",
                "owner_id": pick(people, "n * 3"),
            },
            world.event.pk,
        ),
        Copies(
            models.TokenFetch,
            2 * size,
            {
                "connection_id": pick(size),
                "connection_ref": pick(size),
                "connection_name": f"'Invoices ' || n % {size}",
                "key_id": pick(keys),
                "key_ref": pick(keys),
                "minute": "date_trunc('minute', now()) - n * interval '1 minute'",
            },
        ),
        Copies(
            models.Incident,
            incidents,
            {
                "key": "'copy:' || n",
                "kind": "'account'",
                "title": "'Invoices ' || n || ' needs a sign-in'",
                "assignee_id": pick(people),
                "mailbox_id": "NULL",
                "opened_at": ago,
                "closed_at": done,
            },
        ),
        Copies(
            models.AffectedConnection,
            size // 50,
            {
                "incident_id": pick(incidents),
                "connection_id": f"{BASE} + 50 * n",
                "owner_id": owner,
                "healed_at": f"CASE WHEN (1 + n % {incidents}) % 10 = 0 THEN NULL ELSE now() END",
            },
        ),
        Copies(
            models.Delivery,
            max(5, size // 50),
            {"key": "'copy:' || n", "delivered_at": done, "given_up_at": "CASE WHEN n % 20 = 0 THEN now() END"},
        ),
        Copies(
            models.Notification,
            size // 10,
            {"key": "'copy:' || n", "user_id": pick(people), "created_at": ago},
        ),
        Copies(
            models.Approval,
            size // 100,
            {
                "connection_id": f"{BASE} + 100 * n",
                "requested_by_id": pick(people),
                "requested_at": ago,
                "state": "CASE WHEN n % 10 = 0 THEN 'waiting' ELSE 'approved' END",
                "decided_at": done,
            },
        ),
        Copies(
            models.ChangeRequest,
            size // 200,
            {
                "connection_id": f"{BASE} + 200 * n",
                "requested_by_id": pick(people),
                "state": "CASE WHEN n % 10 = 0 THEN t.state ELSE 'declined' END",
                "decided_at": done,
            },
        ),
        Copies(
            models.ConsentRequest,
            size // 100,
            {
                "connection_id": f"{BASE} + 100 * n",
                "requester_id": pick(people),
                "asked_at": ago,
                "closed_at": done,
                "state": "CASE WHEN n % 10 = 0 THEN t.state ELSE 'verified' END",
            },
        ),
        Copies(
            models.AccessPeriod,
            size,
            {
                "kind": "'owner'",
                "connection_id": f"{BASE} + n",
                "connection_name": "'Invoices ' || n",
                "person_id": owner,
                "team_id": "NULL",
                "share_id": "NULL",
                "ended_at": "NULL",
                "started_at": ago,
            },
        ),
        Copies(
            models.ReviewItem,
            size // 10,
            {"share_id": f"{BASE} + 10 * n", "connection_id": f"{BASE} + 10 * n", "connection_name": "'Invoices ' || n",
             "owner_id": owner, "decision": "CASE WHEN n % 10 = 0 THEN 'open' ELSE 'confirmed' END",
             "decided_at": done},
        ),
    ]  # fmt: skip
