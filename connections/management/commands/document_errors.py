"""Write docs/what-went-wrong.md, or check that it is up to date."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from connections.microsoft import error_guide

PAGE = Path(__file__).resolve().parents[3] / "docs" / "what-went-wrong.md"


class Command(BaseCommand):
    help = "Generate docs/what-went-wrong.md from the Microsoft error tables."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")

    def handle(self, *args: Any, **options: Any) -> None:
        page = error_guide.render()
        if not options["check"]:
            PAGE.write_text(page, encoding="utf-8")
            self.stdout.write(f"{PAGE.name} written")
            return
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
            raise CommandError(f"{PAGE.name} is out of date. Run manage.py document_errors.")
        self.stdout.write(f"{PAGE.name} is up to date")
