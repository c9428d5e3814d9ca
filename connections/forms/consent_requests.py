from typing import Any

from django import forms

from connections.services.consent.requests import LONGEST_TEXT


class ReasonField(forms.CharField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=LONGEST_TEXT, widget=forms.Textarea(attrs={"rows": 3}), **kwargs)


class AskForm(forms.Form):
    reason = ReasonField(
        label="Justification",
        help_text="Explain to the IT admins what you need the permissions for, and how long.",
        error_messages={"required": "Enter a justification."},
    )
