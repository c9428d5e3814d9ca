"""Links on which somebody without an account here signs in for a connection."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from connections.models.connections import Connection


class SignInLink(models.Model):
    """One link for the owner of a mailbox: it lives half an hour, belongs to the first browser that goes on with it,
    and ends with the first sign-in that succeeds. Only a digest of its token is stored.
    """

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="sign_in_links")
    digest = models.CharField(max_length=64, unique=True)  # SHA-256 of the token, hex
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    # Digest of what the browser that went on with it keeps in its session; empty: nobody has yet.
    browser_digest = models.CharField(max_length=64, blank=True)
    # When it was used up, or replaced by a newer link, or something else was to be asked for. Either way it is over.
    used_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)
        indexes = (models.Index(fields=("expires_at",), name="sign_in_link_by_end"),)

    def __str__(self) -> str:
        return f"Sign-in link for {self.connection}"
