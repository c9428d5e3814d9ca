from argparse import ArgumentParser, BooleanOptionalAction
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.errors import PortalError
from connections.forms.app_registrations import AppRegistrationForm
from connections.management import cli
from connections.models import AppRegistration
from connections.services.registry import app_registrations, credentials


class Command(BaseCommand):
    """``manage.py add_app Contoso "Mail robots" CLIENT-ID --secret-file /run/secrets/robots --expires 2027-03-31``."""

    help = (
        "Test an application's credential with Microsoft and add the app registration. The secret is never an argument."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("tenant", help="name or directory ID of a tenant")
        parser.add_argument("name")
        parser.add_argument("client_id", help="application (client) ID")
        parser.add_argument("--audience", choices=AppRegistration.Audience.values, default="single")
        parser.add_argument("--delegated", action=BooleanOptionalAction, default=True)
        parser.add_argument("--app-only", action=BooleanOptionalAction, default=False)
        parser.add_argument("--capability", action="append", default=[], help="default capability; can be repeated")
        cli.add_credential_arguments(parser)
        cli.add_actor_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        data = {
            "tenant": cli.find_tenant(options["tenant"]).pk,
            "allows_delegated": options["delegated"],
            "allows_app_only": options["app_only"],
            "default_capabilities": options["capability"],
        }
        data |= {name: options[name] for name in ("name", "client_id", "audience")}
        values = cli.cleaned(AppRegistrationForm(data))
        form = cli.credential_form(options)
        cli.cleaned(form)
        actor = cli.find_actor(options["actor"])
        new = credentials.credential_from_form(form.cleaned_data, name=values["name"])
        try:
            app = app_registrations.register(**values, credential=new, actor=actor, allow_untried=options["untried"])
        except PortalError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Added {app}: {'ready' if app.is_ready else 'not tested'}.")
        self.stdout.write(app.credentials.defer("secret", "private_key").get().certificate, ending="")
