"""What is typed about an API key."""

from __future__ import annotations

import ipaddress
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils import timezone

from connections.forms.fields import NameField
from connections.models import ApiKey, Connection

MOST_NETWORKS = 20


class NetworksField(forms.CharField):
    """Networks or single addresses, separated by spaces, commas or lines; cleaned to a list of CIDR texts."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "10.20.0.0/16"})
        super().__init__(required=False, max_length=2000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        if len(words) > MOST_NETWORKS:
            raise forms.ValidationError(f"At most {MOST_NETWORKS} networks.")
        return [self._network(word) for word in words]

    @staticmethod
    def _network(word: str) -> str:
        try:
            return str(ipaddress.ip_network(word, strict=False))
        except ValueError as error:
            raise forms.ValidationError(
                f"“{word[:60]}” is no network. Write an address like 10.20.30.40, or a network like 10.20.0.0/16."
            ) from error


class ApiKeyForm(forms.Form):
    """A new API key."""

    name = NameField(help_text="What uses it, for example “Invoice robot on server 7”.")
    scopes = forms.MultipleChoiceField(
        label="What may it be used for",
        choices=ApiKey.Scope.choices,
        initial=[ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one."},
    )
    expires_on = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="The last day it works (UTC). Left empty, it works until somebody revokes it.",
    )
    connections = forms.ModelMultipleChoiceField(
        Connection.objects.none(),
        label="Only these connections",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None ticked: all that you may use, also later ones.",
    )
    networks = NetworksField(label="Only from these networks", help_text="Left empty: from anywhere.")

    def __init__(self, *args: Any, usable: QuerySet[Connection], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["connections"].queryset = usable  # type: ignore[attr-defined]

    def clean_expires_on(self) -> datetime | None:
        day: date | None = self.cleaned_data["expires_on"]
        if day is None:
            return None
        if day < timezone.now().date():
            raise forms.ValidationError("This day is over. Choose today or a later one.")
        return datetime.combine(day + timedelta(days=1), time.min, UTC)
