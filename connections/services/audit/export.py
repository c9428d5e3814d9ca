"""Taking the audit trail away as a file, of any size and in constant memory; that somebody did is recorded.

Rows come in the order of their ids, events first, then token hand-outs, so that sealed lines stand as they were sealed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from django.db.models import Max, QuerySet, TextChoices

from connections import audit
from connections.access import permissions, roles
from connections.models import AuditEvent, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.audit import serialization

CHUNK = 5000  # rows held in memory


class Format(TextChoices):
    """How the rows are written."""

    CSV = "csv", "CSV (for spreadsheets)"
    JSONL = "jsonl", "JSON Lines (as sealed)"


COLUMNS = (
    "kind",
    "id",
    "time_utc",
    "action",
    "outcome",
    "who",
    "who_id",
    "on_type",
    "on_id",
    "on_name",
    "changes",
    "count",
    "address",
    "api_key",
    "api_key_id",
    "owner_id",
    "request_id",
)


def require_permission(actor: User) -> None:
    """Raises NotAllowed unless the actor may take the trail away."""
    roles.require(permissions.can_export_audit(actor), cause="Only auditors export.", action="Ask one of them.")


def export(
    events: QuerySet[AuditEvent] | None,
    fetches: QuerySet[TokenFetch] | None,
    *,
    form: str,
    asked: dict[str, Any],
    actor: User,
) -> Iterator[str]:
    """The rows as text, some thousand at a time; ``asked`` says in the trail what was filtered for.

    The trail notes the beginning at once, and the end with the number of rows, also when it breaks off; a
    beginning without an end is of somebody who went away before the first row. What is recorded after the beginning is
    not in it. Raises NotAllowed.
    """
    require_permission(actor)
    last = {
        "last_event": AuditEvent.objects.aggregate(last=Max("pk"))["last"] or 0,
        "last_fetch": TokenFetch.objects.aggregate(last=Max("pk"))["last"] or 0,
    }
    facts = {"format": str(form), **{name: value for name, value in asked.items() if value}, **last}
    audit.record(AuditAction.AUDIT_EXPORT_STARTED, audit.TRAIL, actor=actor, changes=facts)
    return _recorded(_within(events, fetches, last), form, facts=facts, actor=actor, came_from=audit.origin.get())


def lines(events: QuerySet[AuditEvent] | None, fetches: QuerySet[TokenFetch] | None) -> Iterator[str]:
    """Each row in its canonical form, without a line feed. Records nothing: who calls it does."""
    for kind, queryset in ((serialization.events(), events), (serialization.fetches(), fetches)):
        if queryset is not None:
            for rows in _chunks(kind, queryset):
                yield from (kind.line(row) for row in rows)


def serialize(found: Iterator[str], form: str) -> Iterator[tuple[int, str]]:
    """Lines of lines() in a format: how many rows, and their text, some thousand at a time."""
    return _as_csv(found) if form == Format.CSV else _as_lines(found)


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


# --- Parts ----------------------------------------------------------------------------------------


def _within(events: Any, fetches: Any, last: dict[str, int]) -> Iterator[str]:
    return lines(
        None if events is None else events.filter(pk__lte=last["last_event"]),
        None if fetches is None else fetches.filter(pk__lte=last["last_fetch"]),
    )


def _recorded(
    found: Iterator[str], form: str, *, facts: dict[str, Any], actor: User, came_from: audit.Origin
) -> Iterator[str]:
    rows, complete = 0, False
    try:
        for count, text in serialize(found, form):
            rows += count
            yield text
        complete = True
    finally:
        # The answer is sent after the request is over, so what it knew of itself must be put back.
        before = audit.origin.set(came_from)
        audit.record(
            AuditAction.AUDIT_EXPORTED,
            audit.TRAIL,
            actor=actor,
            changes={**facts, "rows": rows, "complete": complete},
            outcome=AuditEvent.Outcome.DONE if complete else AuditEvent.Outcome.FAILED,
        )
        audit.origin.reset(before)


def _chunks(kind: serialization.Kind, queryset: QuerySet[Any]) -> Iterator[list[serialization.Row]]:
    """Chunks by key, each a query of its own: no transaction is held open for as long as somebody downloads."""
    ordered, last = queryset.order_by("pk"), None
    while True:
        following = ordered if last is None else ordered.filter(pk__gt=last)
        pks = list(following.values_list("pk", flat=True)[:CHUNK])
        if not pks:
            return
        last = pks[-1]
        if last - pks[0] + 1 == len(pks):  # nothing was filtered out: a range says the same in fewer words
            yield serialization.rows(kind, "id >= %s AND id <= %s", [pks[0], last])
        else:
            yield serialization.rows(kind, f"id IN ({', '.join(['%s'] * len(pks))})", pks)


def _in_batches(found: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in found:
        batch.append(line)
        if len(batch) == CHUNK:
            yield batch
            batch = []
    if batch:
        yield batch


def _as_lines(found: Iterator[str]) -> Iterator[tuple[int, str]]:
    for batch in _in_batches(found):
        yield len(batch), "".join(f"{line}\n" for line in batch)


def _as_csv(found: Iterator[str]) -> Iterator[tuple[int, str]]:
    # The mark at the beginning tells Excel that it is UTF-8.
    yield 0, "\ufeff" + _table([COLUMNS])
    for batch in _in_batches(found):
        yield len(batch), _table([_cells(json.loads(line)) for line in batch])


def _table(rows: list[Any]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def _cells(row: dict[str, Any]) -> list[str]:
    if row["kind"] == "event":
        named = {**row, "time_utc": row["at"], "who": row["actor_name"], "who_id": row["actor_id"]}
        named |= {"on_type": row["target_type"], "on_id": row["target_id"], "on_name": row["target_name"]}
        named["changes"] = json.dumps(row["changes"], ensure_ascii=False) if row["changes"] else ""
    else:
        named = {**row, "time_utc": row["minute"], "action": AuditAction.CONNECTION_TOKEN_FETCHED, "outcome": "done"}
        named |= {"who": row["owner_name"], "on_type": "Connection", "on_id": row["connection_id"]}
        named |= {"on_name": row["connection_name"], "api_key": row["key_name"], "api_key_id": row["key_id"]}
    values = (named.get(column) for column in COLUMNS)
    return ["" if value is None else csv_cell(str(value)) for value in values]
