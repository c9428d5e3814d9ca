from django.conf import settings
from django.db import models

from connections.models.connections import Connection


class SignInLink(models.Model):
    """A link for signing in to a connection, for the owner of its mailbox.

    It is valid for half an hour and one sign-in, in the first browser that opens it.
    """

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="sign_in_links")
    digest = models.CharField(max_length=64, unique=True)  # SHA-256 of the token, hex
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    # Digest of a value in the session of the first browser that opened the link; empty: not opened yet.
    browser_digest = models.CharField(max_length=64, blank=True)
    # When it was used, and when it ended because of a newer link or because other permissions are needed.
    used_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    account = models.CharField(max_length=320, blank=True)  # user name of the Microsoft account that signed in

    class Meta:
        ordering = ("-pk",)
        indexes = (models.Index(fields=("expires_at",), name="sign_in_link_by_end"),)

    def __str__(self) -> str:
        return f"Sign-in link for {self.connection}"
