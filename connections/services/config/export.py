"""Export the set-up without secrets, and without connections and shares, because a file cannot restore grants."""

from typing import Any

from connections.models import AlertChannel, AppCredential, AppRegistration, SharedMailbox, Team, Tenant, User
from connections.services.config.people import roles_of
from connections.services.config.schema import VERSION
from connections.services.governance import policy


def current_configuration() -> dict[str, Any]:
    """The current values of everything a configuration file can contain. Applying them changes nothing."""
    mailboxes = SharedMailbox.objects.select_related("tenant").order_by("tenant__name", "address")
    accounts = User.objects.filter(kind=User.Kind.SERVICE).select_related("responsible").order_by("first_name")
    return {
        "version": VERSION,
        "tenants": [
            {"name": tenant.name, "environment": tenant.environment, "directory_id": tenant.directory_id}
            for tenant in Tenant.objects.all()
        ],
        "app_registrations": [
            _app(app) for app in AppRegistration.objects.select_related("tenant").prefetch_related("credentials")
        ],
        "shared_mailboxes": [
            {"address": mailbox.address, "tenant": mailbox.tenant.name, "display_name": mailbox.display_name}
            for mailbox in mailboxes
        ],
        "service_accounts": [_account(account) for account in accounts],
        "teams": [_team(team) for team in Team.objects.prefetch_related("members")],
        "alert_channels": [
            # The full address is a secret, but the host shows where it leads.
            {"name": row.name, "kind": row.kind, "host": row.host, "enabled": row.disabled_at is None}
            for row in AlertChannel.objects.defer("url", "signing_secret")
        ],
        "policy": policy.current(),
    }


def _app(app: AppRegistration) -> dict[str, Any]:
    allowed = {"delegated": app.allows_delegated, "app_only": app.allows_app_only}
    live = app.credentials.live().defer("secret", "private_key")
    return {
        "name": app.name,
        "tenant": app.tenant.name,
        "client_id": app.client_id,
        "audience": app.audience,
        "allows": [kind for kind, is_allowed in allowed.items() if is_allowed],
        "default_capabilities": list(app.default_capabilities),
        "credentials": [_credential(credential) for credential in live.order_by("created_at", "pk")],
    }


def _credential(credential: AppCredential) -> dict[str, Any]:
    values = {
        "kind": credential.kind,
        "label": credential.label,
        "thumbprint": credential.thumbprint,
        "expires_at": credential.expires_at.date().isoformat() if credential.expires_at else "",
    }
    return {name: value for name, value in values.items() if value}


def _account(account: User) -> dict[str, Any]:
    values = {"name": account.first_name, "purpose": account.purpose}
    if account.responsible is not None:
        values["responsible"] = account.responsible.username
    return {**values, "roles": roles_of(account), "enabled": account.is_active}


def _team(team: Team) -> dict[str, Any]:
    if team.entra_group:
        return {"name": team.name, "entra_group": team.entra_group}
    return {"name": team.name, "members": sorted(user.username for user in team.members.all())}
