from typing import Any

from django import forms
from django.db.models import QuerySet

from connections.models import User
from connections.validators import NameField


class ServiceAccountForm(forms.Form):
    """A service account. ``named=False`` leaves out the name."""

    name = NameField(help_text="What acts with it, for example “Invoice robots”.")
    purpose = forms.CharField(
        label="What is it for",
        max_length=1000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Somebody who finds it in two years should know whether it is still needed.",
    )
    responsible = forms.ModelChoiceField(
        User.objects.none(),
        label="Who is responsible",
        empty_label="Choose a person",
        help_text="Is told before its keys end, and of what stops its connections.",
    )
    admin = forms.BooleanField(
        label="It may do what an IT admin may",
        required=False,
        help_text="Only for automating the portal itself. Whoever has one of its keys for admin:write can change tenants, "
        "app registrations and teams.",
    )
    auditor = forms.BooleanField(
        label="It may read the whole audit trail",
        required=False,
        help_text="For sending the audit trail to another system. It sees all connections, and fetches no token by that.",
    )

    def __init__(self, *args: Any, people: QuerySet[User], named: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["responsible"].queryset = people  # type: ignore[attr-defined]
        if not named:
            del self.fields["name"]
