"""What is typed about shared mailboxes."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from connections.forms.fields import NameField, PastedField
from connections.models import SharedMailbox, Tenant

_EXAMPLE = "An address looks like support@contoso.com."


class AddressField(PastedField):
    """One mail address as people paste it; cleaned to the bare address with its domain in lower case."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("label", "Address")
        kwargs.setdefault("error_messages", {"required": "Enter the address of the shared mailbox."})
        super().__init__(max_length=500, **kwargs)

    def to_python(self, value: Any) -> str:
        text = super().to_python(value)
        if text.lower().startswith("mailto:"):
            text = text[len("mailto:") :].partition("?")[0]
        if text.endswith(">") and "<" in text:  # Support <support@contoso.com>
            text = text[text.rindex("<") + 1 : -1]
        text = text.strip()
        if not text:
            return ""
        return _checked(text)


def _checked(text: str) -> str:
    if "://" in text:
        raise ValidationError(f"This is a whole address of a web page. Paste the mail address only. {_EXAMPLE}")
    if text.count("@") > 1 and any(mark in text for mark in ",; "):
        raise ValidationError("These are several addresses. Add them one at a time.")
    local, _, domain = text.rpartition("@")
    try:
        ascii_domain = domain.lower().encode("idna").decode("ascii")
        validate_email(f"{local}@{ascii_domain}")
    except (ValidationError, UnicodeError) as wrong:
        shown = "".join(letter for letter in text[:80] if letter.isprintable())
        raise ValidationError(f"“{shown}” is no mail address. {_EXAMPLE}") from wrong
    return f"{local}@{ascii_domain}"


class MailboxForm(forms.Form):
    """A mailbox to be registered."""

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
        tenant = self.fields["tenant"]
        assert isinstance(tenant, forms.ModelChoiceField)  # noqa: S101 - declared above
        tenant.queryset = tenants


class MailboxEditForm(forms.Form):
    """What can be changed about a mailbox; it stays in its tenant."""

    address = AddressField(help_text="A new address is tested again by every connection that has the mailbox attached.")
    display_name = NameField(label="Name", required=False, help_text="How people call it, for example “Support”.")

    def __init__(self, *args: Any, mailbox: SharedMailbox, **kwargs: Any) -> None:
        kwargs["initial"] = {"address": mailbox.address, "display_name": mailbox.display_name}
        super().__init__(*args, **kwargs)


class AttachForm(forms.Form):
    """A mailbox for a connection: one that is registered, or a new address."""

    address = AddressField(
        label="Shared mailbox",
        help_text="Choose a registered mailbox or type an address; a new one is registered in the connection's tenant.",
        widget=forms.TextInput(attrs={"list": "known-mailboxes", "placeholder": "support@contoso.com"}),
    )
