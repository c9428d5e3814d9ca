from django.conf import settings
from django.db import models
from django.utils import timezone


class SavedView(models.Model):
    """A list's saved filters and order, visible only to the person who saved them."""

    class Page(models.TextChoices):
        AUDIT = "audit", "Audit trail"
        CONNECTIONS = "connections", "Connections"

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_views")
    page = models.CharField(max_length=20, choices=Page, default=Page.AUDIT)  # the URL name of the list
    name = models.CharField(max_length=120)
    query = models.CharField(max_length=1000, blank=True)  # as a query string
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(fields=("person", "page", "name"), name="view_name_once_per_person_and_page"),
        )

    def __str__(self) -> str:
        return self.name
