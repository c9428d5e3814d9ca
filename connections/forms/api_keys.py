import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from connections.models import ApiKey, Connection
from connections.validators import LastDayField, NameField, end_of_day

MOST_NETWORKS = 20
USUAL_DAYS = 365


class NetworksField(forms.CharField):
    """IP networks or addresses, separated by spaces, commas or line breaks; cleaned to a list of CIDR strings."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "10.20.0.0/16"})
        super().__init__(required=False, max_length=2000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        if len(words) > MOST_NETWORKS:
            raise forms.ValidationError(f"At most {MOST_NETWORKS} networks.")
        networks = []
        for word in words:
            try:
                networks.append(str(ipaddress.ip_network(word, strict=False)))
            except ValueError as error:
                raise forms.ValidationError(
                    f"“{word[:60]}” is no network. Write an address like 10.20.30.40, or a network like 10.20.0.0/16."
                ) from error
        return networks


class _LastDayForm(forms.Form):
    expires_on = LastDayField(label="Last day")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field, most = self.fields["expires_on"], settings.API_KEY_MAX_DAYS
        field.required = bool(most)
        field.initial = timezone.now().date() + timedelta(days=min(USUAL_DAYS, most or USUAL_DAYS))
        field.help_text = "The last day it works (UTC). Its owner is told 14, 7 and 1 days before. " + (
            f"At most {most} days from now." if most else "Left empty, it works until somebody revokes it."
        )

    def clean_expires_on(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_on"]
        most = settings.API_KEY_MAX_DAYS
        if expires_at and most and expires_at > end_of_day(timezone.now().date() + timedelta(days=most)):
            raise forms.ValidationError(f"A key may last {most} days at most.")
        return expires_at


class ApiKeyForm(_LastDayForm):
    """A new API key. ``scopes`` are the scopes its owner may use."""

    name = NameField(help_text="What uses it, for example “Invoice robot on server 7”.")
    scopes = forms.MultipleChoiceField(
        label="What may it be used for",
        initial=[ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one."},
    )
    connections = forms.ModelMultipleChoiceField(
        Connection.objects.none(),
        label="Only these connections",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None ticked: all that the owner may use, also later ones.",
    )
    networks = NetworksField(label="Only from these networks", help_text="Left empty: from anywhere.")
    field_order = ("name", "scopes", "expires_on", "connections", "networks")

    def __init__(self, *args: Any, usable: QuerySet[Connection], scopes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["connections"].queryset = usable  # type: ignore[attr-defined]
        self.fields["scopes"].choices = [  # type: ignore[attr-defined]
            (value, f"{label} ({value})") for value, label in ApiKey.Scope.choices if value in scopes
        ]


class RotationForm(_LastDayForm):
    """A new secret for an API key. ``overlap`` is cleaned to a timedelta."""

    overlap = forms.TypedChoiceField(
        label="How long does the old secret go on working",
        choices=(
            (0, "Not at all: it ends at once"),
            (1, "1 hour"),
            (24, "24 hours"),
            (24 * 7, "7 days"),
            (24 * 30, "30 days"),
        ),
        initial=24,
        coerce=lambda hours: timedelta(hours=int(hours)),
        widget=forms.RadioSelect,
    )
    field_order = ("overlap", "expires_on")


class KeyLimitForm(forms.Form):
    rate_limit = forms.IntegerField(
        label="Calls in a minute",
        required=False,
        min_value=0,
        max_value=1_000_000,
        help_text="Left empty: as many as all keys. 0: any number.",
    )
