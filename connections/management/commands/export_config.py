import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.management import config_file
from connections.services.config import export


class Command(BaseCommand):
    help = (
        "Export tenants, app registrations, mailboxes, accounts, teams, channels and policy as YAML, without secrets."
    )

    requires_system_checks = ()  # they would load all pages and the API

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--new-portal",
            action="store_true",
            help="for a new portal: with people, and names of environment variables for secrets",
        )
        parser.add_argument("--output", default="-", help="output file (default: standard output)")

    def handle(self, *args: Any, **options: Any) -> None:
        values = export.current_configuration()
        variables = export.prepare_for_new_portal(values) if options["new_portal"] else []
        text = config_file.write(values, variables)
        if options["output"] == "-":
            self.stdout.write(text, ending="")
            return
        try:
            Path(options["output"]).write_text(text, encoding="utf-8")
        except OSError as problem:
            raise CommandError(f"{options['output']} can't be written: {problem.strerror}.") from problem
        sys.stderr.write(f"Written to {options['output']}.\n")
