from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms

from connections import mail_addresses
from connections.errors import InvalidInput
from connections.forms.app_registrations import CapabilitiesField, Options, options_by_group
from connections.microsoft import capabilities, resources
from connections.microsoft import permissions as microsoft_permissions
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import AppRegistration, Connection
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import evaluate, permission_drift
from connections.services.policy.evaluate import Policies
from connections.validators import (
    MOST_MAILBOXES,
    REASON_LENGTH,
    NameField,
    TagsField,
    capability_errors,
    strip_invisible,
)


class ScopesField(forms.CharField):
    """Manually entered permissions. Cleaned to a tuple of short names in Microsoft's spelling."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "autocapitalize": "none"})
        super().__init__(required=False, max_length=4000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            return capabilities.parse_scopes(super().clean(value))
        except InvalidInput as error:
            raise forms.ValidationError(str(error)) from error


class AddressesField(forms.CharField):
    """Email addresses, separated by commas or line breaks. Cleaned to a list without duplicates."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "support@example.com"})
        super().__init__(required=False, max_length=8000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            addresses = mail_addresses.parse_list(strip_invisible(super().clean(value)))
        except InvalidInput as error:
            raise forms.ValidationError(f"{error.cause} Enter one address per line.") from error
        if len(addresses) > MOST_MAILBOXES:
            raise forms.ValidationError(f"Enter at most {MOST_MAILBOXES} mailboxes. You can attach more later.")
        return addresses


class HostsField(forms.CharField):
    """The organisation's addresses at SharePoint and Dataverse. Cleaned to a dict of host names by resource."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, max_length=500, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            return resources.parse_hosts(strip_invisible(super().clean(value)))
        except InvalidInput as error:
            raise forms.ValidationError(str(error)) from error


@dataclass(frozen=True, slots=True)
class ChangedPermission:
    """A permission that a change adds or removes, what it allows, and whether an administrator must consent to it."""

    name: str
    allows: str
    needs_admin: bool


class CapabilitiesForm(forms.Form):
    """The name and capabilities of a connection, with the policy's decision about each capability."""

    name = NameField(help_text="For example “Invoices inbox”.")
    chosen = CapabilitiesField(label="Permissions for automations")
    extra_scopes = ScopesField(
        label="Additional permissions",
        help_text="Permission names from Microsoft's documentation that are missing above, separated by spaces.",
    )
    hosts = HostsField(
        label="SharePoint or Dataverse address",
        help_text="Only for SharePoint REST and Dynamics 365, for example contoso.sharepoint.com.",
    )
    reason = forms.CharField(
        label="Justification",
        required=False,
        max_length=REASON_LENGTH,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Shown to the IT admin who reviews the request.",
    )

    # Capabilities that the connection already has, and may keep even if they are forbidden.
    kept: frozenset[str] = frozenset()

    def apply_policies(self, policies: Policies, app_registration: AppRegistration, kinds: Sequence[str]) -> None:
        """Evaluate the policies. The form asks for a reason only if an approval may be required."""
        self.decisions = {
            key: evaluate.evaluate_capability(policies, key, app_registration, kinds)
            for key in capabilities.CAPABILITIES
        }
        if not evaluate.requires_approvals(policies):
            self.fields["reason"].widget = forms.HiddenInput()

    def capability_options(self) -> Options:
        """Return the options by group. A forbidden capability can only be removed."""
        groups = options_by_group(self, "chosen")
        return [(group, [self._with_policy(option) for option in options]) for group, options in groups]

    def _with_policy(self, option: dict[str, Any]) -> dict[str, Any]:
        key = option["capability"].key
        decision = self.decisions[key]
        if not decision.reasons:
            return option
        disabled = bool(decision.forbidden) and key not in self.kept
        checked = option["checked"] and not disabled
        return option | {"checked": checked, "note": " ".join(decision.sentences), "disabled": disabled}

    def authentication_type(self, cleaned: dict[str, Any]) -> str:
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.has_error("extra_scopes"):
            chosen, extra = cleaned.get("chosen", []), cleaned.get("extra_scopes", ())
            for sentence in capability_errors(chosen, extra, self.authentication_type(cleaned)):
                self.add_error("chosen", sentence)
        return cleaned

    def permissions(self) -> dict[str, Any]:
        """Return the permissions that the current choice requires, even if other fields have errors."""
        cleaned = getattr(self, "cleaned_data", {})
        keys: list[str] = cleaned.get("chosen", [])
        extra: Sequence[str] = cleaned.get("extra_scopes", ())
        if not self.is_bound:
            keys = list(self.get_initial_for_field(self.fields["chosen"], "chosen") or [])
            extra = str(self.get_initial_for_field(self.fields["extra_scopes"], "extra_scopes") or "").split()
        kind = self.authentication_type(cleaned)
        app_only = kind == AuthenticationType.CLIENT_CREDENTIALS
        if not keys and not extra:
            return {"names": (), "warnings": [], "app_only": app_only}
        names = capabilities.application_roles if app_only else capabilities.delegated_scopes
        return {"names": names(keys, extra), "warnings": capabilities.warnings(keys, extra, kind), "app_only": app_only}


class ConnectionEditForm(CapabilitiesForm):
    def __init__(self, connection: Connection, *args: Any, policies: Policies = (), **kwargs: Any) -> None:
        kwargs["initial"] = {
            "name": connection.name,
            "chosen": connection.capabilities,
            "extra_scopes": connection.extra_scopes,
            "hosts": " ".join(connection.hosts.values()),
        }
        self.connection = connection
        self.kept = frozenset(connection.capabilities)
        super().__init__(*args, **kwargs)
        self.apply_policies(policies, connection.app_registration, [connection.authentication_type])

    def authentication_type(self, cleaned: dict[str, Any]) -> str:
        return self.connection.authentication_type

    def permissions(self) -> dict[str, Any]:
        """Return the required permissions, and those that the current choice adds and removes."""
        permissions = super().permissions()
        before = set(permission_drift.required_permissions(self.connection)) - OIDC_SCOPES
        after = set(permissions["names"]) - OIDC_SCOPES
        return permissions | {
            "added": self._describe(after - before),
            "removed": self._describe(before - after),
            "is_delegated": self.connection.is_delegated,
        }

    def _describe(self, names: Iterable[str]) -> list[ChangedPermission]:
        app_only = not self.connection.is_delegated
        return [
            ChangedPermission(
                name,
                microsoft_permissions.describe(name, app_only=app_only),
                microsoft_permissions.needs_admin(name, app_only=app_only),
            )
            for name in sorted(names)
        ]


class TagsForm(forms.Form):
    tags = TagsField(required=False)
