"""``make bench-audit``: seal, verify and export an audit trail of a million events on PostgreSQL.

Prints seconds and rows per second of each, and the additional memory that the export uses. Before and after, one event
in the middle is altered, which must be detected.

The exit code is 1 if verifying takes longer than a minute, exporting takes more than 50 MB, the export does not contain
exactly the rows, or the altered event is not reported.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import django
import psutil
from cryptography.fernet import Fernet

from portal.dev_servers import PostgreSQL

ROOT = Path(__file__).resolve().parent.parent
LONGEST_VERIFICATION = 60.0  # seconds
MOST_MEMORY_MB = 50.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events in the trail (default 1,000,000)")
    options = parser.parse_args()
    directory = ROOT / ".cache" / "bench" / str(os.getpid())
    directory.mkdir(parents=True)
    server = PostgreSQL(directory / "postgres", fast=False)
    try:
        prepare(server.create_database("portal"), options.events)
        troubles = measure(options.events)
    finally:
        from django.db import connections

        connections.close_all()
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    for trouble in troubles:
        print(f"MISSED: {trouble}")
    return int(bool(troubles))


def prepare(database_url: str, count: int) -> None:
    """Create an audit trail with many kinds of events with changes, and a tenth as many token requests."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DATABASE_URL": database_url,
        "LOG_LEVEL": "WARNING",
    }
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from connections.models import User

    call_command("migrate", verbosity=0)
    bob = User.objects.create_user("bob", first_name="Bob", last_name="Member")
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO connections_auditevent (at, action, outcome, actor_id, actor_ref, actor_name, target_type,
                target_id, target_name, changes, owner_id, request_id, address)
            SELECT now() - (%(count)s - n) * interval '30 seconds',
                (ARRAY['connection.changed', 'connection.reconnected', 'account.signed_in', 'tenant.changed'])[1 + n %% 4],
                (ARRAY['done', 'done', 'done', 'failed'])[1 + n / 7 %% 4], %(bob)s, %(bob)s, 'Bob Member <bob>', 'Connection',
                (n %% 5000)::text, 'Invoices of région ' || n %% 5000,
                jsonb_build_object('name', jsonb_build_array('Invoices ' || n, 'Invoices ' || n + 1), 'n', n),
                %(bob)s, gen_random_uuid()::text, ('10.1.' || n %% 200 || '.' || n %% 250)::inet
            FROM generate_series(1, %(count)s) AS n
            """,
            {"count": count, "bob": bob.pk},
        )
        cursor.execute(
            """
            INSERT INTO connections_tokenfetch (key_ref, key_name, owner_name, connection_ref, connection_name, minute,
                address, count)
            SELECT n %% 50, 'Robot ' || n %% 50, 'Bob Member <bob>', n %% 5000, 'Invoices',
                date_trunc('minute', now()) - (%s - n) * interval '5 minutes', '10.1.2.3', 1 + n %% 9
            FROM generate_series(1, %s) AS n
            """,
            [count // 10, count // 10],
        )
        cursor.execute("VACUUM ANALYZE connections_auditevent, connections_tokenfetch")


def measure(count: int) -> list[str]:
    """Seal, verify, export and tamper; returns the limits that were missed."""
    from django.utils import timezone

    from connections.models import AuditEvent, AuditSeal, TokenFetch
    from connections.services.audit import export, sealing, verification

    rows, troubles = count + count // 10, []
    began = time.monotonic()
    seals = 0
    while sealed := sealing.seal_due(timezone.now() + timedelta(minutes=5)):
        seals += sealed
    print_row("seal", rows, time.monotonic() - began, f"{seals:,} seals")

    began, used = time.monotonic(), time.process_time()
    checked, findings = verification.verify_read_only()
    took, used = time.monotonic() - began, time.process_time() - used
    print_row("verify", checked, took, f"{used:.1f} CPU-s, {'intact' if not findings else findings[0].what}")
    if took > LONGEST_VERIFICATION:
        troubles.append(f"verifying took {took:.0f} s, the limit is {LONGEST_VERIFICATION:.0f} s")
    if findings or checked != rows:
        troubles.append(f"{checked:,} of {rows:,} rows were verified, {len(findings)} findings")

    for form in export.Format:
        lines = export.lines(AuditEvent.objects.all(), TokenFetch.objects.all())
        written, peak, took = watch(chunk for _, chunk in export.serialize(lines, form))
        print_row(f"export {form}", rows, took, f"{written / 1e6:,.0f} MB written, {peak:.1f} MB of memory on top")
        if peak > MOST_MEMORY_MB:
            troubles.append(f"exporting took {peak:.0f} MB of memory, the limit is {MOST_MEMORY_MB:.0f} MB")
    exported = sum(1 for _ in export.lines(AuditEvent.objects.all(), TokenFetch.objects.all()))
    if exported != rows:
        troubles.append(f"the export holds {exported:,} of {rows:,} rows")

    victim = AuditSeal.objects.get(number=seals // 2)
    pk = (victim.events_after + victim.events_upto) // 2
    alter(pk)
    began = time.monotonic()
    _, findings = verification.verify_read_only()
    breaks = [(finding.seal, finding.what) for finding in findings]
    print_row(
        "verify, one altered",
        rows,
        time.monotonic() - began,
        f"seal {breaks[0][0]}: {breaks[0][1]}" if breaks else "not found",
    )
    if breaks != [(victim.number, f"Event {pk} was altered.")]:
        troubles.append(f"event {pk} was altered, found was {breaks[:3]}")
    return troubles


def alter(pk: int) -> None:
    """Alter one event, as the database's owner could."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE connections_auditevent DISABLE TRIGGER USER")
        cursor.execute("UPDATE connections_auditevent SET actor_name = 'Somebody else' WHERE id = %s", [pk])
        cursor.execute("ALTER TABLE connections_auditevent ENABLE TRIGGER USER")


def watch(chunks: Iterator[str]) -> tuple[int, float, float]:
    """Download an export; returns bytes, additional peak memory (MB) and seconds."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    written, began = 0, time.monotonic()
    for chunk in chunks:
        written += len(chunk.encode())
        peak = max(peak, process.memory_info().rss)
    return written, (peak - before) / 1024 / 1024, time.monotonic() - began


def print_row(what: str, rows: int, took: float, more: str) -> None:
    print(f"{what:<20} {rows:>10,} rows {took:7.1f} s {rows / max(took, 0.001):>10,.0f} rows/s   {more}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
