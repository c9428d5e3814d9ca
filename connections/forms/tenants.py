from typing import Any

from django import forms

from connections.microsoft import clouds
from connections.models import Tenant
from connections.validators import DirectoryField, NameField


class TenantForm(forms.Form):
    name = NameField(help_text="The name of the organisation, for example “Contoso”.")
    environment = forms.ChoiceField(
        help_text="The Microsoft cloud of the directory. For GCC (moderate), choose worldwide."
    )
    directory_id = DirectoryField(
        label="Directory (tenant) ID",
        help_text="From the Overview page in Entra, or a verified domain. Use “organizations” or “common” only for "
        "multitenant applications.",
        error_messages={"required": "Enter the directory (tenant) ID or a verified domain."},
    )

    def __init__(self, *args: Any, tenant: Tenant | None = None, **kwargs: Any) -> None:
        if tenant is not None:
            kwargs["initial"] = {name: getattr(tenant, name) for name in self.base_fields}
        super().__init__(*args, **kwargs)
        choices = clouds.choices()
        if tenant is not None and tenant.environment not in clouds.CLOUDS:
            choices.append((tenant.environment, f"{tenant.environment} (not configured)"))
        self.fields["environment"].choices = choices  # type: ignore[attr-defined]
