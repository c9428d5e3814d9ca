from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed
from connections.management import cli
from connections.management.commands.audit_verify import read_known_seals
from connections.services.operations import restore


class Command(BaseCommand):
    """``manage.py declare_restore --actor alice --reason "Disk failure on 3 May" --published seals.jsonl``."""

    help = (
        "After a backup was restored: continue the audit trail above the highest published seal, sign everyone out, and "
        "check every connection. The declaration is sealed, stays visible in every verification, and is sent to all IT "
        "admins and auditors."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--reason", required=True, help="why the backup was restored; stays in the audit trail")
        parser.add_argument(
            "--published",
            default=settings.AUDIT_SEAL_FILE,
            metavar="FILE",
            help="the published seals (AUDIT_SEAL_FILE)",
        )
        parser.add_argument(
            "--expect",
            action="append",
            default=[],
            metavar="NUMBER:HASH",
            help="instead of a file, the highest seal that was published to the webhook or the log",
        )
        parser.add_argument(
            "--nothing-lost",
            action="store_true",
            help="no seal was published since the backup, or seals aren't published",
        )
        parser.add_argument("--actor", required=True, help="user name of the IT admin who declares it")

    def handle(self, *args: Any, **options: Any) -> None:
        actor = cli.find_actor(options["actor"])
        if actor is None:
            raise CommandError("Name the IT admin who declares the restore (--actor).")
        known, reason, now = read_known_seals(options), options["reason"], timezone.now()
        if not known and not options["nothing_lost"]:
            raise CommandError(
                "Name the published seals (--published), or the highest one of them (--expect). Without any: --nothing-lost."
            )
        try:
            if options["nothing_lost"]:
                restore.declare_without_loss(known, actor=actor, reason=reason, now=now)
                declared = "The restore is in the audit trail."
            else:
                declared = str(restore.declare(known, actor=actor, reason=reason, now=now))
                declared += "\nA verification of the whole trail is queued."
        except (InvalidInput, NotAllowed) as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(
            f"{declared}\nWe email all IT admins and auditors. Everyone must sign in again, and the workers check every "
            "connection: manage.py doctor says when they have finished."
        )
