from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from connections.errors import PortalError
from connections.services.operations import key_rotation, secret_check


class Command(BaseCommand):
    """``manage.py rotate_keys``; see docs/operating.md. The exit code is 1 if values still have to be encrypted."""

    help = "Encrypt every stored secret with the first key, while the portal runs. It can be stopped and run again."
    requires_system_checks = ()  # they load every page, which takes longer than the command itself

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--batch", type=int, default=key_rotation.BATCH, help="values per statement")
        parser.add_argument(
            "--force", action="store_true", help="even if a running process does not know the first key"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            rotation = key_rotation.rotate(
                now=now, report=self._report, force=options["force"], batch=max(1, options["batch"])
            )
        except PortalError as error:
            raise CommandError(str(error)) from error
        secret_check.count(now=now)
        self.stdout.write(f"{rotation.rotated} values encrypted with the key {rotation.key_id}.")
        for column, rows in rotation.unreadable.items():
            self.stdout.write(f"Not opened, left as they are: {column}, rows {', '.join(map(str, rows[:20]))}.")
        if rotation.left:
            raise CommandError(f"{rotation.left} values were written with another key in the meantime. Run it again.")

    def _report(self, column: str, done: int) -> None:
        self.stdout.write(f"{column}: {done}")
        self.stdout.flush()
