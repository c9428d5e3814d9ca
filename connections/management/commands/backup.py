from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.errors import InUse, InvalidInput
from connections.services.operations import backup


class Command(BaseCommand):
    """``manage.py backup /var/backups/portal --keep 14``. It lacks the encryption keys, so back them up separately."""

    help = "Write a backup of the PostgreSQL database into a directory, while the portal runs."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", type=Path, help="a directory that only the portal's user and root can read")
        parser.add_argument("--keep", type=int, default=0, metavar="N", help="then remove all but the newest N backups")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["keep"] < 0:
            raise CommandError("--keep must be 1 or more.")
        try:
            file = backup.write(options["directory"], now=timezone.now())
        except (InUse, InvalidInput) as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(f"{file}: {file.stat().st_size:,} bytes")
        if options["keep"]:
            for old in backup.remove_old(options["directory"], keep=options["keep"]):
                self.stdout.write(f"Removed {old}.")
