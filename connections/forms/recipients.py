"""A field for several people, service accounts and teams: one per line, with suggestions while typing (picker.js)."""

import re
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from connections.access import search
from connections.forms.pickers import LENGTH, label_of
from connections.models import Team, User

MOST_LINES = 20
# A suggestion, as made by pickers.label_of: "Una User (una)", "Finance (team)".
_LABEL = re.compile(r"(.+) \(([^()]+)\)")
Recipients = tuple[tuple[User, ...], tuple[Team, ...]]


class LinesInput(forms.Textarea):
    """A text area with suggestions for each line."""

    def __init__(self, rows: int) -> None:
        super().__init__({"rows": rows, "spellcheck": "false", "autocapitalize": "none", "autocomplete": "off"})

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        context = {"input": super().render(name, value, attrs, renderer), "source": "recipients"}
        return render_to_string("partials/picker_lines.html", context)


class RecipientsField(forms.CharField):
    """People, service accounts and teams, one per line. Cleaned to ``(people, teams)`` without duplicates.

    A line is a user name, an email address, the name of a person, service account or team, or a suggestion. The form
    must set ``people`` and ``teams`` to the available ones.
    """

    def __init__(self, *, rows: int = 4, **kwargs: Any) -> None:
        help_text = "One name, user name, email address or team per line."
        defaults: dict[str, Any] = {
            "help_text": help_text,
            "widget": LinesInput(rows),
            "max_length": MOST_LINES * LENGTH,
        }
        super().__init__(**defaults | kwargs)
        self.people: QuerySet[User] = User.objects.none()
        self.teams: QuerySet[Team] = Team.objects.none()

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(label_of(each) for each in value) if isinstance(value, tuple) else value

    def clean(self, value: Any) -> Recipients:
        lines = (" ".join(line.split())[:LENGTH] for line in super().clean(value).splitlines())
        names = list(dict.fromkeys(filter(None, lines)))
        if len(names) > MOST_LINES:
            raise forms.ValidationError(f"Enter up to {MOST_LINES} people and teams.")
        chosen = dict.fromkeys(self._find(name) for name in names)
        people = tuple(each for each in chosen if isinstance(each, User))
        return people, tuple(each for each in chosen if isinstance(each, Team))

    def _find(self, name: str) -> User | Team:
        exact = search.named_exactly(name, self.people, self.teams)
        # Check both, because a person's name can look like the suggestion for another person.
        matches = list(dict.fromkeys([*exact, *self._labelled(name)]))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise forms.ValidationError(f"“{name}” is ambiguous. Enter the user name instead.")
        raise forms.ValidationError(f"No person, service account or team is called “{name}”.")

    def _labelled(self, text: str) -> list[User | Team]:
        """Return the people or teams whose suggestion is this text."""
        label = _LABEL.fullmatch(text)
        if label is None:
            return []
        name, what = label.groups()
        people = self.people.none() if what == "team" else self.people
        teams = self.teams if what == "team" else self.teams.none()
        matches = search.named_exactly(name if what in ("team", "service account") else what, people, teams)
        return [each for each in matches if label_of(each).lower() == text.lower()]
