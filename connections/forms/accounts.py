from django import forms
from django.contrib.auth.forms import AuthenticationForm, UsernameField

from connections.models import User


class PasswordSignIn(AuthenticationForm):
    """Name and password of a local account. The error does not reveal which of the two is wrong."""

    # Django only tells the browser the maximum length. Longer names would not fit into the log of failed sign-ins.
    username = UsernameField(
        max_length=User._meta.get_field("username").max_length,
        widget=forms.TextInput(attrs={"autofocus": True, "autocapitalize": "none", "autocomplete": "username"}),
    )

    error_messages = {
        "invalid_login": "This name and password do not fit together. Both are case-sensitive.",
        "inactive": "This name and password do not fit together. Both are case-sensitive.",
    }
