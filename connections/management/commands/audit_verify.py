import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.management import cli
from connections.models import AuditSeal, AuditVerification
from connections.services.audit import verification, verification_checks


class Command(BaseCommand):
    """``manage.py audit_verify --published seals.jsonl``. The exit code is 1 if the trail is broken."""

    help = "Check every event and token hand-out against its seal, and every seal against the one before."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since", type=int, default=0, metavar="SEAL", help="take this seal as right and begin after it"
        )
        parser.add_argument(
            "--expect",
            action="append",
            default=[],
            metavar="NUMBER:HASH",
            help="a seal as you know it; may be repeated",
        )
        parser.add_argument(
            "--published", default="", metavar="FILE", help="a file of published seals (AUDIT_SEAL_FILE)"
        )
        parser.add_argument("--read-only", action="store_true", help="do not record this verification")
        cli.add_actor_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        known = [_parse_seal(text) for text in options["expect"]]
        if options["published"]:
            known += _read_seals(options["published"])
        since = options["since"]
        if since < 0 or (since and not AuditSeal.objects.filter(number=since).exists()):
            raise CommandError(f"There is no seal {since}.", returncode=2)
        if options["read_only"]:
            rows, findings = verification.verify_read_only(since=since, published=known)
        else:
            run = verification.verify(
                actor=cli.find_actor(options["actor"]),
                now=timezone.now,
                since=since,
                published=known,
                on_progress=self._show_progress,
            )
            rows, findings = run.rows, [verification_checks.Finding(**finding) for finding in run.findings]
        self._report(rows, findings)
        if findings:
            sys.exit(1)

    def _show_progress(self, run: AuditVerification) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"seal {run.checked} of {run.upto}, {run.rows:,} rows", ending="\r")

    def _report(self, rows: int, findings: list[verification_checks.Finding]) -> None:
        newest = AuditSeal.objects.defer("marks").first()
        for table in verification_checks.tables_without_triggers():
            self.stdout.write(f"Note: the database does not guard {table} against changes.")
        if findings:
            self.stdout.write(f"BROKEN at seal {findings[0].seal}.")
            for finding in findings:
                self.stdout.write(f"  seal {finding.seal}  {finding.kind:<10} {finding.what}")
        elif newest is None:
            self.stdout.write("Nothing has been sealed yet.")
        else:
            self.stdout.write(f"Intact: {rows:,} rows in seals up to {newest.number}:{newest.hash}")


def _parse_seal(text: str) -> tuple[int, str]:
    number, _, known = text.partition(":")
    if not number.isdecimal() or not re.fullmatch("[0-9a-f]{64}", known):
        raise CommandError(f"“{text}” is no seal. Write its number, a colon and its hash.", returncode=2)
    return int(number), known


def _read_seals(path: str) -> list[tuple[int, str]]:
    """Read a file of published seals, ignoring an incomplete last line."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise CommandError(f"{path} cannot be read: {problem}", returncode=2) from problem
    seals = []
    for number, line in enumerate(lines, start=1):
        try:
            seal = json.loads(line)
            seals.append((int(seal["number"]), str(seal["hash"])))
        except (ValueError, KeyError, TypeError) as problem:
            if number < len(lines):
                raise CommandError(f"Line {number} of {path} is no seal.", returncode=2) from problem
    return seals
