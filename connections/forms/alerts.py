"""What is typed about alerts: channels, and what one person wants to be told."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings

from connections.forms.fields import NameField, PastedField
from connections.models import AlertChannel, AlertChoice
from connections.outbound import http


class WriteOnlyInput(forms.TextInput):
    """Takes a value and never shows one: the address of a chat is its password."""

    def format_value(self, value: Any) -> None:
        return None


class TargetField(PastedField):
    """The address alerts are sent to. Where it leads is checked when it is saved, and at every use."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("label", "Address (URL)")
        super().__init__(max_length=2000, widget=WriteOnlyInput(attrs={"inputmode": "url"}), **kwargs)

    def to_python(self, value: Any) -> str:
        text = super().to_python(value)
        if not text:
            return ""
        try:
            return http.target(text, allow_private=settings.ALERT_PRIVATE_TARGETS).url
        except http.TargetRefused as refused:
            raise forms.ValidationError(str(refused)) from refused


class ChannelForm(forms.Form):
    """A channel to be added."""

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
    """What can be changed about a channel."""

    name = NameField()
    url = TargetField(required=False, help_text="Leave empty to keep the address there is.")

    def __init__(self, *args: Any, channel: AlertChannel, **kwargs: Any) -> None:
        kwargs["initial"] = {"name": channel.name}
        super().__init__(*args, **kwargs)


class ChoicesForm(forms.Form):
    """What one person wants by e-mail; ``is_admin`` adds what only IT admins get."""

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
        label="Secrets and certificates that expire soon",
        required=False,
        help_text="60, 30, 14, 7 and 1 days before.",
    )

    messages = forms.BooleanField(
        label="What I am asked to decide, and answers to what I asked",
        required=False,
        help_text="Requests and reviews.",
    )

    def __init__(self, *args: Any, choice: AlertChoice, is_admin: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_admin:
            own = "Everything an IT admin must mend, and sign-ins of your connections."
            self.fields["own_incidents"].help_text = own
        else:
            del self.fields["organisation_incidents"], self.fields["expiry_warnings"]
        self.initial = {name: getattr(choice, name) for name in self.fields}
