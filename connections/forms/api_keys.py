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
    """IP networks or addresses, separated by spaces, commas, semicolons or line breaks. Cleaned to CIDR notation."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "10.20.0.0/16"})
        super().__init__(required=False, max_length=2000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        if len(words) > MOST_NETWORKS:
            raise forms.ValidationError(f"Enter at most {MOST_NETWORKS} networks.")
        networks = []
        for word in words:
            try:
                networks.append(str(ipaddress.ip_network(word, strict=False)))
            except ValueError as error:
                raise forms.ValidationError(
                    f"“{word[:60]}” isn't a valid network. Enter an address like 10.20.30.40 or a network like 10.20.0.0/16."
                ) from error
        return networks


class _LastDayForm(forms.Form):
    expires_on = LastDayField(label="Expires on")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field, most = self.fields["expires_on"], settings.API_KEY_MAX_DAYS
        field.required = bool(most)
        field.initial = timezone.now().date() + timedelta(days=min(USUAL_DAYS, most or USUAL_DAYS))
        field.help_text = "Expires at the end of this day (UTC). We email the owner 14, 7 and 1 days before. " + (
            f"The maximum is {most} days from now." if most else "Leave empty for no expiration."
        )

    def clean_expires_on(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_on"]
        most = settings.API_KEY_MAX_DAYS
        if expires_at and most and expires_at > end_of_day(timezone.now().date() + timedelta(days=most)):
            raise forms.ValidationError(f"Choose a date within the next {most} days.")
        return expires_at


class ApiKeyForm(_LastDayForm):
    """A new API key. ``scopes`` are those that its owner may choose from."""

    name = NameField(help_text="The automation that uses the key, for example “Invoice robot on server 7”.")
    scopes = forms.MultipleChoiceField(
        label="Scopes",
        initial=[ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one scope."},
    )
    connections = forms.ModelMultipleChoiceField(
        Connection.objects.none(),
        label="Limit to connections",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="If none are selected, the key works for all connections its owner can use, including later ones.",
    )
    networks = NetworksField(label="Limit to networks", help_text="Leave empty to allow all networks.")
    can_narrow = forms.BooleanField(
        label="Allow tokens with fewer permissions",
        required=False,
        help_text="The automation can then request delegated tokens with only some of a connection's permissions.",
    )
    field_order = ("name", "scopes", "expires_on", "connections", "networks", "can_narrow")

    def __init__(self, *args: Any, usable: QuerySet[Connection], scopes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["connections"].queryset = usable  # type: ignore[attr-defined]
        self.fields["scopes"].choices = [  # type: ignore[attr-defined]
            (value, f"{label} ({value})") for value, label in ApiKey.Scope.choices if value in scopes
        ]


class RotationForm(_LastDayForm):
    """A new secret for an API key. The field ``overlap`` is cleaned to a timedelta."""

    overlap = forms.TypedChoiceField(
        label="Keep the old secret valid for",
        choices=(
            (0, "0 hours (revoke immediately)"),
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
        label="Rate limit (calls per minute)",
        required=False,
        min_value=0,
        max_value=1_000_000,
        help_text="Leave empty for the default limit. Enter 0 for no limit.",
    )
