from typing import Any

from django import forms

from connections.models import AppRegistration
from connections.validators import DirectoryField


class ConsentForm(forms.Form):
    """The directory that needs to grant consent. Single-tenant applications have only one, so they get no field."""

    directory_id = DirectoryField(
        label="Other directory",
        required=False,
        help_text="Directory (tenant) ID or domain of another organisation that needs to grant consent. "
        "Leave empty for your own directory.",
    )

    def __init__(self, *args: Any, app_registration: AppRegistration, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if app_registration.audience != AppRegistration.Audience.MULTI:
            del self.fields["directory_id"]

    def clean_directory_id(self) -> str:
        """Reject "common" and "consumers". The only shared endpoint that supports admin consent is "organizations"."""
        directory = str(self.cleaned_data["directory_id"])
        if directory in ("common", "consumers"):
            raise forms.ValidationError(
                f"“{directory}” isn't a directory. Enter its ID or domain, or leave the field empty."
            )
        return directory
