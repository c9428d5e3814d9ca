import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.errors import InvalidInput
from connections.management.commands.audit_verify import read_known_seals
from connections.models import AuditEvent
from connections.services.audit import proofs


class Command(BaseCommand):
    """``manage.py audit_prove 4711 > proof.json`` and, on any machine, ``audit_prove --check proof.json``."""

    help = "Print a proof that one event is part of the sealed audit trail, or check such a proof without the database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        task = parser.add_mutually_exclusive_group(required=True)
        task.add_argument("event", type=int, nargs="?", help="number of the event")
        task.add_argument("--check", default="", metavar="FILE", help="check the proof in this file")
        parser.add_argument(
            "--expect", action="append", default=[], metavar="NUMBER:HASH", help="with --check: the seal as you know it"
        )
        parser.add_argument("--published", default="", metavar="FILE", help="with --check: a file of published seals")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            self._check(options)
            return
        event = AuditEvent.objects.filter(pk=options["event"]).first()
        if event is None:
            raise CommandError(f"There is no event {options['event']}. Retention may have removed it.", returncode=2)
        try:
            proof = proofs.prove(event)
        except InvalidInput as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(json.dumps(proof, indent=2, sort_keys=True))

    def _check(self, options: dict[str, Any]) -> None:
        try:
            proven = proofs.check(json.loads(Path(options["check"]).read_text("utf-8")))
        except OSError as problem:
            raise CommandError(f"{options['check']} cannot be read: {problem.strerror}.", returncode=2) from problem
        except ValueError as problem:
            text = problem if isinstance(problem, proofs.InvalidProof) else "The file does not contain JSON."
            raise CommandError(f"NOT PROVEN. {text}") from problem
        known = {seal.hash for seal in read_known_seals(options) if seal.number == proven.seal}
        if known and proven.seal_hash not in known:
            raise CommandError(f"NOT PROVEN. Seal {proven.seal} was published with a different hash.")
        event, seal = proven.event, f"{proven.seal}:{proven.seal_hash}"
        self.stdout.write(f"Event {event['id']} ({event['action']}, {event['at']}) is part of seal {seal}.")
        if known:
            self.stdout.write("PROVEN: that seal was published.")
        else:
            self.stdout.write("Compare this seal with a published one (--published or --expect). Only that proves it.")
