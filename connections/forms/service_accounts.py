from typing import Any, cast

from django import forms
from django.db.models import QuerySet

from connections.forms.pickers import PickerField
from connections.models import User
from connections.validators import NameField


class ServiceAccountForm(forms.Form):
    """A service account. With ``named=False``, the form has no name."""

    name = NameField(help_text="For example “Invoice robots”.")
    purpose = forms.CharField(
        label="Purpose",
        max_length=1000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Describe the purpose, so that others can tell whether the account is still needed.",
    )
    responsible = PickerField(
        "people",
        label="Responsible person",
        help_text="Name, user name or email address. "
        "We email this person before keys expire and when the account's connections fail.",
    )
    admin = forms.BooleanField(
        label="Grant IT admin permissions",
        required=False,
        help_text="Only for automating the portal itself. Anyone with an admin:write key can change tenants, "
        "app registrations and teams.",
    )
    auditor = forms.BooleanField(
        label="Grant auditor permissions",
        required=False,
        help_text="For sending the audit trail to another system. The account can view all connections, but can't use them.",
    )

    def __init__(self, *args: Any, people: QuerySet[User], named: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(PickerField, self.fields["responsible"]).people = people
        if not named:
            del self.fields["name"]
