from typing import Any, cast

from django import forms
from django.db.models import Q, QuerySet

from connections.models import AuditEvent, TokenFetch
from connections.models.audit import AuditAction
from connections.services.audit import event_filter

_DAY = forms.DateInput(attrs={"type": "date"})


class Period(forms.Form):
    date_from = forms.DateField(label="From", required=False, widget=_DAY)
    date_to = forms.DateField(label="To", required=False, widget=_DAY)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("date_from"), cleaned.get("date_to")
        if first and last and first > last:
            self.add_error("date_to", "The end date is before the start date. Swap the dates.")
        return cleaned

    @property
    def active(self) -> bool:
        return any(self.data.get(name) for name in self.fields)

    @property
    def clear_url(self) -> str:
        return "?"

    def within(self, column: str) -> Q:
        """Return a condition that restricts ``column`` to the chosen days."""
        return event_filter.between_days(column, self.cleaned_data.get("date_from"), self.cleaned_data.get("date_to"))


class AuditFilter(Period):
    q = forms.CharField(label="Object name", required=False, max_length=100)
    who = forms.CharField(label="Performed by", required=False, max_length=100)
    action = forms.ChoiceField(label="Event", required=False)
    target_type = forms.ChoiceField(label="Object type", required=False)
    outcome = forms.ChoiceField(label="Outcome", required=False, choices=[("", "All"), *AuditEvent.Outcome.choices])
    kind = forms.ChoiceField(
        label="Type", required=False, choices=[("", "All"), ("event", "Events"), ("fetch", "Token requests")]
    )
    target_id = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput)
    field_order = ("q", "who", "action", "target_type", "outcome", "kind", "date_from", "date_to")

    def __init__(self, *args: Any, actions: dict[str, str], target_types: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, labels in (("action", actions), ("target_type", target_types)):
            field = cast(forms.ChoiceField, self.fields[name])
            field.choices = [("", "All"), *sorted(labels.items(), key=lambda value: value[1])]

    def narrow(self, events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent] | None:
        """Return the matching events, or None if only token requests can match. Call is_valid() first."""
        entries = self.conditions()
        if entries.get("kind") == "fetch" or entries.get("action") == AuditAction.CONNECTION_TOKEN_FETCHED:
            return None
        return event_filter.filter_events(events, entries)

    def narrow_fetches(self, fetches: QuerySet[TokenFetch]) -> QuerySet[TokenFetch] | None:
        """Return the matching token requests, or None if only events can match. Call is_valid() first."""
        entries = self.conditions()
        theirs = {
            "kind": "fetch",
            "action": AuditAction.CONNECTION_TOKEN_FETCHED,
            "outcome": "done",
            "target_type": "Connection",
        }
        if any(entries.get(name, value) != value for name, value in theirs.items()):
            return None
        if "q" in entries:
            fetches = fetches.filter(Q(connection_name__icontains=entries["q"]) | Q(owner_name__icontains=entries["q"]))
        if "who" in entries:
            fetches = fetches.filter(Q(owner_name__icontains=entries["who"]) | Q(key_name__icontains=entries["who"]))
        if "target_id" in entries:
            if not entries["target_id"].isdecimal() or len(entries["target_id"]) > 18:
                return None
            fetches = fetches.filter(connection_ref=entries["target_id"])
        return fetches.filter(self.within("minute"))

    def conditions(self) -> dict[str, Any]:
        return {name: value for name, value in self.cleaned_data.items() if value}


class CreatorsForm(Period):
    q = forms.CharField(label="Connection or person", required=False, max_length=100)
    field_order = ("q", "date_from", "date_to")

    def narrow(self, events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        text = self.cleaned_data["q"]
        named = Q(target_name__icontains=text) | Q(actor_name__icontains=text) if text else Q()
        return events.filter(named, self.within("at"))


class TokenRequestsForm(Period):
    q = forms.CharField(label="Connection", required=False, max_length=120)
    field_order = ("q", "date_from", "date_to")

    def narrow(self, fetches: QuerySet[TokenFetch]) -> QuerySet[TokenFetch]:
        """Return the matching token requests. A number also matches the ID of a connection."""
        text = self.cleaned_data["q"]
        named = Q(connection_name__icontains=text)
        if text.isdecimal() and len(text) <= 18:
            named |= Q(connection_ref=int(text))
        return fetches.filter(named, self.within("minute"))


class ChangesForm(Period):
    """The two days to compare."""


class PermissionsForm(forms.Form):
    scope = forms.ChoiceField(label="Permission", required=False)

    def __init__(self, *args: Any, scopes: dict[str, int], **kwargs: Any) -> None:
        """``scopes`` maps each granted permission to its number of connections."""
        super().__init__(*args, **kwargs)
        field = cast(forms.ChoiceField, self.fields["scope"])
        field.choices = [
            ("", "Choose a permission"),
            *((scope, f"{scope} ({count})") for scope, count in scopes.items()),
        ]

    active, clear_url = Period.active, Period.clear_url
