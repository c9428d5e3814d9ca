from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from connections.services.registry import issuer


class Command(BaseCommand):
    help = "Immediately replace the keys that sign the portal's assertions, because one may have leaked."

    def handle(self, *args: Any, **options: Any) -> None:
        issuer.replace_now(actor=None, now=timezone.now())
        self.stdout.write(
            "The signing keys are replaced. Microsoft may refuse federated credentials for up to a day, until it reads the "
            "published keys again."
        )
