"""Forms about accounts."""

from django import forms
from django.contrib.auth.forms import AuthenticationForm, UsernameField

from connections.models import User


class PasswordSignIn(AuthenticationForm):
    """Name and password of a local account. Whatever is wrong, the answer is the same."""

    # Django announces the length of a name but does not hold anybody to it; the failure log has no room for more.
    username = UsernameField(
        max_length=User._meta.get_field("username").max_length,
        widget=forms.TextInput(attrs={"autofocus": True, "autocapitalize": "none", "autocomplete": "username"}),
    )

    error_messages = {
        "invalid_login": "This name and password do not fit together. Both are case-sensitive.",
        "inactive": "This name and password do not fit together. Both are case-sensitive.",
    }
