from typing import Any

from django import forms

from connections.models import AlertChannel, AlertChoice
from connections.validators import NameField, TargetField


class ChannelForm(forms.Form):
    kind = forms.ChoiceField(
        label="Kind",
        choices=AlertChannel.Kind.choices,
        initial=AlertChannel.Kind.CHAT,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose what receives the alerts."},
    )
    name = NameField(help_text="For example “Teams: IT operations”.")
    url = TargetField(
        help_text="Teams: open the channel's menu, choose Workflows, then “Send webhook alerts to a channel”, and copy "
        "the address it makes. It is stored encrypted and never shown again."
    )


class ChannelEditForm(forms.Form):
    name = NameField()
    url = TargetField(required=False, help_text="Leave empty to keep the address there is.")


class PreferencesForm(forms.Form):
    """One person's e-mail preferences; ``is_admin`` adds the ones that only IT admins have."""

    own_incidents = forms.BooleanField(
        label="What I must mend", required=False, help_text="A connection of yours needs your sign-in."
    )
    reminders = forms.BooleanField(
        label="Reminders while it is not mended",
        required=False,
        help_text="After 4 hours, 1 day, 3 days and a week, then weekly.",
    )
    recoveries = forms.BooleanField(
        label="When it works again", required=False, help_text="Only for what you were told of."
    )
    organisation_incidents = forms.BooleanField(
        label="What others must mend, or Microsoft",
        required=False,
        help_text="A copy of every other alert of the organisation.",
    )
    expiry_warnings = forms.BooleanField(
        label="Secrets and certificates that expire soon", required=False, help_text="60, 30, 14, 7 and 1 days before."
    )
    messages = forms.BooleanField(
        label="What I am asked to decide, and answers to what I asked",
        required=False,
        help_text="Requests and reviews.",
    )

    def __init__(self, *args: Any, choice: AlertChoice, is_admin: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_admin:
            help_text = "Everything an IT admin must mend, and sign-ins of your connections."
            self.fields["own_incidents"].help_text = help_text
        else:
            del self.fields["organisation_incidents"], self.fields["expiry_warnings"]
        self.initial = {name: getattr(choice, name) for name in self.fields}
