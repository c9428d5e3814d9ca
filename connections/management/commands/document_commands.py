"""Write docs/commands.md, or check that it is up to date."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser, load_command_class

PAGE = Path(__file__).resolve().parents[3] / "docs" / "commands.md"
_DJANGO = ("migrate", "createsuperuser", "changepassword", "check", "collectstatic")
_BEGINNING = """# Commands

For operators. Made from the commands by `manage.py document_commands`.

Run them as `portal-manage COMMAND` ([install.md](install.md)), or with Docker Compose as `docker compose exec web python manage.py COMMAND`. Secrets are never
arguments, because every local user can read those. `portal-manage COMMAND --help` shows all options.
"""


class Command(BaseCommand):
    help = "Generate docs/commands.md from the commands themselves."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")

    def handle(self, *args: Any, **options: Any) -> None:
        page = render()
        if not options["check"]:
            PAGE.write_text(page, encoding="utf-8")
            self.stdout.write(f"{PAGE.name} written")
            return
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
            raise CommandError(f"{PAGE.name} is out of date. Run manage.py document_commands.")
        self.stdout.write(f"{PAGE.name} is up to date")


def render() -> str:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    parts = [_BEGINNING]
    for name in names:
        command = load_command_class("connections", name)
        # Options whose default comes from the settings show no default, so that the page is the same everywhere.
        rows = "".join(f"| {option} | {text} |\n" for option, text in _options(command, name))
        parts.append(f"\n## {name}\n\n{command.help}\n")
        parts.append(f"\n| Argument | |\n|---|---|\n{rows}" if rows else "")
    django = ", ".join(f"`{name}`" for name in _DJANGO)
    parts.append(f"\n## Django's own commands\n\nUsed in this documentation: {django}.\n")
    return "".join(parts)


def _options(command: BaseCommand, name: str) -> Iterator[tuple[str, str]]:
    """Yield the command's own arguments, without those that every command inherits from BaseCommand."""
    common = {action.dest for action in BaseCommand().create_parser("manage.py", name)._actions}
    for action in command.create_parser("manage.py", name)._actions:
        if action.dest in common or action.help == argparse.SUPPRESS:
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        usage = f"{action.option_strings[-1]} {value}".strip() if action.option_strings else str(value)
        yield f"`{usage}`", (action.help or "").replace("%%", "%").replace("|", r"\|")
