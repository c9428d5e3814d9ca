import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.management import config_file
from connections.services.config import export


class Command(BaseCommand):
    help = "Write tenants, app registrations, mailboxes, accounts, teams, channels and policy as YAML, without secrets."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", default="-", help="a file instead of standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        text = config_file.write(export.current_configuration())
        if options["output"] == "-":
            self.stdout.write(text, ending="")
            return
        try:
            Path(options["output"]).write_text(text, encoding="utf-8")
        except OSError as problem:
            raise CommandError(f"{options['output']} cannot be written: {problem.strerror}.") from problem
        sys.stderr.write(f"Written to {options['output']}.\n")
