from typing import Any, cast

from django import forms
from django.db.models import QuerySet

from connections.forms.pickers import PickerField
from connections.models import Connection, User
from connections.services.people import ownership_transfer
from connections.validators import CUT, KEEP, NameField

GRANTS = (
    (KEEP, "Keep access until the new owner has signed in"),
    (CUT, "Revoke access now: automations lose access until the new owner has signed in"),
)


class GrantField(forms.ChoiceField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(label="Current sign-in", choices=GRANTS, initial=KEEP, widget=forms.RadioSelect, **kwargs)


class OwnerField(PickerField):
    def __init__(self, *, people: QuerySet[User] | None = None, **kwargs: Any) -> None:
        errors = {
            "invalid_choice": "This person can't own a connection. Choose another person.",
            "unknown": "No one with this name can own a connection. Enter a user name, an email address, or part of a name.",
        }
        super().__init__("owners", error_messages=errors, **kwargs)
        if people is not None:
            self.people = people


class TransferForm(forms.Form):
    # The owner at the time the page was rendered.
    seen_owner = forms.IntegerField(widget=forms.HiddenInput)
    new_owner = OwnerField(label="New owner", help_text="Name, user name or email address.")
    new_name = NameField(
        label="New name",
        required=False,
        help_text="Only needed if the new owner already has a connection with this name.",
    )

    def __init__(self, *args: Any, connection: Connection, people: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection = connection
        self.fields["seen_owner"].initial = connection.owner_id
        cast(OwnerField, self.fields["new_owner"]).people = people.exclude(pk=connection.owner_id)
        if connection.is_delegated and ownership_transfer.can_keep_tokens(connection):
            self.fields["grant"] = GrantField()

    def clean_seen_owner(self) -> int:
        seen: int = self.cleaned_data["seen_owner"]
        if seen != self.connection.owner_id:
            raise forms.ValidationError(str(ownership_transfer.owner_changed_error(self.connection)))
        return seen

    @property
    def keeps_grant(self) -> bool:
        return self.cleaned_data.get("grant") == KEEP


class TransferAllForm(forms.Form):
    """Transferring the connections of one person, to one new owner for the selected ones or to separate new owners."""

    everything_to = OwnerField(
        label="New owner of selected connections", required=False, help_text="Name, user name or email address."
    )
    grant = GrantField()

    def __init__(
        self, *args: Any, connections: list[Connection], people: QuerySet[User], leaver: User, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.connections = connections
        others = people.exclude(pk=leaver.pk)
        cast(OwnerField, self.fields["everything_to"]).people = others
        for connection in connections:
            self.fields[f"take_{connection.pk}"] = forms.BooleanField(required=False, initial=True, label="Transfer")
            to = OwnerField(people=others, required=False, label=f"Different owner for {connection}")
            to.widget.attrs["placeholder"] = "Same as above"
            self.fields[f"to_{connection.pk}"] = to
            self.fields[f"name_{connection.pk}"] = NameField(required=False, label=f"New name for {connection}")

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        for connection in self.connections:
            data[f"owner_{connection.pk}"] = data.get(f"to_{connection.pk}") or data.get("everything_to")
            if not data.get(f"take_{connection.pk}"):
                # Errors in fields of connections that aren't selected don't matter.
                self.errors.pop(f"to_{connection.pk}", None)
        if not self.errors and not self.chosen():
            self.add_error(None, "Choose a new owner and select at least one connection.")
        return data

    def chosen(self) -> list[tuple[Connection, User, str]]:
        """Return the transfers: connection, new owner, and new name ("" to keep the current name)."""
        data = self.cleaned_data
        return [
            (connection, data[f"owner_{connection.pk}"], data.get(f"name_{connection.pk}") or "")
            for connection in self.connections
            if data.get(f"take_{connection.pk}") and data.get(f"owner_{connection.pk}")
        ]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"connection": connection} | {name: self[f"{name}_{connection.pk}"] for name in ("take", "to", "name")}
            for connection in self.connections
        ]
