"""The organisation's set-up as plain values for a configuration file. Never a secret, nor anything personal.

Connections and shares are left out: they are grants of persons, which no file can give back.
"""

from __future__ import annotations

from typing import Any

from connections.models import AlertChannel, AppCredential, AppRegistration, SharedMailbox, Team, Tenant, User
from connections.services.config.people import roles_of
from connections.services.config.schema import VERSION
from connections.services.governance import policy


def current_configuration() -> dict[str, Any]:
    """Everything a configuration file can say, as it is now; applying it changes nothing."""
    return {
        "version": VERSION,
        "tenants": [_tenant(tenant) for tenant in Tenant.objects.all()],
        "app_registrations": [
            _app(app) for app in AppRegistration.objects.select_related("tenant").prefetch_related("credentials")
        ],
        "shared_mailboxes": [
            _mailbox(mailbox)
            for mailbox in SharedMailbox.objects.select_related("tenant").order_by("tenant__name", "address")
        ],
        "service_accounts": [
            _account(person)
            for person in User.objects.filter(kind=User.Kind.SERVICE)
            .select_related("responsible")
            .order_by("first_name")
        ],
        "teams": [_team(team) for team in Team.objects.prefetch_related("members")],
        "alert_channels": [_channel(channel) for channel in AlertChannel.objects.defer("url", "signing_secret")],
        "policy": policy.current(),
    }


def _tenant(tenant: Tenant) -> dict[str, Any]:
    return {"name": tenant.name, "environment": tenant.environment, "directory_id": tenant.directory_id}


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
        "credentials": [_credential(one) for one in live.order_by("created_at", "pk")],
    }


def _credential(credential: AppCredential) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": credential.kind, "label": credential.label, "thumbprint": credential.thumbprint}
    if credential.expires_at is not None:
        said["expires_at"] = credential.expires_at.date().isoformat()
    return {name: value for name, value in said.items() if value}


def _mailbox(mailbox: SharedMailbox) -> dict[str, Any]:
    return {"address": mailbox.address, "tenant": mailbox.tenant.name, "display_name": mailbox.display_name}


def _account(account: User) -> dict[str, Any]:
    said = {"name": account.first_name, "purpose": account.purpose}
    if account.responsible is not None:
        said["responsible"] = account.responsible.username
    return {**said, "roles": roles_of(account), "enabled": account.is_active}


def _team(team: Team) -> dict[str, Any]:
    if team.entra_group:
        return {"name": team.name, "entra_group": team.entra_group}
    return {"name": team.name, "members": sorted(user.username for user in team.members.all())}


def _channel(channel: AlertChannel) -> dict[str, Any]:
    """``host`` says where it leads; the whole address is a secret."""
    return {
        "name": channel.name,
        "kind": channel.kind,
        "host": channel.host,
        "enabled": channel.disabled_at is None,
    }
