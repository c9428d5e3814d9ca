"""Browsers in which somebody has signed in, without going through the sign-in page."""

from django.test import Client
from django.utils import timezone

from connections.fresh_sign_in import FRESH_AT
from connections.models import User
from connections.session_store import SIGN_IN

LOCAL = "django.contrib.auth.backends.ModelBackend"
MICROSOFT = "connections.microsoft.backends.MicrosoftSignIn"


def sign_in(
    client: Client, user: User, *, backend: str = LOCAL, is_fresh: bool = True, second_factor: bool = True
) -> None:
    """Sign in as after the sign-in page: just now, unless ``is_fresh`` is false."""
    client.force_login(user, backend=backend)
    now = timezone.now().timestamp()
    session = client.session
    method = "microsoft" if backend == MICROSOFT else "password"
    session[SIGN_IN] = {"at": now, "method": method, "second_factor": second_factor}
    session[FRESH_AT] = now if is_fresh else 0
    session.save()
