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


class DeclineForm(forms.Form):
    """The reason for declining a request. ``seen`` is the request's state when the page was shown."""

    reason = ReasonField(
        label="Reason",
        help_text="Shown to the requester. Explain what they can do instead.",
        error_messages={"required": "Enter a reason for the requester."},
    )
    and_same = forms.BooleanField(label="Decline similar requests too", required=False)
    seen = forms.CharField(max_length=10, widget=forms.HiddenInput)

    def __init__(self, *args: Any, others: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not others:
            del self.fields["and_same"]
