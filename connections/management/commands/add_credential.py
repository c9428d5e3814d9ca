from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.errors import PortalError
from connections.management import cli
from connections.models import AppRegistration
from connections.services.registry import credentials


class Command(BaseCommand):
    """``manage.py add_credential "Mail robots" --secret-file - --expires 2027-03-31``."""

    help = "Test a new credential of an app registration with Microsoft and add it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("app", help="name or client ID of an app registration")
        cli.add_credential_arguments(parser)
        cli.add_actor_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        apps, name = AppRegistration.objects, options["app"]
        matches = list(apps.filter(name=name) or apps.filter(client_id=name.lower()))
        if len(matches) != 1:
            known = ", ".join(apps.values_list("name", flat=True)[:20]) or "none"
            problem = "Several app registrations have the client ID" if matches else "There is no app registration"
            raise CommandError(f"{problem} “{name}”. Use one of these names: {known}.")
        app = matches[0]
        form = cli.credential_form(options)
        cli.cleaned(form)
        new = credentials.credential_from_form(form.cleaned_data, name=app.name)
        try:
            actor = cli.find_actor(options["actor"])
            credential = credentials.add(app, new, actor=actor, allow_untried=options["untried"])
        except PortalError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Added {credential}: {'accepted' if credential.verified_at else 'not tested'}.")
        self.stdout.write(credential.certificate, ending="")
