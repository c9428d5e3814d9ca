from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.services.sharing import history_check


class Command(BaseCommand):
    """``manage.py check_access_history``. The exit code is 1 if there are differences."""

    help = "Compare the access history with the audit trail."

    def handle(self, *args: Any, **options: Any) -> None:
        differences = history_check.differences()
        for line in differences:
            self.stdout.write(line)
        if differences:
            raise CommandError(f"{len(differences)} difference{'' if len(differences) == 1 else 's'} found.")
        self.stdout.write("The access history matches the audit trail.")
