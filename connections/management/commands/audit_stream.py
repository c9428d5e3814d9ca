from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.management import cli
from connections.services.audit import streaming


class Command(BaseCommand):
    """``manage.py audit_stream --after 812 --actor alice``."""

    help = (
        "Show the progress of the stream of audit events (AUDIT_STREAM_URL). With --after, continue after this seal: an "
        "earlier one sends events again, a later one skips events. The audit trail records this."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--after", type=int, metavar="SEAL", help="continue after this seal; 0 sends everything again"
        )
        parser.add_argument("--actor", help="user name of who does it; without it, the portal itself is recorded")

    def handle(self, *args: Any, **options: Any) -> None:
        states = streaming.states()
        if not states:
            raise CommandError("AUDIT_STREAM_URL isn't set.")
        if options["after"] is not None:
            before, now_after = streaming.move(options["after"], actor=cli.find_actor(options["actor"]))
            self.stdout.write(f"The stream continues after seal {now_after} instead of {before}.")
            return
        seconds = streaming.lag(timezone.now()).total_seconds()
        self.stdout.write(f"Everything up to seal {states[0].upto} has arrived. Oldest waiting: {seconds:.0f} seconds.")
        if states[0].last_error:
            self.stdout.write(f"The last attempt failed: {states[0].last_error}")
