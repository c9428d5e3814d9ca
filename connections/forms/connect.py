"""The forms for creating a connection, through an existing app registration or together with a new one."""

from typing import Any

from django import forms

from connections.forms.app_registrations import IS_DIRECTORY_ID, AudienceField, ClientIdField
from connections.forms.connections import AddressesField, CapabilitiesForm
from connections.forms.credentials import FEDERATED, GENERATE, SECRET, TOKEN_FILE, CredentialForm
from connections.microsoft import clouds, resources
from connections.microsoft.connectors import Connector
from connections.models import AppRegistration, Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.policy import evaluate
from connections.services.policy.evaluate import Policies
from connections.validators import DirectoryField, NameField

DELEGATED, APP_ONLY = AuthenticationType.AUTHORIZATION_CODE, AuthenticationType.CLIENT_CREDENTIALS
# The name of each type in Microsoft's own connectors, and its explanation.
TYPES = {
    DELEGATED: (
        "Bring your own OAuth 2.0 app (delegated)",
        "A person signs in. Automations act as that person, for everyone the connection is shared with.",
    ),
    APP_ONLY: (
        "OAuth 2.0 client credentials (app-only)",
        "The app signs in without a person. Its permissions cover the whole tenant.",
    ),
}
COMMON = "common"


class ConnectForm(CapabilitiesForm):
    """A new connection to the service ``connector`` in ``tenant``, through ``app_registration``.

    The app registration may be one that is not stored yet.
    """

    kind = forms.ChoiceField(label="Authentication type", widget=forms.RadioSelect)
    mailboxes = AddressesField(
        label="Shared mailboxes", help_text="Enter one address per line. Access is tested after you connect."
    )
    field_order = ("kind", "name", "chosen", "extra_scopes", "hosts", "reason", "mailboxes")

    def __init__(
        self,
        connector: Connector,
        app_registration: AppRegistration,
        *args: Any,
        may_connect_app_only: bool,
        tenant: Tenant | None = None,
        policies: Policies = (),
        **kwargs: Any,
    ) -> None:
        tenant = tenant or app_registration.tenant
        offered = {capability.key: capability.label for capability in connector.offered}
        usual = [key for key in app_registration.default_capabilities if key in offered]
        kwargs["initial"] = {"chosen": usual or connector.least, **kwargs.get("initial", {})}
        super().__init__(*args, **kwargs)
        self.fields["name"].help_text = f"For example “{connector.example}”."
        self.fields["chosen"].choices = list(offered.items())  # type: ignore[attr-defined]
        if not any(resources.needs_host(capability.resource) for capability in connector.offered):
            del self.fields["hosts"]
        if not connector.mailboxes:
            del self.fields["mailboxes"]
        elif tenant.is_shared_endpoint:
            self.fields["mailboxes"].help_text = "Enter one address per line. They're added after the sign-in."
        self.refusals = {
            kind: _refusal(
                kind, connector, app_registration, tenant, policies, may_connect_app_only=may_connect_app_only
            )
            for kind in TYPES
        }
        allowed = [kind for kind, reason in self.refusals.items() if not reason]
        self.apply_policies(policies, app_registration, allowed)
        field = self.fields["kind"]
        field.choices = [(kind, TYPES[kind][0]) for kind in allowed]  # type: ignore[attr-defined]
        field.initial = allowed[0] if allowed else None

    def type_options(self) -> list[dict[str, Any]]:
        """Return both authentication types with their explanations, and why one of them cannot be chosen (or "")."""
        chosen = self["kind"].value()
        return [
            {
                "value": kind.value,
                "title": title,
                "text": text,
                "refusal": self.refusals[kind],
                "checked": kind == chosen,
            }
            for kind, (title, text) in TYPES.items()
        ]

    def authentication_type(self, cleaned: dict[str, Any]) -> str:
        return str(cleaned.get("kind") or self.fields["kind"].initial or DELEGATED)


def _refusal(
    kind: AuthenticationType,
    connector: Connector,
    app_registration: AppRegistration,
    tenant: Tenant,
    policies: Policies,
    *,
    may_connect_app_only: bool,
) -> str:
    if kind not in connector.authentication_types:
        return f"{connector.label} doesn't support this."
    if not app_registration.allows(kind):
        return "This app registration doesn't allow it."
    if kind == APP_ONLY and tenant.is_shared_endpoint:
        return f"This needs a specific directory, not “{tenant.directory_id}”."
    if kind == APP_ONLY and not may_connect_app_only:
        return "Only IT admins can create these connections."
    return "Your policy doesn't allow it." if evaluate.is_kind_forbidden(policies, kind) else ""


class NewAppForm(ConnectForm):
    """A new connection together with a new app registration, whose credential has a separate form."""

    client_id = ClientIdField()
    audience = AudienceField()
    directory_id = DirectoryField(
        label="Directory (tenant) ID",
        error_messages={"required": "Enter the directory (tenant) ID or a verified domain."},
        help_text="From the same page, or a verified domain. A multitenant app can leave this empty, for “common”.",
    )
    environment = forms.ChoiceField(help_text="The Microsoft cloud of the directory. For GCC, choose worldwide.")
    app_name = NameField(label="Name of the app registration", required=False, help_text="As in Microsoft Entra.")
    tenant_name = NameField(
        label="Name of the tenant", required=False, help_text="Used if the tenant isn't registered here yet."
    )

    def __init__(self, connector: Connector, *args: Any, **kwargs: Any) -> None:
        every_type = AppRegistration(tenant=Tenant(), allows_delegated=True, allows_app_only=True)
        known = list(Tenant.objects.order_by("pk")[:2])
        if len(known) == 1:
            own = {"environment": known[0].environment}
            if not known[0].is_shared_endpoint:
                own["directory_id"] = known[0].directory_id
            kwargs["initial"] = own | kwargs.get("initial", {})
        super().__init__(connector, every_type, *args, **kwargs)
        self.fields["environment"].choices = clouds.choices()  # type: ignore[attr-defined]
        self.fields["directory_id"].required = self.data.get("audience") != AppRegistration.Audience.MULTI

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not cleaned.get("directory_id") and not self.has_error("directory_id"):
            if cleaned.get("kind") == APP_ONLY:
                self.add_error("directory_id", "Enter the directory (tenant) ID or a verified domain.")
            cleaned["directory_id"] = COMMON
        if cleaned.get("client_id") and cleaned["client_id"] == cleaned.get("directory_id"):
            self.add_error("client_id", IS_DIRECTORY_ID)
        return cleaned


class UsableCredentialForm(CredentialForm):
    """A credential that can be tested immediately and proves a right to use the application.

    A generated certificate is left out, because it must first be added in Entra. So is the portal's token file, which
    only proves the portal's identity. With ``may_federate``, a federated credential is offered, too.
    """

    def __init__(self, *args: Any, may_federate: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, prefix="credential", **kwargs)
        left_out = {GENERATE, TOKEN_FILE} if may_federate else {GENERATE, TOKEN_FILE, FEDERATED}
        kind: Any = self.fields["kind"]
        kind.choices = [(value, label) for value, label in kind.choices if value not in left_out]
        if kind.initial in left_out:
            kind.initial = SECRET
