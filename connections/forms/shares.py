from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateformat import format as date_format

from connections.models import Share, Team, User
from connections.validators import LastDayField, NameField, PastedField


class ShareForm(forms.Form):
    """Who gets access, at which level, and until when. ``whom`` is a person or a team; see recipient_chosen()."""

    whom = forms.ChoiceField(label="With whom")
    level = forms.ChoiceField(
        label="What may they do", choices=Share.Level.choices, initial=Share.Level.USE, widget=forms.RadioSelect
    )
    until = LastDayField(
        label="Until",
        required=False,
        help_text="The last day it counts (UTC). Left empty, it counts until somebody ends it.",
    )
    understood = forms.BooleanField(
        label="I have read what this sharing means",
        error_messages={"required": "Read above what it means, and tick this box."},
    )

    def __init__(
        self, *args: Any, people: QuerySet[User], teams: QuerySet[Team], longest_days: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if longest_days is not None:
            # The service enforces the policy's limit; this only tells people in advance.
            last = timezone.now().date() + timedelta(days=longest_days)
            until = self.fields["until"]
            until.required = True
            until.widget.attrs["max"] = last.isoformat()
            shown = date_format(last, "j F Y")
            until.help_text = f"The last day it counts (UTC): {shown} at the latest, as the policy wants it."
        self._people = {f"person:{person.pk}": person for person in people}
        self._teams = {f"team:{team.pk}": team for team in teams}
        accounts = self._people.items()
        field = self.fields["whom"]
        field.choices = [  # type: ignore[attr-defined]
            ("", "Choose a person or a team"),
            ("Teams", [(key, str(team)) for key, team in self._teams.items()]),
            ("People", [(key, f"{user} ({user.username})") for key, user in accounts if not user.is_service]),
            ("Service accounts", [(key, f"{user} (service account)") for key, user in accounts if user.is_service]),
        ]

    def recipient_chosen(self) -> dict[str, User | Team | None]:
        """Return the chosen recipient as keyword arguments for shares.share."""
        key = self.cleaned_data["whom"]
        return {"person": self._people.get(key), "team": self._teams.get(key)}


class TeamForm(forms.Form):
    name = NameField()
    entra_group = PastedField(
        label="Entra group",
        required=False,
        max_length=120,
        help_text="Object ID of a group. People then join and leave the team as they sign in with Microsoft; "
        "left empty, members are put in by hand.",
    )


class MemberForm(forms.Form):
    user = forms.ModelChoiceField(User.objects.none(), label="Person", empty_label="Choose a person")

    def __init__(self, *args: Any, people: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["user"].queryset = people  # type: ignore[attr-defined]
