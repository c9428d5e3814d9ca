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

PENDING = 2  # exit code of --plan if there are changes
MARKS = {Verb.ADD: "+", Verb.CHANGE: "~", Verb.REMOVE: "-"}


def _describe(path: str, error: PortalError) -> str:
    """Return one line per problem. Each begins with the file."""
    return "\n".join(f"{path}, {line}" for line in str(error).splitlines())


class Command(BaseCommand):
    help = "Preview the changes, ask for confirmation, and apply all or none of them."
    requires_system_checks = ()  # they would load all pages and the API

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="a configuration file, or - for standard input")
        parser.add_argument(
            "--as", dest="username", default="", help="user name of the IT admin to record in the audit trail"
        )
        parser.add_argument(
            "--plan", action="store_true", help=f"preview only; exit code {PENDING} if there are changes"
        )
        parser.add_argument(
            "--prune", action="store_true", help="also remove objects that aren't in the file's sections"
        )
        parser.add_argument("--yes", action="store_true", help="don't ask for confirmation")
        parser.add_argument(
            "--untried", action="store_true", help="save new secrets without testing if Microsoft can't be reached"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        desired = self._read(options["file"])
        try:
            planned = plan.plan(desired, prune=options["prune"])
        except PortalError as error:
            raise CommandError(_describe(options["file"], error)) from error
        self._show(planned)
        if options["plan"]:
            if planned.steps:
                sys.exit(PENDING)
            return
        if not planned.steps:
            return
        actor = cli.find_actor(options["username"])
        if actor is None:
            raise CommandError("Use --as with the user name of an IT admin. The audit trail records it.")
        if not options["yes"]:
            if options["file"] == "-" or not sys.stdin.isatty():
                raise CommandError(
                    "Nothing was changed, because there is no terminal to confirm. Use --yes to skip the confirmation."
                )
            if input("Apply these changes? Type yes: ").strip().lower() != "yes":
                raise CommandError("Nothing was changed.")
        choices = {"prune": options["prune"], "allow_untried": options["untried"]}
        try:
            plan.apply(desired, planned, actor=actor, now=timezone.now(), **choices)
        except PortalError as error:
            raise CommandError(f"{_describe(options['file'], error)}\nNothing was changed.") from error
        self.stdout.write("Done.")

    @staticmethod
    def _read(path: str) -> Configuration:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
        except OSError as problem:
            raise CommandError(f"{path} can't be read: {problem.strerror}.") from problem
        except UnicodeDecodeError as problem:
            raise CommandError(f"{path} isn't UTF-8.") from problem
        try:
            return config_file.parse(text)
        except PortalError as error:
            raise CommandError(_describe(path, error)) from error

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
            self.stdout.write(f"Kept, although not in the file: {', '.join(plan.kept)}. Use --prune to remove them.")
        if not plan.steps:
            self.stdout.write("No changes.")
            return
        counts = {verb: sum(step.verb is verb for step in plan.steps) for verb in Verb}
        self.stdout.write(f"To add: {counts[Verb.ADD]}, change: {counts[Verb.CHANGE]}, remove: {counts[Verb.REMOVE]}.")
