import json
import sys
from collections.abc import Iterator
from typing import Any

from django.core import checks as django_checks
from django.core.management.base import BaseCommand, CommandParser

from connections.services.operations import checks, doctor, network_checks
from connections.services.operations.checks import Finding, Result, State

_CHECKED_BELOW = ("connections.W004",)  # left out, because the check of the mail server below reports the same
_WIDTH = 22  # length of the longest name of a check


class Command(BaseCommand):
    """``manage.py doctor``. The exit code is 1 if there are problems; warnings don't affect it."""

    help = "Check settings, database, Redis, keys, processes, mail, Microsoft and the public URL, and say what to do."
    requires_system_checks = ()  # the command runs them itself

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument("--mail-to", metavar="ADDRESS", default="", help="also send a test message to this address")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = [*_settings(), *checks.run(doctor.CHECKS)]
        if options["mail_to"]:
            findings.append(Finding("test_mail", network_checks.send_test_mail(options["mail_to"])))
        is_working = all(finding.result.is_working for finding in findings)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": is_working, "checks": [_as_json(finding) for finding in findings]}))
        else:
            self._print(findings)
        if not is_working:
            sys.exit(1)

    def _print(self, findings: list[Finding]) -> None:
        for finding in findings:
            result = finding.result
            self.stdout.write(f"{result.state:<8} {finding.name:<{_WIDTH}} {result.detail}")
            if result.action and result.state != State.OK:
                self.stdout.write(f"{'':<8} {'':<{_WIDTH}} What to do: {result.action}")
        counts = {state: sum(finding.result.state == state for finding in findings) for state in State}
        self.stdout.write(", ".join(f"{number} {state}" for state, number in counts.items() if number))


def _settings() -> Iterator[Finding]:
    """Yield the findings of Django's checks and of connections/checks.py about the settings, or that there are none."""
    messages = [
        message
        for message in django_checks.run_checks(include_deployment_checks=True)
        if message.id not in _CHECKED_BELOW
    ]
    for message in messages:
        state = State.PROBLEM if message.level >= django_checks.ERROR else State.WARNING
        yield Finding("settings", Result(state, f"{message.msg} ({message.id})", message.hint or ""))
    if not messages:
        yield Finding("settings", checks.ok("in order"))


def _as_json(finding: Finding) -> dict[str, str]:
    result = finding.result
    action = "" if result.state == State.OK else result.action
    return {"name": finding.name, "state": result.state, "detail": result.detail, "action": action}
