from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from connections.models import User
from connections.services.people import second_factors


class Command(BaseCommand):
    help = (
        "Remove the second factors and recovery codes of a person who has lost them all. The audit trail records this."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        person = User.objects.filter(username=options["username"]).first()
        if person is None:
            raise CommandError(f"There is no account {options['username']}.")
        count = second_factors.reset(person, now=timezone.now())
        self.stdout.write(f"Removed {count} second factors of {person}. They can sign in with the password alone.")
