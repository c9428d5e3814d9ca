from django import forms
from django.contrib.auth.forms import AuthenticationForm, SetPasswordForm, UsernameField

from connections import time_zones
from connections.models import User


class PasswordSignIn(AuthenticationForm):
    """Name and password of a local account. The error does not reveal which of the two is wrong."""

    # Django only tells the browser the maximum length. Longer names would not fit into the log of failed sign-ins.
    username = UsernameField(
        max_length=User._meta.get_field("username").max_length,
        widget=forms.TextInput(attrs={"autofocus": True, "autocapitalize": "none", "autocomplete": "username"}),
    )

    error_messages = {
        "invalid_login": "Incorrect user name or password. Both are case-sensitive.",
        "inactive": "Incorrect user name or password. Both are case-sensitive.",
        "left": "This account is suspended, because its Microsoft account is disabled or deleted. Sign in with Microsoft.",
    }

    def confirm_login_allowed(self, user: User) -> None:
        """Reject a person who has left. A local password does not prove that they have returned."""
        super().confirm_login_allowed(user)
        if user.is_suspended:
            raise forms.ValidationError(self.error_messages["left"], code="left")


class TimeZoneForm(forms.Form):
    time_zone = forms.ChoiceField(
        label="Time zone",
        required=False,
        choices=lambda: [("", "Same as the browser"), *((name, name.replace("_", " ")) for name in time_zones.names())],
        help_text="For times on pages and in emails. Emails use UTC unless you choose a time zone.",
    )


class SecondFactorForm(forms.Form):
    """A code, or the response of a passkey, which the page's script fills in."""

    code = forms.CharField(
        label="Code",
        max_length=40,
        required=False,
        help_text="From your authenticator app, or one of your recovery codes.",
        widget=forms.TextInput(
            attrs={"autofocus": True, "autocomplete": "one-time-code", "autocapitalize": "none", "spellcheck": "false"}
        ),
    )
    passkey = forms.CharField(max_length=20_000, required=False, widget=forms.HiddenInput)


class AppForm(forms.Form):
    """A new authenticator app: the shared key shown on the page, and the app's first code."""

    name = forms.CharField(
        label="Name", max_length=100, initial="Authenticator app", help_text="Helps you recognize it."
    )
    secret = forms.RegexField(r"\A[A-Z2-7]{32}\Z", widget=forms.HiddenInput)
    code = forms.CharField(label="Code", max_length=10, widget=forms.TextInput(attrs={"autocomplete": "one-time-code"}))


class PasskeyForm(forms.Form):
    """A new passkey. The page's script fills in the browser's response."""

    name = forms.CharField(label="Name", max_length=100, initial="Passkey", help_text="Helps you recognize it.")
    passkey = forms.CharField(max_length=20_000, widget=forms.HiddenInput)


class NewPasswordForm(SetPasswordForm):  # type: ignore[type-arg]
    """A new local password, entered twice.

    It doesn't ask for the old password, because the page requires a fresh sign-in.
    """


class ConfirmPasswordForm(forms.Form):
    password = forms.CharField(
        label="Password",
        strip=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "current-password"}),
    )
