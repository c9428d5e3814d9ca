import re
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.management import cli
from connections.models import AuditSeal, AuditVerification
from connections.services.audit import guards, published, restores, verification
from connections.services.audit.findings import Finding
from connections.services.audit.published import PublishedSeal


class Command(BaseCommand):
    """``manage.py audit_verify --published seals.jsonl``. The exit code is 1 if the trail is broken."""

    help = "Verify all events and token requests against their seals, and every seal against the previous one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--since", type=int, default=0, metavar="SEAL", help="trust this seal and start after it")
        parser.add_argument(
            "--expect",
            action="append",
            default=[],
            metavar="NUMBER:HASH",
            help="a seal that you know; can be repeated",
        )
        parser.add_argument(
            "--published", default="", metavar="FILE", help="a file of published seals (AUDIT_SEAL_FILE)"
        )
        parser.add_argument("--read-only", action="store_true", help="don't record this verification")
        cli.add_actor_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        known = read_known_seals(options)
        since = options["since"]
        if since < 0 or (since and not AuditSeal.objects.filter(number=since).exists()):
            raise CommandError(f"Seal {since} doesn't exist.", returncode=2)
        if options["read_only"]:
            rows, findings = verification.verify_read_only(since=since, known=known)
        else:
            run = verification.verify(
                actor=cli.find_actor(options["actor"]),
                now=timezone.now,
                since=since,
                known=known,
                on_progress=self._show_progress,
            )
            rows, findings = run.rows, [Finding(**finding) for finding in run.findings]
        self._report(rows, findings)
        if findings:
            sys.exit(1)

    def _show_progress(self, run: AuditVerification) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"seal {run.checked} of {run.upto}, {run.rows:,} rows", ending="\r")

    def _report(self, rows: int, findings: list[Finding]) -> None:
        newest = AuditSeal.objects.defer("marks").first()
        for table in guards.unguarded_tables():
            self.stdout.write(f"Note: the database does not guard {table} against changes.")
        for restore in restores.declared():
            self.stdout.write(f"Note: {restore}")
        if findings:
            self.stdout.write(f"BROKEN at seal {findings[0].seal}.")
            for finding in findings:
                self.stdout.write(f"  seal {finding.seal}  {finding.kind:<10} {finding.what}")
        elif newest is None:
            self.stdout.write("There are no seals yet.")
        else:
            self.stdout.write(f"Intact: {rows:,} rows in seals up to {newest.number}:{newest.hash}")


def read_known_seals(options: dict[str, Any]) -> list[PublishedSeal]:
    """Return the seals from the options --expect and --published. Raises CommandError."""
    known = [_parse_seal(text) for text in options["expect"]]
    try:
        return known + list(published.read_file(options["published"]) if options["published"] else ())
    except published.Unreadable as problem:
        raise CommandError(str(problem), returncode=2) from problem


def _parse_seal(text: str) -> PublishedSeal:
    number, _, known = text.partition(":")
    if not number.isdecimal() or not re.fullmatch("[0-9a-f]{64}", known):
        raise CommandError(f"“{text}” is no seal. Write its number, a colon and its hash.", returncode=2)
    return PublishedSeal(int(number), known)
