"""Forms about accounts."""

from django import forms
from django.contrib.auth.forms import AuthenticationForm, UsernameField

from connections.models import User


class PasswordSignIn(AuthenticationForm):
    """Name and password of a local account. The error is the same whichever is wrong."""

    # Django only announces the maximum length. Longer names would not fit into the log of failures.
    username = UsernameField(
        max_length=User._meta.get_field("username").max_length,
        widget=forms.TextInput(attrs={"autofocus": True, "autocapitalize": "none", "autocomplete": "username"}),
    )

    error_messages = {
        "invalid_login": "This name and password do not fit together. Both are case-sensitive.",
        "inactive": "This name and password do not fit together. Both are case-sensitive.",
    }
