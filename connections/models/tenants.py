from django.conf import settings
from django.db import models

# The endpoints that belong to no particular directory (Microsoft: identity-platform/v2-protocols-oidc).
SHARED_ENDPOINTS = ("common", "organizations", "consumers")


class Tenant(models.Model):
    """A Microsoft Entra directory, or a shared endpoint for people from many directories."""

    name = models.CharField(max_length=120)
    # A key of connections.microsoft.clouds.CLOUDS. No choices, because "sandbox" depends on the settings.
    environment = models.CharField(max_length=20)
    # A GUID, a verified domain or a shared endpoint, as in Microsoft's URLs. In lower case.
    directory_id = models.CharField("directory (tenant) ID", max_length=253)
    # The GUID of the directory, from Microsoft's discovery document. Callbacks are compared with this value.
    tid = models.CharField(max_length=36, blank=True)
    # When to check again whether people have left the directory; null: now.
    people_read_after = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(fields=("environment", "directory_id"), name="tenant_once_per_environment"),
            models.UniqueConstraint(fields=("name",), name="tenant_name_once"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def authority_id(self) -> str:
        """The directory's ID for Microsoft's URLs: the GUID if known, because domains can move to another directory."""
        return self.directory_id if self.is_shared_endpoint else self.tid or self.directory_id

    @property
    def is_shared_endpoint(self) -> bool:
        return self.directory_id in SHARED_ENDPOINTS
