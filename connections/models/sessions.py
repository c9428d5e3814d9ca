from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.contrib.sessions.serializers import JSONSerializer
from django.core import signing
from django.db import models


class Session(AbstractBaseSession):
    """A browser's session. Without the cookie, the row gives no access; see connections/session_store.py."""

    # The digest of the key in the session cookie.
    session_key = models.CharField(max_length=64, primary_key=True)
    # The signed-in person; null before the sign-in. This is a copy for lists; the session data is authoritative.
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="sessions")
    signed_in_at = models.DateTimeField(null=True)
    seen_at = models.DateTimeField()  # the last request, to the minute
    # From where, with which browser and how the person signed in.
    address = models.GenericIPAddressField(null=True)
    browser = models.CharField(max_length=100, blank=True)
    method = models.CharField(max_length=20, blank=True)

    class Meta:
        ordering = ("-seen_at",)

    def get_decoded(self) -> dict[str, object]:
        """Return the session data. Raises BadSignature if someone else has written the data into this row."""
        data: dict[str, object] = signing.loads(
            self.session_data, salt=data_salt(self.session_key), serializer=JSONSerializer
        )
        return data


def data_salt(digest: str) -> str:
    """Return the salt that binds a session's data to its row, so that copying the data to another row signs nobody in."""
    return f"connections.session:{digest}"
