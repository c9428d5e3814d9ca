from datetime import UTC, datetime
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator
from django.utils import timezone

from connections.services.sharing.history_queries import Window

LARGEST_ID = 2**63 - 1


class AccessHistoryForm(forms.Form):
    """A connection or person (by ID or part of the name), a day and, for a single moment, a time."""

    q = forms.CharField(required=False, max_length=100)
    connection = forms.IntegerField(required=False, min_value=1, validators=[MaxValueValidator(LARGEST_ID)])
    person = forms.IntegerField(required=False, min_value=1, validators=[MaxValueValidator(LARGEST_ID)])
    find = forms.ChoiceField(required=False, choices=[("connection", "Connection"), ("person", "Person")])
    date = forms.DateField(
        label="Day (UTC)",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        error_messages={"invalid": "Enter the date as year-month-day, for example 2026-03-31."},
    )
    time = forms.TimeField(
        label="Time (UTC)",
        required=False,
        widget=forms.TimeInput(attrs={"type": "time", "step": "1"}),
        error_messages={"invalid": "Enter the time in hours and minutes, for example 14:30."},
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        now = timezone.now()
        day, at = cleaned.get("date") or now.astimezone(UTC).date(), cleaned.get("time")
        cleaned["date"] = day
        if day > now.astimezone(UTC).date():
            self.add_error("date", "The date is in the future. Choose today or an earlier date.")
        elif at and datetime.combine(day, at, UTC) > now:
            self.add_error("time", "The time is in the future. Choose an earlier time.")
        return cleaned

    @property
    def about(self) -> str:
        """Return "connection", "person", or "" if nothing was entered. Call is_valid() first."""
        for name in ("connection", "person"):
            if self.cleaned_data.get(name):
                return name
        return self.cleaned_data.get("find") or "connection" if self.cleaned_data.get("q") else ""

    def window(self) -> Window:
        """Return the chosen moment or day. Call is_valid() first."""
        day, at = self.cleaned_data["date"], self.cleaned_data.get("time")
        if at:
            return Window.moment(datetime.combine(day, at, UTC))
        return Window.day(day, now=timezone.now())
