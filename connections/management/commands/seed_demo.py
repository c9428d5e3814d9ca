"""``manage.py seed_demo``: the small organisation of the demo. Running it again changes nothing."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from connections.models import User
from connections.models.accounts import AUDITORS, IT_ADMINS

# username: (first name, last name, password, group)
PEOPLE = {
    "alice": ("Alice", "Admin", "alice-in-the-demo", IT_ADMINS),
    "bob": ("Bob", "Member", "bob-in-the-demo", ""),
    "carol": ("Carol", "Auditor", "carol-in-the-demo", AUDITORS),
}


class Command(BaseCommand):
    """Seeds people with known passwords, and the sandbox's Contoso; only where a sandbox is configured."""

    help = "Create the people and the tenant of the demo, unless they exist. Refuses to run without a sandbox."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.MICROSOFT_SANDBOX_URL:
            raise CommandError("This makes people with known passwords, so it runs only where MICROSOFT_SANDBOX_URL is set.")
        with transaction.atomic():
            for username in PEOPLE:
                add_person(username)


def add_person(username: str) -> None:
    """Create one person of the demo, unless they exist."""
    first, last, password, group = PEOPLE[username]
    if User.objects.filter(username=username).exists():
        return
    user = User.objects.create_user(
        username, f"{username}@contoso.example", password, first_name=first, last_name=last
    )
    if group:
        user.groups.add(Group.objects.get_or_create(name=group)[0])
