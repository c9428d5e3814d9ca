"""Filters of the audit trail."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

from django import forms
from django.db.models import Q, QuerySet

from connections.models import AuditEvent


class AuditFilter(forms.Form):
    """Who, what, on what, how it ended, when. Every field may be left empty."""

    q = forms.CharField(label="Name", required=False, max_length=100)
    who = forms.CharField(label="Who", required=False, max_length=100)
    action = forms.ChoiceField(label="What", required=False)
    target_type = forms.ChoiceField(label="On", required=False)
    outcome = forms.ChoiceField(label="Outcome", required=False, choices=[("", "All"), *AuditEvent.Outcome.choices])
    date_from = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    date_to = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    target_id = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput)

    def __init__(self, *args: Any, actions: dict[str, str], target_types: dict[str, str], **kwargs: Any) -> None:
        """``actions`` and ``target_types``: what may be chosen, each with its words."""
        super().__init__(*args, **kwargs)
        self._offer("action", actions)
        self._offer("target_type", target_types)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("date_from"), cleaned.get("date_to")
        if first and last and first > last:
            self.add_error("date_to", "The last day lies before the first one. Swap them.")
        return cleaned

    @property
    def active(self) -> bool:
        """Whether anything narrows the list, or tried to."""
        return any(self.data.get(name) for name in self.fields)

    @property
    def clear_url(self) -> str:
        """The list without filters."""
        return "?"

    def narrow(self, events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        """The events that fit what was filled in correctly. Call is_valid() first."""
        return narrowed(events, self.cleaned_data)

    def _offer(self, name: str, values: dict[str, str]) -> None:
        field = cast(forms.ChoiceField, self.fields[name])
        field.choices = [("", "All"), *sorted(values.items(), key=lambda value: value[1])]


def narrowed(events: QuerySet[AuditEvent], entries: Mapping[str, Any]) -> QuerySet[AuditEvent]:
    """The events that fit valid entries of an AuditFilter; what is empty narrows nothing."""
    given = {name: value for name, value in entries.items() if value}
    if "q" in given:
        events = events.filter(Q(target_name__icontains=given["q"]) | Q(actor_name__icontains=given["q"]))
    if "who" in given:
        events = events.filter(actor_name__icontains=given["who"])
    equal = {name: given[name] for name in ("action", "target_type", "target_id", "outcome") if name in given}
    events = events.filter(**equal)
    if "date_from" in given:
        events = events.filter(at__gte=_midnight(given["date_from"]))
    if "date_to" in given and given["date_to"] < date.max:
        events = events.filter(at__lt=_midnight(given["date_to"] + timedelta(days=1)))
    return events


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
