from typing import Any

from django import forms

from connections.models import Tenant
from connections.validators import AddressField, NameField


class MailboxForm(forms.Form):
    address = AddressField()
    display_name = NameField(label="Name", required=False, help_text="For example “Support”.")
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        empty_label=None,
        error_messages={
            "required": "Choose the tenant of the mailbox.",
            "invalid_choice": "Choose a tenant from the list.",
        },
    )
    field_order = ("tenant", "address", "display_name")

    def __init__(self, *args: Any, tenants: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tenant"].queryset = tenants  # type: ignore[attr-defined]


class MailboxEditForm(forms.Form):
    address = AddressField(help_text="If you change the address, all connections with this mailbox test it again.")
    display_name = NameField(label="Name", required=False, help_text="For example “Support”.")


class AttachForm(forms.Form):
    address = AddressField(
        label="Shared mailbox",
        help_text="Choose a mailbox or enter an address. New addresses are added to the connection's tenant.",
        widget=forms.TextInput(attrs={"list": "known-mailboxes", "placeholder": "support@contoso.com"}),
    )
