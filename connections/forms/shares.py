from datetime import timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateformat import format as date_format

from connections.forms.pickers import PickerField
from connections.forms.recipients import RecipientsField
from connections.models import Share, Team, User
from connections.validators import REASON_LENGTH, LastDayField, NameField, PastedField


class ShareForm(forms.Form):
    """The recipients of a new share, their role, and until when the share lasts."""

    whom = PickerField(
        "recipients",
        label="Share with",
        help_text="Name, user name or email address of a person or service account, or the name of a team.",
    )
    others = RecipientsField(label="More recipients", required=False, rows=2)
    level = forms.ChoiceField(
        label="Role", choices=Share.Level.choices, initial=Share.Level.USE, widget=forms.RadioSelect
    )
    until = LastDayField(
        label="Expires on",
        required=False,
        help_text="Expires at the end of this day (UTC). Leave empty for no expiration.",
    )
    understood = forms.BooleanField(
        label="I understand what I'm sharing",
        error_messages={"required": "Confirm that you understand what you're sharing."},
    )

    def __init__(
        self, *args: Any, people: QuerySet[User], teams: QuerySet[Team], longest_days: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if longest_days is not None:
            # The service enforces the policy's limit. The form only informs people about it.
            last = timezone.now().date() + timedelta(days=longest_days)
            until = self.fields["until"]
            until.required = True
            until.widget.attrs["max"] = last.isoformat()
            last_day = date_format(last, "j F Y")
            until.help_text = f"Expires at the end of this day (UTC). Your policy allows up to {last_day}."
        for field in (cast(PickerField, self.fields["whom"]), cast(RecipientsField, self.fields["others"])):
            field.people, field.teams = people, teams

    def recipients(self) -> tuple[User | Team, ...]:
        """Return all recipients without duplicates."""
        people, teams = self.cleaned_data["others"]
        return tuple(dict.fromkeys((self.cleaned_data["whom"], *people, *teams)))


class EmergencyForm(forms.Form):
    """For how long and why an IT admin needs someone else's connection."""

    hours = forms.IntegerField(label="Hours", min_value=1, initial=1)
    reason = forms.CharField(
        label="Reason",
        widget=forms.Textarea(attrs={"rows": 3}),
        max_length=REASON_LENGTH,
        help_text="Visible to the owner, all IT admins and all auditors.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        longest = settings.EMERGENCY_ACCESS_HOURS
        self.fields["hours"].widget.attrs["max"] = longest
        self.fields["hours"].help_text = f"{longest} at most."


class TeamForm(forms.Form):
    name = NameField()
    entra_group = PastedField(
        label="Entra group",
        required=False,
        max_length=120,
        help_text="Object ID of an Entra group. Membership is synced when people sign in with Microsoft. "
        "Leave empty to add members manually.",
    )


class MemberForm(forms.Form):
    user = PickerField("people", label="Person", help_text="Name, user name or email address.")

    def __init__(self, *args: Any, people: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(PickerField, self.fields["user"]).people = people
