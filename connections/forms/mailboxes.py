from typing import Any

from django import forms

from connections.models import Tenant
from connections.validators import AddressField, NameField


class MailboxForm(forms.Form):
    address = AddressField()
    display_name = NameField(label="Name", required=False, help_text="How people call it, for example “Support”.")
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        empty_label=None,
        error_messages={
            "required": "Choose the tenant the mailbox lives in.",
            "invalid_choice": "Choose one of the tenants of the list.",
        },
    )
    field_order = ("tenant", "address", "display_name")

    def __init__(self, *args: Any, tenants: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tenant"].queryset = tenants  # type: ignore[attr-defined]


class MailboxEditForm(forms.Form):
    address = AddressField(help_text="A new address is tested again by every connection that has the mailbox attached.")
    display_name = NameField(label="Name", required=False, help_text="How people call it, for example “Support”.")


class AttachForm(forms.Form):
    address = AddressField(
        label="Shared mailbox",
        help_text="Choose a registered mailbox or type an address; a new one is registered in the connection's tenant.",
        widget=forms.TextInput(attrs={"list": "known-mailboxes", "placeholder": "support@contoso.com"}),
    )
