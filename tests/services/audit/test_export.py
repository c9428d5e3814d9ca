"""Exports contain exactly the filtered rows, and each export is itself recorded."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from connections import audit
from connections.errors import NotAllowed
from connections.models import AuditEvent, AuditSeal, Connection, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import export as audit_export
from connections.services.audit import recorded_export, sealing
from tests import factories

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def trail(bob: User) -> Connection:
    """4,500 events about a connection whose name is a spreadsheet formula, and two token requests."""
    connection = factories.make_connection(owner=bob, name="=HYPERLINK(1)")
    for number in range(3):
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, changes={"n": number, "text": "ü"})
    first = AuditEvent.objects.latest("pk")
    columns = [field.attname for field in AuditEvent._meta.concrete_fields if not field.primary_key]
    AuditEvent.objects.bulk_create(
        [AuditEvent(**{name: getattr(first, name) for name in columns}) for _ in range(4497)], batch_size=500
    )
    key, _ = factories.make_key(bob)
    for minute in range(2):
        api_keys.record_token_request(key, connection, address="10.0.0.1", now=NOW - timedelta(minutes=minute))
    return connection


def export(actor: User, file_format: str = "jsonl", **filters: Any) -> list[str]:
    events, fetches = AuditEvent.objects.all(), TokenFetch.objects.all()
    return list(audit_export.export(events, fetches, file_format=file_format, filters=filters, actor=actor))


def test_it_contains_every_row_exactly_as_sealed(trail: Connection, carol: User) -> None:
    sealing.seal_due(NOW + timedelta(hours=1))
    chunks = export(carol)
    lines = "".join(chunks).splitlines()
    rows = [json.loads(line) for line in lines]
    events, fetches = rows[:4500], rows[4500:]
    pks = AuditEvent.objects.exclude(action__startswith="audit.").order_by("pk").values_list("pk", flat=True)
    assert [row["id"] for row in events] == list(pks)
    assert [row["id"] for row in fetches] == list(TokenFetch.objects.order_by("pk").values_list("pk", flat=True))
    assert max(chunk.count("\n") for chunk in chunks) <= audit_export.CHUNK
    second = AuditSeal.objects.get(number=2)
    text = "".join(f"{line}\n" for line in lines[1000:2000])
    assert hashlib.sha256(text.encode()).hexdigest() == second.events_hash


def test_csv_cells_contain_no_formulas(trail: Connection, carol: User) -> None:
    rows = list(csv.DictReader(io.StringIO("".join(export(carol, "csv")).removeprefix("\ufeff"))))
    assert len(rows) == 4500 + 2
    assert rows[0]["on_name"] == "'=HYPERLINK(1)"
    assert json.loads(rows[1]["changes"]) == {"n": 1, "text": "ü"}
    assert (rows[-1]["kind"], rows[-1]["count"], rows[-1]["address"]) == ("token_fetch", "1", "10.0.0.1")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"])
def test_every_start_of_a_formula_is_escaped(text: str) -> None:
    assert audit_export.csv_cell(text) == f"'{text}"


def test_an_export_is_recorded_with_its_filters_and_number_of_rows(trail: Connection, carol: User) -> None:
    export(carol, "csv", who="bob", q="")
    started, ended = AuditEvent.objects.filter(action__startswith="audit.").order_by("pk")
    assert started.action == "audit.export_started"
    assert (ended.action, ended.actor, ended.outcome) == ("audit.exported", carol, "done")
    assert (ended.changes["rows"], ended.changes["complete"], ended.changes["who"]) == (4502, True, "bob")
    assert "q" not in ended.changes


def test_an_aborted_export_is_recorded_as_failed(trail: Connection, carol: User) -> None:
    chunks = audit_export.export(AuditEvent.objects.all(), None, file_format="jsonl", filters={}, actor=carol)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    event = AuditEvent.objects.get(action="audit.exported")
    assert (event.outcome, event.changes["complete"]) == ("failed", False)


def test_only_auditors_export(trail: Connection, alice: User) -> None:
    with pytest.raises(NotAllowed):
        export(alice)


def test_the_page_is_exported(trail: Connection, carol: User, alice: User, signed_in: Callable[[User], Client]) -> None:
    audit.record(AuditAction.TENANT_CHANGED, trail.app_registration.tenant, actor=alice)
    response = signed_in(carol).post("/audit/export/", {"format": "jsonl", "action": "tenant.changed"})
    (line,) = b"".join(response.streaming_content).splitlines()  # type: ignore[attr-defined]
    assert json.loads(line)["action"] == "tenant.changed"
    assert response["Content-Type"] == "application/x-ndjson"
    assert response["Content-Disposition"].startswith('attachment; filename="audit-')
    event = AuditEvent.objects.get(action="audit.exported")
    assert event.address == "127.0.0.1"
    assert event.changes["action"] == "tenant.changed"
    assert signed_in(carol).post("/audit/export/", {"format": "exe"}).status_code == 400
    assert signed_in(carol).post("/audit/export/", {"date_from": "x"}).status_code == 400


def test_an_aborted_download_of_a_list_is_recorded_with_the_rows_that_left(carol: User) -> None:
    rows = recorded_export.of_list(iter("abc"), name="Connections", filters={"q": "x", "tag": ""}, actor=carol)
    assert AuditEvent.objects.get().action == "list.export_started"
    assert next(rows) == "a"
    rows.close()  # type: ignore[attr-defined]
    event = AuditEvent.objects.get(action="list.exported")
    assert (event.outcome, event.changes) == ("failed", {"q": "x", "rows": 1, "complete": False})
