from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connections.errors import PortalError
from connections.forms.tenants import TenantForm
from connections.management import cli
from connections.services.registry import tenants


class Command(BaseCommand):
    """``manage.py add_tenant Contoso contoso.com --environment global``."""

    help = "Verify a directory with Microsoft and add it as a tenant."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("directory_id", help="directory (tenant) ID or verified domain")
        parser.add_argument("--environment", default="global")
        cli.add_actor_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        values = cli.cleaned(TenantForm({name: options[name] for name in ("name", "environment", "directory_id")}))
        try:
            tenant = tenants.add(**values, actor=cli.find_actor(options["actor"]))
        except PortalError as error:
            raise CommandError(str(error)) from error
        note = "" if tenant.tid or tenant.is_shared_endpoint else " (not verified: Microsoft can't be reached)"
        self.stdout.write(f"Added {tenant}{note}.")
