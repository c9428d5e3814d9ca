import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from django import forms
from django.db.models import QuerySet

from connections.models import AppRegistration, Tenant
from connections.services.governance.access_reviews import (
    ANSWERS,
    LEAST_DAYS,
    MOST_DAYS,
    MOST_ROWS,
    NOTE_LENGTH,
    Answer,
)
from connections.validators import LATEST_DAY, NameField, end_of_day

_ROW = re.compile(r"answer-([0-9]{1,18})", re.ASCII)


class ReviewForm(forms.Form):
    name = NameField(label="Name", help_text="Shown in the report, for example “Q4 2026”.")
    covers = forms.ChoiceField(label="Scope", initial="all")
    due = forms.DateField(
        label="Last day",
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Owners can answer until the end of this day (UTC). Unanswered access is removed on that date.",
    )

    def __init__(self, *args: Any, apps: QuerySet[AppRegistration], tenants: QuerySet[Tenant], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._apps = {f"app:{app.pk}": app for app in apps}
        self._tenants = {f"tenant:{tenant.pk}": tenant for tenant in tenants}
        self.fields["covers"].choices = [  # type: ignore[attr-defined]
            ("all", "All shares"),
            ("Connections of a tenant", [(key, tenant.name) for key, tenant in self._tenants.items()]),
            ("Connections of an app registration", [(key, app.name) for key, app in self._apps.items()]),
        ]

    def clean_due(self) -> datetime:
        day: date = self.cleaned_data["due"]
        if day > LATEST_DAY:
            raise forms.ValidationError("This date is too far in the future. Choose an earlier date.")
        return end_of_day(day)

    def covered(self) -> dict[str, AppRegistration | Tenant | None]:
        """Return the chosen scope as keyword arguments for access_reviews.start."""
        key = self.cleaned_data["covers"]
        return {"app_registration": self._apps.get(key), "tenant": self._tenants.get(key)}


class ScheduleForm(forms.Form):
    is_on = forms.BooleanField(label="Start a review of all shares every quarter", required=False)
    days = forms.IntegerField(
        label="Days to answer",
        min_value=LEAST_DAYS,
        max_value=MOST_DAYS,
        help_text="From the first day of the quarter.",
    )


def answers(data: Mapping[str, str]) -> dict[int, Answer]:
    """Return the answers on the submitted page by item ID. Invalid ones are left out."""
    answered: dict[int, Answer] = {}
    for key in data:
        row = _ROW.fullmatch(key)
        if row is None or data[key] not in ANSWERS or len(answered) >= MOST_ROWS:
            continue
        note = " ".join(data.get(f"note-{row[1]}", "").replace("\x00", "").split())[:NOTE_LENGTH]
        answered[int(row[1])] = Answer(data[key], note)
    return answered
