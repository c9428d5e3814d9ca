from typing import Any

from django import forms

from connections.models import AlertChannel, AlertChoice
from connections.validators import NameField, TargetField


class ChannelForm(forms.Form):
    kind = forms.ChoiceField(
        label="Type",
        choices=AlertChannel.Kind.choices,
        initial=AlertChannel.Kind.CHAT,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose a channel type."},
    )
    name = NameField(help_text="For example “Teams: IT operations”.")
    url = TargetField(
        help_text="Teams: open the channel's menu, choose Workflows, then “Send webhook alerts to a channel”, and copy "
        "the address. It's stored encrypted and won't be shown again."
    )


class ChannelEditForm(forms.Form):
    name = NameField()
    url = TargetField(required=False, help_text="Leave empty to keep the current address.")


class PreferencesForm(forms.Form):
    """A person's email preferences. ``is_admin`` adds those that only IT admins have."""

    own_incidents = forms.BooleanField(
        label="Issues assigned to me", required=False, help_text="For example, when you need to sign in again."
    )
    reminders = forms.BooleanField(
        label="Reminders for unresolved issues",
        required=False,
        help_text="After 4 hours, 1 day, 3 days and 1 week, then weekly.",
    )
    recoveries = forms.BooleanField(
        label="Resolved issues", required=False, help_text="Only for issues we emailed you about."
    )
    organisation_incidents = forms.BooleanField(
        label="Issues assigned to others",
        required=False,
        help_text="A copy of all other alerts of the organisation, including Microsoft outages.",
    )
    expiry_warnings = forms.BooleanField(
        label="Expiring secrets and certificates",
        required=False,
        help_text="60, 30, 14, 7 and 1 days before they expire.",
    )
    messages = forms.BooleanField(
        label="Requests and reviews",
        required=False,
        help_text="Requests assigned to you, and answers to your requests.",
    )

    def __init__(self, *args: Any, choice: AlertChoice, is_admin: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_admin:
            help_text = "All issues assigned to IT admins, and sign-ins for your connections."
            self.fields["own_incidents"].help_text = help_text
        else:
            del self.fields["organisation_incidents"], self.fields["expiry_warnings"]
        self.initial = {name: getattr(choice, name) for name in self.fields}
