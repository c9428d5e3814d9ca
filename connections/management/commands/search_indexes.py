from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.services.operations import search_indexes


class Command(BaseCommand):
    """``manage.py search_indexes``. Run it once, when the extension pg_trgm is installed in the database."""

    help = "Create the indexes that make searching fast in large tables on PostgreSQL."

    def handle(self, *args: Any, **options: Any) -> None:
        if missing := search_indexes.install():
            raise CommandError(
                f"{len(missing)} indexes are missing, because this role may not install the extension pg_trgm. "
                'Have a superuser run "CREATE EXTENSION pg_trgm" in the database, and run this command again.'
            )
        self.stdout.write("All indexes for searching are in place.")
