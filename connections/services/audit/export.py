"""Export the audit trail in constant memory, in the order in which it was sealed. Each export is recorded."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.db.models import Max, QuerySet, TextChoices

from connections import audit
from connections.access import permissions, roles
from connections.models import AuditEvent, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.audit import recorded_export, serialization

CHUNK = 5000  # rows held in memory at a time


class Format(TextChoices):
    CSV = "csv", "CSV (for spreadsheets)"
    JSONL = "jsonl", "JSON Lines (as sealed)"


COLUMNS = (
    "kind", "id", "time_utc", "action", "outcome", "who", "who_id", "on_type", "on_id", "on_name",
    "changes", "count", "address", "api_key", "api_key_id", "owner_id", "request_id",
)  # fmt: skip


def require_permission(actor: User) -> None:
    roles.require(
        permissions.can_export_audit(actor), cause="Only auditors can export the audit trail.", action="Ask an auditor."
    )


def export(
    events: QuerySet[AuditEvent] | None,
    fetches: QuerySet[TokenFetch] | None,
    *,
    file_format: str,
    filters: dict[str, Any],
    actor: User,
) -> Iterator[str]:
    """Return the rows as chunks of text; ``filters`` is stored in the audit record. Raises NotAllowed.

    The start is recorded at once, and the end even if the download is aborted. A start without an end means that
    the client left before the first row. Rows recorded after the start are not exported.
    """
    require_permission(actor)
    last_event = AuditEvent.objects.aggregate(last=Max("pk"))["last"] or 0
    last_fetch = TokenFetch.objects.aggregate(last=Max("pk"))["last"] or 0
    facts = {"format": str(file_format), **{name: value for name, value in filters.items() if value}}
    facts |= {"last_event": last_event, "last_fetch": last_fetch}
    events = None if events is None else events.filter(pk__lte=last_event)
    fetches = None if fetches is None else fetches.filter(pk__lte=last_fetch)
    return recorded_export.recorded(
        serialize(lines(events, fetches), file_format),
        actions=(AuditAction.AUDIT_EXPORT_STARTED, AuditAction.AUDIT_EXPORTED),
        target=audit.TRAIL,
        facts=facts,
        actor=actor,
    )


def lines(events: QuerySet[AuditEvent] | None, fetches: QuerySet[TokenFetch] | None) -> Iterator[str]:
    """Yield each row as its canonical line, without a line feed. Does not record the export."""
    for kind, queryset in ((serialization.events(), events), (serialization.fetches(), fetches)):
        if queryset is not None:
            for rows in _chunks(kind, queryset):
                yield from (kind.line(row) for row in rows)


def _chunks(kind: serialization.Kind, queryset: QuerySet[Any]) -> Iterator[list[serialization.Row]]:
    """Page by key with one query per page, so that no transaction stays open during a download."""
    ordered, last = queryset.order_by("pk"), None
    while True:
        following = ordered if last is None else ordered.filter(pk__gt=last)
        pks = list(following.values_list("pk", flat=True)[:CHUNK])
        if not pks:
            return
        last = pks[-1]
        if last - pks[0] + 1 == len(pks):  # nothing was filtered out, so a range selects the same rows
            yield serialization.rows(kind, "id >= %s AND id <= %s", [pks[0], last])
        else:
            yield serialization.rows(kind, f"id IN ({', '.join(['%s'] * len(pks))})", pks)


def serialize(lines: Iterator[str], file_format: str) -> Iterator[tuple[int, str]]:
    is_csv = file_format == Format.CSV
    if is_csv:
        yield 0, "\ufeff" + _csv([COLUMNS])  # the byte order mark tells Excel that this is UTF-8
    while batch := list(islice(lines, CHUNK)):
        text = _csv([_cells(json.loads(line)) for line in batch]) if is_csv else "".join(f"{line}\n" for line in batch)
        yield len(batch), text


def _csv(rows: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


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


def csv_cell(text: str) -> str:
    """Escape a cell that a spreadsheet would otherwise run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
