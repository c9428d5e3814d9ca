"""What is typed about a connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django import forms
from django.core.validators import EmailValidator

from connections.errors import InvalidInput
from connections.forms.app_registrations import CapabilitiesField, Tick, ticks_by_group
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, SharedMailbox
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import evaluate
from connections.services.policy.evaluate import Policies
from connections.validators import MOST_MAILBOXES, REASON_LENGTH, NameField, capability_errors, strip_pasted


class ScopesField(forms.CharField):
    """Permissions typed or pasted; cleaned to a tuple of short names in Microsoft's spelling."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "autocapitalize": "none"})
        super().__init__(required=False, max_length=4000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            return capabilities.parse_scopes(super().clean(value))
        except InvalidInput as error:
            raise forms.ValidationError(str(error)) from error


class AddressesField(forms.CharField):
    """Mail addresses, one a line or separated by commas; cleaned to a list without repetitions."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "support@example.com"})
        super().__init__(required=False, max_length=8000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        found: list[str] = []
        for word in map(strip_pasted, words):
            address = word.removeprefix("mailto:").strip("<>")
            try:
                EmailValidator()(address)
            except forms.ValidationError as error:
                raise forms.ValidationError(
                    f"“{word[:60]}” is not a mail address. Type one address a line, like support@example.com."
                ) from error
            if address.lower() not in (known.lower() for known in found):
                found.append(address)
        if len(found) > MOST_MAILBOXES:
            raise forms.ValidationError(f"At most {MOST_MAILBOXES} mailboxes at once; attach the others afterwards.")
        return found


class MailboxesField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """Registered mailboxes. A number that no row can have is a wrong choice like any other."""

    def clean(self, value: Any) -> Any:
        for one in value or ():
            if len(str(one)) > 18:
                raise forms.ValidationError("Choose mailboxes of the list.")
        return super().clean(value)


class WishesForm(forms.Form):
    """What a connection is called and what it is to be able to do."""

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

    authentication_type: str = AuthenticationType.AUTHORIZATION_CODE
    rules: Policies = ()

    def follow(self, rules: Policies, app_registration: AppRegistration, kinds: Sequence[str]) -> None:
        """Show what the policy says about each capability. A reason is asked for only where an approval may be needed."""
        self.rules = rules
        keys = self.fields["chosen"].choices  # type: ignore[attr-defined]
        self._said = {key: evaluate.evaluate_capability(rules, key, app_registration, kinds) for key, _ in keys}
        if not evaluate.requires_approvals(rules):
            self.fields["reason"].widget = forms.HiddenInput()

    def ticks(self) -> list[tuple[str, list[Tick]]]:
        """The capabilities under their groups, for the template; a forbidden one can only be taken away."""
        return [(group, [self._judged(tick) for tick in ticks]) for group, ticks in ticks_by_group(self, "chosen")]

    def _judged(self, tick: Tick) -> Tick:
        said = self._said.get(tick.capability.key)
        if said is None or not said.reasons:
            return tick
        off = bool(said.forbidden) and tick.capability.key not in self.kept
        return replace(tick, ticked=tick.ticked and not off, note=" ".join(said.sentences), off=off)

    @property
    def kept(self) -> frozenset[str]:
        """Capabilities it has already, so that saving something else does not lose them."""
        return frozenset()

    def chosen_type(self, cleaned: dict[str, Any]) -> str:
        """Delegated or app-only."""
        return self.authentication_type

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.has_error("extra_scopes"):
            chosen = cleaned.get("chosen", [])
            for sentence in capability_errors(chosen, cleaned.get("extra_scopes", ()), self.chosen_type(cleaned)):
                self.add_error("chosen", sentence)
        return cleaned

    def permissions(self) -> dict[str, Any]:
        """What the present choice asks Microsoft for, worked out even while other fields are wrong."""
        cleaned = getattr(self, "cleaned_data", {})
        kind = self.chosen_type(cleaned)
        if not self.is_bound:
            keys, extra = list(self.get_initial_for_field(self.fields["chosen"], "chosen") or []), ()
            if text := self.get_initial_for_field(self.fields["extra_scopes"], "extra_scopes"):
                extra = tuple(str(text).split())  # type: ignore[assignment]
        else:
            keys, extra = cleaned.get("chosen", []), cleaned.get("extra_scopes", ())
        app_only = kind == AuthenticationType.CLIENT_CREDENTIALS
        names = capabilities.application_roles(keys, extra) if app_only else capabilities.delegated_scopes(keys, extra)
        nothing = not keys and not extra
        return {
            "names": () if nothing else names,
            "warnings": [] if nothing else capabilities.warnings(keys, extra, kind),
            "app_only": app_only,
        }


class ConnectForm(WishesForm):
    """A new connection through one app registration."""

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
        self,
        app_registration: AppRegistration,
        *args: Any,
        app_only: bool,
        rules: Policies = (),
        **kwargs: Any,
    ) -> None:
        kwargs["initial"] = {"chosen": app_registration.default_capabilities, **kwargs.get("initial", {})}
        super().__init__(*args, **kwargs)
        offered = [
            (value, label)
            for value, label in AuthenticationType.choices
            if app_registration.allows(value)
            and (app_only or value != AuthenticationType.CLIENT_CREDENTIALS)
            and not evaluate.is_kind_forbidden(rules, value)
        ]
        self.follow(rules, app_registration, [value for value, _ in offered])
        field = self.fields["kind"]
        field.choices = offered  # type: ignore[attr-defined]
        field.initial = offered[0][0] if offered else None
        mailboxes = self.fields["shared_mailboxes"]
        mailboxes.queryset = app_registration.tenant.shared_mailboxes.all()  # type: ignore[attr-defined]

    def chosen_type(self, cleaned: dict[str, Any]) -> str:
        return str(cleaned.get("kind") or self.fields["kind"].initial or AuthenticationType.AUTHORIZATION_CODE)


class ConnectionEditForm(WishesForm):
    """Name and capabilities of a connection that exists."""

    def __init__(self, connection: Connection, *args: Any, rules: Policies = (), **kwargs: Any) -> None:
        kwargs["initial"] = {
            "name": connection.name,
            "chosen": connection.capabilities,
            "extra_scopes": connection.extra_scopes,
        }
        self.authentication_type = connection.authentication_type
        self._kept = frozenset(connection.capabilities)
        super().__init__(*args, **kwargs)
        self.follow(rules, connection.app_registration, [connection.authentication_type])

    @property
    def kept(self) -> frozenset[str]:
        return self._kept
