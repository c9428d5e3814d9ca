"""Django's configuration of the product."""

from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    """The one app of the portal."""

    name = "connections"
    verbose_name = "Microsoft 365 connections"

    def ready(self) -> None:
        """Register the system checks."""
        from connections import checks  # noqa: F401
