from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class ConnectionsConfig(AppConfig):
    name = "connections"
    verbose_name = "Microsoft 365 connections"

    def ready(self) -> None:
        """Register the system checks, and configure the Microsoft layer, which reads no settings."""
        from connections import checks  # noqa: F401
        from connections.microsoft import clouds, http

        http.configure(
            timeout=settings.MICROSOFT_TIMEOUT,
            ca_bundle=settings.MICROSOFT_CA_BUNDLE,
            in_flight=settings.SWEEP_IN_FLIGHT,
        )
        try:
            clouds.add_sandbox(settings.MICROSOFT_SANDBOX_URL)
        except ValueError as wrong:
            raise ImproperlyConfigured(str(wrong)) from wrong
