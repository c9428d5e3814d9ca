from django import forms

from connections.validators import DirectoryField, NameField


class AddTenantForm(forms.Form):
    directory_id = DirectoryField(
        label="Directory (tenant) ID",
        help_text="A tenant of this portal, or another organisation's directory ID or verified domain.",
    )
    name = NameField(
        label="Name", required=False, help_text="Only for a directory that isn't a tenant in this portal yet."
    )
