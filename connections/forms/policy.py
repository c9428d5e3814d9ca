from collections.abc import Iterator
from typing import Any

from django import forms

from connections.errors import InvalidInput
from connections.microsoft import capabilities, clouds
from connections.models import Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import rules as policy_rules
from connections.services.policy.rules import LONGEST_SHARE, Effect, Rules
from connections.validators import REASON_LENGTH

EFFECTS = (
    (Effect.ALLOWED.value, "Allowed"),
    (Effect.APPROVAL.value, "Approval required"),
    (Effect.FORBIDDEN.value, "Not allowed"),
)
_LISTS = {
    "forbidden_permissions": Effect.FORBIDDEN,
    "approval_permissions": Effect.APPROVAL,
    "allowed_permissions": Effect.ALLOWED,
}
# Rules that have the same value in the form.
_PLAIN = (
    "personal_accounts",
    "other_tenants",
    "share_with_people",
    "share_app_only",
    "longest_share_days",
    "app_only_second_admin",
)


class PatternsField(forms.CharField):
    """Names of permissions, and patterns that match names. Cleaned to a tuple."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "autocapitalize": "none"})
        super().__init__(required=False, max_length=8000, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        try:
            return policy_rules.parse_patterns(super().clean(value))
        except InvalidInput as error:
            raise forms.ValidationError(str(error)) from error


class TicksField(forms.MultipleChoiceField):
    widget = forms.CheckboxSelectMultiple

    def validate(self, value: Any) -> None:
        if value:
            super().validate(value)


class RulesForm(forms.Form):
    """The rules of one app registration. They add to the organisation's, so only stricter rules have an effect."""

    authentication_types = TicksField(
        label="Connection types",
        choices=((AuthenticationType.AUTHORIZATION_CODE.value, "Delegated"), (AuthenticationType.CLIENT_CREDENTIALS.value, "App-only")),
        help_text="Connection types that aren't selected are not allowed.",
    )  # fmt: skip
    app_only_second_admin = forms.BooleanField(
        label="App-only connections require approval by a second IT admin",
        required=False,
        help_text="The creator can't approve. Each permission added later needs a new approval.",
    )
    forbidden_permissions = PatternsField(
        label="Permissions not allowed", help_text="For example Mail.Send, or Mail.* for all that start with “Mail.”."
    )
    approval_permissions = PatternsField(label="Permissions that require approval")
    allowed_permissions = PatternsField(
        label="Exceptions",
        help_text="The most specific name applies: Mail.Read is allowed here even if Mail.* is not allowed. "
        "If you don't allow *, only these permissions are allowed.",
    )
    personal_accounts = forms.BooleanField(
        label="Allow personal Microsoft accounts",
        required=False,
        help_text="The account type is only known after sign-in. Rejected sign-ins aren't stored.",
    )
    other_tenants = forms.BooleanField(
        label="Allow accounts of directories that aren't registered in this portal",
        required=False,
        help_text="Applies to multitenant app registrations. Rejected sign-ins aren't stored.",
    )
    share_with_people = forms.BooleanField(
        label="Allow sharing with people and service accounts, not only with teams", required=False
    )
    share_app_only = forms.BooleanField(label="Allow sharing of app-only connections", required=False)
    longest_share_days = forms.IntegerField(
        label="Maximum share duration (days)",
        required=False,
        min_value=1,
        max_value=LONGEST_SHARE,
        help_text="With a limit, all shares need an expiration date. Leave empty for no limit.",
    )

    def __init__(self, rules: Rules, *args: Any, organisation: Rules | None = None, **kwargs: Any) -> None:
        self.organisation = organisation
        kinds = AuthenticationType.values if rules.authentication_types is None else rules.authentication_types
        patterns = {
            field: "\n".join(name for name, rule_effect in rules.permissions.items() if rule_effect is effect)
            for field, effect in _LISTS.items()
        }
        plain = {name: getattr(rules, name) for name in _PLAIN}
        kwargs["initial"] = {"authentication_types": list(kinds)} | patterns | plain
        super().__init__(*args, **kwargs)
        for key, capability in capabilities.CAPABILITIES.items():
            self.fields[f"capability-{key}"] = forms.ChoiceField(
                label=capability.label, choices=EFFECTS, initial=rules.of_capability(key).value
            )

    def groups(self) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
        """Yield the capability fields by group, and the number of fields that don't say “Allowed”.

        For app registrations, each field comes with the organisation's rule.
        """
        for group, choices in capabilities.choices_by_group():
            rows: list[dict[str, Any]] = []
            for key, _ in choices:
                effect = self.organisation.of_capability(key) if self.organisation else Effect.ALLOWED
                words = "" if effect is Effect.ALLOWED else dict(EFFECTS)[effect.value].lower()
                field = self[f"capability-{key}"]
                rows.append({"capability": capabilities.CAPABILITIES[key], "field": field, "organisation": words})
            yield group, rows, sum(row["field"].value() != Effect.ALLOWED.value for row in rows)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        seen: dict[str, str] = {}
        for field in _LISTS:
            for pattern in cleaned.get(field, ()):
                other = seen.setdefault(pattern.lower(), field)
                if other != field:
                    self.add_error(
                        field, f"{pattern} is also listed in “{self.fields[other].label}”. Remove one of them."
                    )
        return cleaned

    def rules(self) -> Rules:
        """Return the entered rules. Raises InvalidInput for invalid combinations of fields."""
        return policy_rules.from_dict(self.plain())

    def plain(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            "authentication_types": _or_all(data["authentication_types"], AuthenticationType.values),
            "capabilities": {key: data[f"capability-{key}"] for key in capabilities.CAPABILITIES},
            "permissions": {name: effect.value for field, effect in _LISTS.items() for name in data[field]},
            **{name: data[name] for name in _PLAIN},
        }


