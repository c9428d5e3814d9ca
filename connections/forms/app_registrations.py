from typing import Any

from django import forms
from django.forms.models import model_to_dict

from connections.microsoft import capabilities
from connections.models import AppRegistration, Tenant
from connections.validators import GuidField, NameField

# Check boxes by group. The policy adds a "note" to some of them, and sets "disabled" for others.
Options = list[tuple[str, list[dict[str, Any]]]]


class CapabilitiesField(forms.MultipleChoiceField):
    """A choice of capabilities. It is cleaned to a list of their keys, in the order of CAPABILITIES."""

    def __init__(self, **kwargs: Any) -> None:
        choices = [(key, capability.label) for key, capability in capabilities.CAPABILITIES.items()]
        super().__init__(choices=choices, widget=forms.CheckboxSelectMultiple, required=False, **kwargs)

    def clean(self, value: Any) -> list[str]:
        chosen = set(super().clean(value))
        return [key for key in capabilities.CAPABILITIES if key in chosen]


def options_by_group(form: forms.Form, name: str) -> Options:
    """Return the check boxes of the CapabilitiesField ``name`` by group, for the template."""
    raw = form[name].value()
    chosen = set(raw) if isinstance(raw, list | tuple) else set[str]()
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, _ in form.fields[name].choices:  # type: ignore[attr-defined]
        capability = capabilities.CAPABILITIES[key]
        groups.setdefault(capability.group, []).append({"capability": capability, "checked": key in chosen})
    return list(groups.items())


class TenantField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Tenant.objects.all(), empty_label="Choose a tenant", **kwargs)


IS_DIRECTORY_ID = "This is the directory (tenant) ID. Enter the application (client) ID, listed next to it."


class ClientIdField(GuidField):
    def __init__(self) -> None:
        super().__init__(
            what="application (client) ID",
            label="Application (client) ID",
            help_text="From the Overview page of the app registration in Entra, not the Object ID.",
            error_messages={"required": "Enter the application (client) ID."},
        )


class AudienceField(forms.ChoiceField):
    def __init__(self) -> None:
        super().__init__(
            label="Supported account types",
            choices=AppRegistration.Audience.choices,
            initial=AppRegistration.Audience.SINGLE,
            widget=forms.RadioSelect,
            help_text="As set in Entra under Authentication > Supported account types.",
        )


class TypesForm(forms.Form):
    audience = AudienceField()
    allows_delegated = forms.BooleanField(
        label="Delegated connections: a user signs in, and the automation acts as that user",
        required=False,
        initial=True,
    )
    allows_app_only = forms.BooleanField(
        label="App-only connections: the application acts without a user, in the whole organisation", required=False
    )
    default_capabilities = CapabilitiesField(label="Default permissions")

    def capability_options(self) -> Options:
        return options_by_group(self, "default_capabilities")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not cleaned.get("allows_delegated") and not cleaned.get("allows_app_only"):
            self.add_error("allows_delegated", "Allow delegated connections, app-only connections, or both.")
        return cleaned


class AppRegistrationForm(TypesForm):
    tenant = TenantField(error_messages={"required": "Choose the tenant of the application."})
    name = NameField(help_text="Use the same name as in Microsoft Entra.")
    client_id = ClientIdField()
    field_order = ("tenant", "name", "client_id")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        tenant = cleaned.get("tenant")
        if tenant is not None and cleaned.get("client_id") in (tenant.directory_id, tenant.tid):
            self.add_error("client_id", IS_DIRECTORY_ID)
        return cleaned


class AppRegistrationEditForm(TypesForm):
    """Changes to an app registration. Its tenant and client ID are fixed."""

    name = NameField()
    renews_credentials = forms.BooleanField(
        label="Renew client secrets and certificates automatically",
        required=False,
        help_text="30 days before the last one expires, if the organisation's policy allows it. For client secrets, the "
        "application needs Application.ReadWrite.OwnedBy and must be an owner of itself.",
    )
    object_id = GuidField(
        what="object ID",
        label="Object ID",
        required=False,
        help_text="Needed to renew certificates, unless the application may read itself. From the Overview page in Entra.",
    )
    is_personal = forms.BooleanField(
        label="Only the person who added it can connect through it",
        required=False,
        help_text="Clear this to let everyone connect through this app registration.",
    )
    field_order = ("name",)

    def __init__(self, *args: Any, app_registration: AppRegistration, **kwargs: Any) -> None:
        kwargs["initial"] = model_to_dict(app_registration, self.base_fields)
        super().__init__(*args, **kwargs)
        if not app_registration.is_personal:
            del self.fields["is_personal"]


class ScriptForm(forms.Form):
    name = NameField(required=False)
    tenant = TenantField()
    audience = forms.ChoiceField(
        label="Supported account types", choices=AppRegistration.Audience.choices, widget=forms.RadioSelect
    )
    types = forms.MultipleChoiceField(
        label="Connections",
        choices=((capabilities.DELEGATED, "Delegated"), (capabilities.APP_ONLY, "App-only")),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose delegated, app-only, or both."},
    )
    capabilities = CapabilitiesField(label="Permissions")
    credential = forms.ChoiceField(
        label="Credential",
        choices=(("secret", "Create a client secret"), ("none", "None: add one in the portal later")),
        widget=forms.RadioSelect,
    )
    consent = forms.BooleanField(label="Grant admin consent immediately", required=False)

    def capability_options(self) -> Options:
        return options_by_group(self, "capabilities")
