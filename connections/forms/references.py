from typing import Any

from django import forms
from django.db.models import QuerySet

from connections.models import Team
from connections.validators import PastedField


class TargetForm(forms.Form):
    """The connection to point at. It is typed, because a list of choices would grow with the organisation."""

    connection = PastedField(label="Connection", max_length=120, help_text="ID or exact name of a connection.")


class ReferenceDetailsForm(forms.Form):
    description = forms.CharField(
        label="Description", max_length=200, required=False, help_text="What automations use it for."
    )
    team = forms.ModelChoiceField(
        Team.objects.none(),
        label="Team",
        required=False,
        empty_label="None",
        help_text="Its members can point the reference at another connection, too.",
    )

    def __init__(self, *args: Any, teams: QuerySet[Team], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["team"].queryset = teams  # type: ignore[attr-defined]


class ReferenceForm(ReferenceDetailsForm, TargetForm):
    name = PastedField(
        label="Name",
        max_length=63,
        help_text="Lowercase letters, digits and hyphens, for example invoices-inbox. You can't change it later.",
    )
    field_order = ("name", "connection", "description", "team")
