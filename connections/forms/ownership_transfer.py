from typing import Any

from django import forms
from django.db.models import QuerySet

from connections.models import Connection, User
from connections.services.people import ownership_transfer
from connections.validators import CUT, KEEP, NameField

GRANTS = (
    (KEEP, "Keep working with the old account until the new owner has signed in"),
    (CUT, "Cut at once: delete the old account's tokens now, and everything stops until the new owner has signed in"),
)


class GrantField(forms.ChoiceField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            label="The old account's sign-in", choices=GRANTS, initial=KEEP, widget=forms.RadioSelect, **kwargs
        )


class PersonField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            User.objects.none(),
            empty_label="Choose a person",
            error_messages={"invalid_choice": "This person cannot own a connection. Choose somebody from the list."},
            **kwargs,
        )

    def label_from_instance(self, obj: User) -> str:
        return f"{obj} ({obj.username})"


class TransferForm(forms.Form):
    # The owner at the time the page was rendered.
    seen_owner = forms.IntegerField(widget=forms.HiddenInput)
    new_owner = PersonField(label="New owner")
    new_name = NameField(
        label="New name",
        required=False,
        help_text="Only needed if the new owner already has a connection of the same name.",
    )

    def __init__(self, *args: Any, connection: Connection, people: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection = connection
        self.fields["seen_owner"].initial = connection.owner_id
        self.fields["new_owner"].queryset = people.exclude(pk=connection.owner_id)  # type: ignore[attr-defined]
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
    """All connections of one person: one new owner for the ticked ones, or a separate new owner for each."""

    everything_to = PersonField(label="New owner of everything that is ticked", required=False)
    grant = GrantField()

    def __init__(
        self, *args: Any, connections: list[Connection], people: QuerySet[User], leaver: User, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.connections = connections
        others = people.exclude(pk=leaver.pk)
        self.fields["everything_to"].queryset = others  # type: ignore[attr-defined]
        self.people = {user.username: user for user in others}
        for connection in connections:
            self.fields[f"take_{connection.pk}"] = forms.BooleanField(required=False, initial=True, label="Hand over")
            self.fields[f"to_{connection.pk}"] = forms.CharField(
                required=False,
                max_length=150,
                label=f"Another new owner for {connection}",
                widget=forms.TextInput(
                    attrs={"list": "people", "placeholder": "the one chosen above", "autocomplete": "off"}
                ),
            )
            self.fields[f"name_{connection.pk}"] = NameField(required=False, label=f"New name for {connection}")

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        for connection in self.connections:
            typed = str(data.get(f"to_{connection.pk}") or "").strip()
            owner = self.people.get(typed) if typed else data.get("everything_to")
            data[f"owner_{connection.pk}"] = owner
            if typed and owner is None and data.get(f"take_{connection.pk}"):
                self.add_error(f"to_{connection.pk}", "Nobody who can own a connection signs in under this name.")
        if not self.errors and not self.chosen():
            self.add_error(None, "Choose a new owner, and tick at least one connection.")
        return data

    def chosen(self) -> list[tuple[Connection, User, str]]:
        """List what to transfer: connection, new owner, and new name ("" to keep the current name)."""
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
