import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.errors import PortalError
from connections.management import cli, config_file
from connections.services.config import plan
from connections.services.config.schema import Configuration
from connections.services.config.steps import Plan, Verb

PENDING = 2  # exit code of --plan if anything would change
MARKS = {Verb.ADD: "+", Verb.CHANGE: "~", Verb.REMOVE: "-"}


class Command(BaseCommand):
    help = "Show what would change, ask, and do it all or nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="a configuration file, or - for standard input")
        parser.add_argument("--as", dest="username", default="", help="user name of the IT admin who does it")
        parser.add_argument(
            "--plan", action="store_true", help=f"only show; exit code {PENDING} if anything would change"
        )
        parser.add_argument("--prune", action="store_true", help="also remove what the file's sections do not name")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--untried", action="store_true", help="store new secrets even if Microsoft cannot be asked"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = self._read(options["file"])
        try:
            planned = plan.plan(wanted, prune=options["prune"])
        except PortalError as error:
            raise CommandError(f"{options['file']}, {error}") from error
        self._show(planned)
        if options["plan"]:
            if planned.steps:
                sys.exit(PENDING)
            return
        if not planned.steps:
            return
        actor = cli.find_actor(options["username"])
        if actor is None:
            raise CommandError(
                "Say who does it with --as and the user name of an IT admin: the audit trail names them."
            )
        if not options["yes"]:
            if options["file"] == "-" or not sys.stdin.isatty():
                raise CommandError("Nobody can be asked here. Nothing was changed; --yes does it without asking.")
            if input("Do this? Type yes: ").strip().lower() != "yes":
                raise CommandError("Nothing was changed.")
        choices = {"prune": options["prune"], "allow_untried": options["untried"]}
        try:
            plan.apply(wanted, planned, actor=actor, now=timezone.now(), **choices)
        except PortalError as error:
            raise CommandError(f"{options['file']}, {error}\nNothing was changed.") from error
        self.stdout.write("Done.")

    @staticmethod
    def _read(path: str) -> Configuration:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
        except OSError as problem:
            raise CommandError(f"{path} cannot be read: {problem.strerror}.") from problem
        except UnicodeDecodeError as problem:
            raise CommandError(f"{path} is not written in UTF-8.") from problem
        try:
            return config_file.parse(text)
        except PortalError as error:
            raise CommandError(f"{path}, {error}") from error

    def _show(self, plan: Plan) -> None:
        for step in plan.steps:
            where = f" (line {step.line})" if step.line else ""
            self.stdout.write(f"{MARKS[step.verb]} {step.noun} {step.name}{where}")
            for what, before, after in step.changes:
                value = f"{before} → {after}" if step.verb is Verb.CHANGE else after
                self.stdout.write(f"    {what}: {value}")
        for note in plan.notes:
            self.stdout.write(f"! {note}")
        if plan.kept:
            self.stdout.write(f"Not in the file, and kept: {', '.join(plan.kept)}. --prune removes them.")
        if not plan.steps:
            self.stdout.write("No change.")
            return
        counts = {verb: sum(step.verb is verb for step in plan.steps) for verb in Verb}
        self.stdout.write(f"To add: {counts[Verb.ADD]}, change: {counts[Verb.CHANGE]}, remove: {counts[Verb.REMOVE]}.")
