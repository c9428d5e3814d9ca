from typing import Any

from django import forms

from connections.forms.consent_requests import ReasonField


class DecisionForm(forms.Form):
    """The answer to a request of any kind. ``declining``: whether a reason is required."""

    reason = ReasonField(
        label="Reason",
        help_text="The requester will see it. Required if you decline.",
        required=False,
        error_messages={"required": "Enter a reason. The requester will see it."},
    )

    def __init__(self, *args: Any, declining: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = declining


class ConsentDecisionForm(DecisionForm):
    """``seen`` is the request's state when the page was shown; ``others`` is the number of similar requests."""

    and_same = forms.BooleanField(label="Decline similar requests too", required=False)
    seen = forms.CharField(max_length=10, widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, others: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not others:
            del self.fields["and_same"]
