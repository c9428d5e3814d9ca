"""A text field for a person or team, with suggestions while typing. Without JavaScript, it offers choices on
submission.

``PickerField`` accepts an exact user name, email address or name, or the key of a choice ("person:12", "team:5"). If
the text is not exact, the form offers the matches as choices. ``views/pickers.py`` sends the suggestions.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from connections.access import search
from connections.models import Team, User

LENGTH = 320
_KEY = re.compile(r"(person|team):([0-9]{1,18})", re.ASCII)
Picked = User | Team


@dataclass(frozen=True, slots=True)
class Typed:
    """The text that was entered, and the key of the choice for it ("" if none was chosen)."""

    text: str = ""
    key: str = ""


def key_of(item: Picked) -> str:
    return f"{'team' if isinstance(item, Team) else 'person'}:{item.pk}"


def label_of(item: Picked) -> str:
    """Return the name with an addition that distinguishes it from equal names."""
    if isinstance(item, Team):
        return f"{item} (team)"
    return f"{item} (service account)" if item.is_service else f"{item} ({item.username})"


def suggestions(items: Iterable[Picked]) -> list[dict[str, str]]:
    return [{"key": key_of(item), "label": label_of(item)} for item in items]


class PickerInput(forms.TextInput):
    def __init__(self, source: str, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"autocomplete": "off", "spellcheck": "false", "maxlength": LENGTH} | (attrs or {}))
        self.source = source  # the key of pickers.SOURCES for the suggestions; see views/pickers.py
        self.choices: list[dict[str, str]] = []  # matches that PickerField.clean sets if the text is not exact

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Typed:
        """Return the text and the choice. A choice is dropped if the text was changed after it."""
        text = " ".join(str(data.get(name) or "").split())
        is_current = " ".join(str(data.get(f"{name}-for") or "").split()) == text
        return Typed(text, str(data.get(f"{name}-choice") or "") if is_current else "")

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        typed = value if isinstance(value, Typed) else Typed(str(value or ""))
        key = "" if self.choices else typed.key
        context: dict[str, Any] = {
            "input": super().render(name, typed.text, attrs, renderer),
            "name": name,
            "source": self.source,
        }
        context |= {"choices": self.choices, "key": key, "text": typed.text, "id": (attrs or {}).get("id", name)}
        return render_to_string("partials/picker.html", context)


class PickerField(forms.Field):
    """A person, service account or team from the querysets ``people`` and ``teams``, which the form sets."""

    def __init__(self, source: str, **kwargs: Any) -> None:
        messages = {
            "required": "Enter a name, a user name or an email address.",
            "ambiguous": "Choose one of the matches below.",
            "unknown": "No match. Enter a user name, an email address, or part of a name.",
            "invalid_choice": "This choice isn't available. Enter another name.",
        }
        errors = messages | kwargs.pop("error_messages", {})
        super().__init__(widget=PickerInput(source), error_messages=errors, **kwargs)
        self.people: QuerySet[User] = User.objects.none()
        self.teams: QuerySet[Team] = Team.objects.none()

    def prepare_value(self, value: Any) -> Any:
        return Typed(label_of(value), key_of(value)) if isinstance(value, User | Team) else value

    def clean(self, value: Any) -> Picked | None:
        typed = value if isinstance(value, Typed) else Typed(str(value or ""))
        if not typed.text and not typed.key:
            if self.required:
                raise ValidationError(self.error_messages["required"], code="required")
            return None
        key = _KEY.fullmatch(typed.key or typed.text)
        if typed.key or key:
            return self._chosen(key)
        return self._find(typed.text)

    def _chosen(self, key: re.Match[str] | None) -> Picked:
        rows: Any = self.teams if key and key[1] == "team" else self.people
        item: Picked | None = rows.filter(pk=int(key[2])).first() if key else None
        if item is None:
            raise ValidationError(self.error_messages["invalid_choice"], code="invalid_choice")
        return item

    def _find(self, text: str) -> Picked:
        if len(text) > LENGTH or "\x00" in text:
            raise ValidationError(self.error_messages["unknown"], code="unknown")
        exact = search.named_exactly(text, self.people, self.teams)
        if len(exact) == 1:
            return exact[0]
        self.widget.choices = suggestions(exact or search.suggest(text, self.people, self.teams))
        code = "ambiguous" if self.widget.choices else "unknown"
        raise ValidationError(self.error_messages[code], code=code)
