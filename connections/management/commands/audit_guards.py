from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection

from connections.services.audit import verification_checks


class Command(BaseCommand):
    """``manage.py audit_guards``. Run it after a restore or a schema change in which the triggers were lost."""

    help = "Install the triggers that refuse changes to the audit trail. Harmless when they are there."

    def handle(self, *args: Any, **options: Any) -> None:
        missing = verification_checks.tables_without_triggers()
        with connection.schema_editor() as editor:
            import_module("connections.migrations.0003_audit_guards").install(None, editor)
        self.stdout.write(f"Guarded again: {', '.join(missing)}." if missing else "All guards were in place.")
