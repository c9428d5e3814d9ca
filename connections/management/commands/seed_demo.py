"""``manage.py seed_demo FILE`` creates the demo's organisation. Running it again changes nothing.

FILE is JSON: ``{"people": {username: {"name", "password", "group"}}, "tenant": {"name", "directory_id"}, "app":
{"name", "client_id", "secret"}}``. The values are in a file because every local user can read command lines.
"""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from connections.errors import PortalError
from connections.models import AppRegistration, Tenant, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.registry import app_registrations, tenants
from connections.services.registry.credentials import NewSecret


class Command(BaseCommand):
    """Creates people with known passwords, so it only runs if a sandbox is configured."""

    help = "Create the demo's people, tenant and app registration, unless they exist."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="JSON with people, tenant and app")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.MICROSOFT_SANDBOX_URL:
            raise CommandError(
                "This command creates people with known passwords. It runs only if MICROSOFT_SANDBOX_URL is set."
            )
        try:
            data = json.loads(options["file"].read_text())
            people, tenant, app = data["people"], data["tenant"], data["app"]
            with transaction.atomic():
                users = [add_person(username, **person) for username, person in people.items()]
            admin = next(user for user in users if user.groups.filter(name=IT_ADMINS).exists())
            add_app_registration(add_tenant(**tenant, actor=admin), **app, actor=admin)
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as problem:
            raise CommandError(f"{options['file']} isn't valid: {problem!r}. See this command's help.") from None
        except PortalError as problem:
            raise CommandError(str(problem)) from problem


def add_person(username: str, *, name: str, password: str, group: str) -> User:
    person = User.objects.filter(username=username).first()
    if person is not None:
        return person
    if group not in ("", IT_ADMINS, AUDITORS):
        raise ValueError(f"the group {group} doesn't exist")
    first, _, last = name.partition(" ")
    user = User.objects.create_user(username, f"{username}@contoso.example", password, first_name=first, last_name=last)
    if group:
        user.groups.add(Group.objects.get_or_create(name=group)[0])
    return user


def add_tenant(*, name: str, directory_id: str, actor: User) -> Tenant:
    tenant = Tenant.objects.filter(environment="sandbox", directory_id=directory_id).first()
    return tenant or tenants.add(name, environment="sandbox", directory_id=directory_id, actor=actor)


def add_app_registration(tenant: Tenant, *, name: str, client_id: str, secret: str, actor: User) -> AppRegistration:
    app = tenant.app_registrations.filter(client_id=client_id).first()
    return app or app_registrations.register(
        tenant,
        name=name,
        client_id=client_id,
        actor=actor,
        allows_delegated=True,
        allows_app_only=True,
        credential=NewSecret(secret, label="Sandbox secret"),
        allow_untried=True,
    )