class OrganisationRulesForm(RulesForm):
    environments = TicksField(
        label="Environments", help_text="If all are selected, environments added later are allowed too."
    )
    tenants = TicksField(label="Tenants", help_text="If all are selected, tenants added later are allowed too.")
    credential_renewal = forms.BooleanField(
        label="Allow automatic renewal of secrets and certificates",
        required=False,
        help_text="Only for app registrations in which an IT admin turns it on.",
    )
    member_apps = forms.BooleanField(
        label="Allow members to bring their own app registrations",
        required=False,
        help_text="Only the member can connect through such an app registration, until an IT admin opens it to everyone.",
    )
    register_tenants = forms.BooleanField(
        label="Register the tenant of an account that signs in",
        required=False,
        help_text="Applies to multitenant app registrations. Otherwise, IT admins are asked when shared mailboxes need it.",
    )

    def __init__(self, rules: Rules, *args: Any, **kwargs: Any) -> None:
        super().__init__(rules, *args, **kwargs)
        self.fields["member_apps"].initial = rules.member_apps
        self.fields["register_tenants"].initial = rules.register_tenants
        tenants = {policy_rules.tenant_key(tenant): tenant.name for tenant in Tenant.objects.all()}
        self.fields["credential_renewal"].initial = rules.credential_renewal
        self._offer("environments", dict(clouds.choices()), rules.environments)
        self._offer("tenants", tenants, rules.tenants)

    def _offer(self, name: str, known: dict[str, str], chosen: tuple[str, ...] | None) -> None:
        # Values that no longer exist remain selectable, so that saving another change does not remove them from the
        # rule.
        removed = {value: f"{value} (removed)" for value in chosen or () if value not in known}
        field = self.fields[name]
        field.choices = [*known.items(), *removed.items()]  # type: ignore[attr-defined]
        field.initial = list(known) if chosen is None else list(chosen)

    def plain(self) -> dict[str, Any]:
        offered = {name: [value for value, _ in self.fields[name].choices] for name in ("environments", "tenants")}  # type: ignore[attr-defined]
        lists = {name: _or_all(self.cleaned_data[name], all_) for name, all_ in offered.items()}
        flags = {name: self.cleaned_data[name] for name in ("credential_renewal", "member_apps", "register_tenants")}
        return super().plain() | lists | flags


def _or_all(chosen: list[str], known: list[str]) -> list[str] | None:
    return None if set(known) <= set(chosen) else chosen


class ImpactForm(forms.Form):
    on_connections = forms.ChoiceField(
        label="Connections with policy violations",
        initial="leave",
        widget=forms.RadioSelect,
        choices=(
            ("leave", "Flag them: they keep working, but new sign-ins and shares are blocked"),
            ("disable", "Disable them now: automations lose access"),
        ),
    )
    on_shares = forms.ChoiceField(
        label="Shares with policy violations",
        initial="leave",
        widget=forms.RadioSelect,
        choices=(
            ("leave", "Flag them: they keep working, but can't be changed"),
            ("fix", "Remove access now, or shorten shares that exceed the maximum duration"),
        ),
    )


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label="Reason", max_length=REASON_LENGTH, required=False, widget=forms.Textarea(attrs={"rows": 3})
    )
