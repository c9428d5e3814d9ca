"""Forms about accounts."""

from django.contrib.auth.forms import AuthenticationForm


class PasswordSignIn(AuthenticationForm):
    """Name and password of a local account. Whatever is wrong, the answer is the same."""

    error_messages = {
        "invalid_login": "This name and password do not fit together. Both are case-sensitive.",
        "inactive": "This name and password do not fit together. Both are case-sensitive.",
    }
