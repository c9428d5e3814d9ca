"""Forms for connecting, and for changing a connection."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.validators import EmailValidator

from connections.errors import InvalidInput
from connections.forms.app_registrations import CapabilitiesField, Options, options_by_group
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, SharedMailbox
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import evaluate
from connections.services.policy.evaluate import Policies
from connections.validators import MOST_MAILBOXES, REASON_LENGTH, NameField, capability_errors, strip_pasted


class ScopesField(forms.CharField):
    """Manually entered permissions; cleaned to a tuple of short names in Microsoft's spelling."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "autocapitalize": "none"})
        super().__init__(required=False, max_length=4000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            return capabilities.parse_scopes(super().clean(value))
        except InvalidInput as error:
            raise forms.ValidationError(str(error)) from error


class AddressesField(forms.CharField):
    """E-mail addresses, separated by commas or line breaks; cleaned to a list without duplicates."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "support@example.com"})
        super().__init__(required=False, max_length=8000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        addresses: dict[str, str] = {}
        for word in map(strip_pasted, words):
            address = word.removeprefix("mailto:").strip("<>")
            try:
                EmailValidator()(address)
            except forms.ValidationError as error:
                raise forms.ValidationError(
                    f"“{word[:60]}” is not a mail address. Type one address a line, like support@example.com."
                ) from error
            addresses.setdefault(address.lower(), address)
        if len(addresses) > MOST_MAILBOXES:
            raise forms.ValidationError(f"At most {MOST_MAILBOXES} mailboxes at once; attach the others afterwards.")
        return list(addresses.values())


class MailboxesField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """Registered mailboxes. Ids too large for the database are rejected like any other invalid choice."""

    def clean(self, value: Any) -> Any:
        if any(len(str(pk)) > 18 for pk in value or ()):
            raise forms.ValidationError("Choose mailboxes of the list.")
        return super().clean(value)


class CapabilitiesForm(forms.Form):
    """Name and capabilities of a connection, with what the policy says about each capability."""

    name = NameField(help_text="How you and the automation will recognise it, for example “Invoices inbox”.")
    chosen = CapabilitiesField(label="What should automations be able to do?")
    extra_scopes = ScopesField(
        label="Further permissions",
        help_text="Only if something is missing above: names as in Microsoft's documentation, separated by spaces.",
    )
    reason = forms.CharField(
        label="Why it is needed",
        required=False,
        max_length=REASON_LENGTH,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="The IT admin who approves it reads this.",
    )

    kept: frozenset[str] = frozenset()  # capabilities it already has, and may keep even if they are forbidden

    def apply_policies(self, policies: Policies, app_registration: AppRegistration, kinds: Sequence[str]) -> None:
        """Evaluate the policies; the reason is only asked for if an approval may be required."""
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


class ConnectForm(CapabilitiesForm):
    kind = forms.ChoiceField(label="How should it sign in?", widget=forms.RadioSelect)
    shared_mailboxes = MailboxesField(
        SharedMailbox.objects.none(),
        label="Shared mailboxes",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Attached to the connection and tested as soon as it is connected.",
    )
    new_mailboxes = AddressesField(
        label="Other shared mailboxes", help_text="Addresses that are not listed yet, one a line."
    )
    field_order = ("kind", "name", "chosen", "extra_scopes", "reason", "shared_mailboxes", "new_mailboxes")

    def __init__(
        self, app_registration: AppRegistration, *args: Any, app_only: bool, policies: Policies = (), **kwargs: Any
    ) -> None:
        kwargs["initial"] = {"chosen": app_registration.default_capabilities, **kwargs.get("initial", {})}
        super().__init__(*args, **kwargs)
        offered = [
            (value, label)
            for value, label in AuthenticationType.choices
            if app_registration.allows(value)
            and (app_only or value != AuthenticationType.CLIENT_CREDENTIALS)
            and not evaluate.is_kind_forbidden(policies, value)
        ]
        self.apply_policies(policies, app_registration, [value for value, _ in offered])
        field = self.fields["kind"]
        field.choices = offered  # type: ignore[attr-defined]
        field.initial = offered[0][0] if offered else None
        mailboxes = self.fields["shared_mailboxes"]
        mailboxes.queryset = app_registration.tenant.shared_mailboxes.all()  # type: ignore[attr-defined]

    def authentication_type(self, cleaned: dict[str, Any]) -> str:
        return str(cleaned.get("kind") or self.fields["kind"].initial or AuthenticationType.AUTHORIZATION_CODE)


class ConnectionEditForm(CapabilitiesForm):
    def __init__(self, connection: Connection, *args: Any, policies: Policies = (), **kwargs: Any) -> None:
        kwargs["initial"] = {
            "name": connection.name,
            "chosen": connection.capabilities,
            "extra_scopes": connection.extra_scopes,
        }
        self.connection = connection
        self.kept = frozenset(connection.capabilities)
        super().__init__(*args, **kwargs)
        self.apply_policies(policies, connection.app_registration, [connection.authentication_type])

    def authentication_type(self, cleaned: dict[str, Any]) -> str:
        return self.connection.authentication_type
