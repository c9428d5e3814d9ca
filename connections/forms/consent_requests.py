from typing import Any

from django import forms

from connections.services.consent.requests import LONGEST_TEXT


class ReasonField(forms.CharField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=LONGEST_TEXT, widget=forms.Textarea(attrs={"rows": 3}), **kwargs)


class AskForm(forms.Form):
    reason = ReasonField(
        label="What do you need it for?",
        help_text="The IT admins read this. Say which work it is for, and until when.",
        error_messages={"required": "Say in a few sentences what you need it for."},
    )


class DeclineForm(forms.Form):
    """The reason for declining. ``seen`` is the request's state when the page was shown."""

    reason = ReasonField(
        label="Reason",
        help_text="The requester reads this. Say what they can do instead.",
        error_messages={"required": "Say why, so that they know what to do instead."},
    )
    and_same = forms.BooleanField(label="Answer the others who ask for the same alike", required=False)
    seen = forms.CharField(max_length=10, widget=forms.HiddenInput)

    def __init__(self, *args: Any, others: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not others:
            del self.fields["and_same"]
