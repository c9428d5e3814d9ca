from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from connections import keys
from connections.services.operations import running_keys, secret_check, secret_columns

MAX_NAMED = 20


class Command(BaseCommand):
    """``manage.py keys``. The exit code is 1 if a value can't be used or, with ``--check``, if a process lacks the key."""

    help = "Count the stored secrets of each encryption key, and list the keys of the running processes."
    requires_system_checks = ()  # they load every page, which takes longer than the command itself

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", metavar="KEY_ID", help="only check that every running process knows this key")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            self._check(options["check"])
            return
        count = secret_check.count(now=timezone.now())
        ids = keys.current().ids
        for number, key_id in enumerate(ids):
            values = count.by_key[key_id]
            note = "encrypts" if number == 0 else self._when_removable(key_id, ids[0], values)
            self.stdout.write(f"Key {key_id}: {values} values; {note}")
        self._list_processes()
        for title, rows_by_column in (("No key opens", count.unreadable), ("Moved or altered", count.altered)):
            for column, rows in rows_by_column.items():
                more = f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else ""
                self.stdout.write(f"{title}: {column}, rows {', '.join(map(str, rows[:MAX_NAMED]))}{more}")
        for table in secret_columns.tables_without_trigger():
            self.stdout.write(f"The identities of {table} can be changed: run manage.py audit_guards")
        if count.unreadable or count.altered:
            raise CommandError("Some stored secrets cannot be used.")

    def _when_removable(self, key_id: str, first: str, values: int) -> str:
        now = timezone.now()
        if values:
            return "still needed: run manage.py rotate_keys"
        writers = [process for process in running_keys.running(now=now) if process.key_ids[:1] == [key_id]]
        if writers:
            return f"still needed: {running_keys.names(writers)} encrypts with it"
        if unaware := running_keys.without_key(first, now=now):
            return f"still needed: {running_keys.names(unaware)} doesn't know the first key"
        return "no value needs it, it can be removed"

    def _list_processes(self) -> None:
        for process in running_keys.running(now=timezone.now()):
            self.stdout.write(f"Running: {process.name} with {', '.join(process.key_ids)}")

    def _check(self, key_id: str) -> None:
        now = timezone.now()
        if not (processes := running_keys.running(now=now)):
            raise CommandError("No process of the portal is running.")
        if unaware := running_keys.without_key(key_id, now=now):
            raise CommandError(f"These processes don't know the key {key_id}: {running_keys.names(unaware)}.")
        self.stdout.write(f"All {len(processes)} running processes know the key {key_id}.")
