import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.errors import InUse, InvalidInput
from connections.services.operations import backup, health, secret_check


class Command(BaseCommand):
    """``manage.py restore_backup FILE``. Afterwards, declare the restore (declare_restore); then start the portal."""

    help = "Replace the whole database with a backup, and migrate it to this version. Stop the portal first."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="a file that manage.py backup or pg_dump --format=custom wrote")
        parser.add_argument("--yes", action="store_true", help="don't ask")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["yes"] and not self._is_confirmed():
            raise CommandError("Nothing was restored.")
        try:
            backup.load(options["file"], now=timezone.now())
        except (InUse, InvalidInput) as problem:
            raise CommandError(str(problem)) from problem
        call_command("migrate", interactive=False, verbosity=0)
        call_command("audit_guards", stdout=self.stdout)
        secret_check.count(now=timezone.now())
        keys = health.encryption_keys()
        self.stdout.write(f"The backup is restored. Encryption keys: {keys.detail}. {keys.action}".rstrip())
        self.stdout.write("Next: manage.py declare_restore, before you start web, worker and beat.")
        if not keys.is_working:
            sys.exit(1)

    def _is_confirmed(self) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("This replaces the whole database. To continue, add --yes.")
        return input("This replaces the whole database. Type “yes” to continue: ") == "yes"
