from typing import Any

from django.core.management.base import BaseCommand

from connections.services.audit import guards
from connections.services.operations import secret_columns


class Command(BaseCommand):
    """``manage.py audit_guards``. Needed after a restore or a schema change that has lost the triggers."""

    help = "Install the triggers that refuse changes to the audit trail and to the identities of rows with secrets."

    def handle(self, *args: Any, **options: Any) -> None:
        missing = [*guards.unguarded_tables(), *secret_columns.tables_without_trigger()]
        guards.install()
        secret_columns.install_triggers()
        self.stdout.write(f"Guarded again: {', '.join(missing)}." if missing else "All guards were in place.")
