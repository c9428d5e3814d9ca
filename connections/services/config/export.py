"""Export the set-up without secrets, and without connections and shares, because a file cannot restore grants."""

import re
from itertools import count
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.models import (
    AlertChannel,
    AppCredential,
    AppRegistration,
    ConnectionReference,
    SharedMailbox,
    Team,
    Tenant,
    User,
)
from connections.models.connections import without_tokens
from connections.services.config.people import roles_of
from connections.services.config.schema import VERSION
from connections.services.governance import policy
from connections.services.people import offboarding


def current_configuration() -> dict[str, Any]:
    """Return the current values of everything a configuration file can contain. Applying them changes nothing."""
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
        "references": [_reference(row) for row in _references()],
        "alert_channels": [
            # The full address is a secret, but the host shows where it leads.
            {"name": row.name, "kind": row.kind, "host": row.host, "enabled": row.disabled_at is None}
            for row in AlertChannel.objects.defer("url", "signing_secret")
        ],
        "policy": policy.current(),
    }


def prepare_for_new_portal(values: dict[str, Any]) -> list[str]:
    """Add the people to ``values``, and an environment variable's name for every secret. Returns these names.

    A secret that has expired is left out, because it can't be added anywhere.
    """
    values["people"] = [_person(person) for person in _people()]
    names: list[str] = []

    def name(*words: str) -> str:
        base = re.sub(r"[^A-Z0-9]+", "_", " ".join(words).upper()).strip("_") or "SECRET"
        names.append(next(new for n in count(1) if (new := base if n == 1 else f"{base}_{n}") not in names))
        return names[-1]

    today = timezone.now().date().isoformat()
    for app in values["app_registrations"]:
        app["credentials"] = [entry for entry in app["credentials"] if entry.get("expires_at", today) >= today]
        for credential in app["credentials"]:
            if credential["kind"] == AppCredential.Kind.SECRET and "secret_env" not in credential:
                credential["secret_env"] = name(app["name"], credential.get("label", ""), "secret")
    for channel in values["alert_channels"]:
        channel["url_env"] = name(channel["name"], "url")
    return names


def _app(app: AppRegistration) -> dict[str, Any]:
    allowed = {"delegated": app.allows_delegated, "app_only": app.allows_app_only}
    consents = app.consents.exclude(tenant=app.tenant_id).order_by("tenant__name")
    others = list(consents.values_list("tenant__name", flat=True))
    live = app.credentials.live().defer("secret", "private_key")
    return {
        "name": app.name,
        "tenant": app.tenant.name,
        "client_id": app.client_id,
        "audience": app.audience,
        "allows": [kind for kind, is_allowed in allowed.items() if is_allowed],
        "default_capabilities": list(app.default_capabilities),
        **({"object_id": app.object_id} if app.object_id else {}),
        **({"renews_credentials": True} if app.renews_credentials else {}),
        **({"other_tenants": others} if others else {}),
        "credentials": [_credential(credential) for credential in live.order_by("created_at", "pk")],
    }


def _credential(credential: AppCredential) -> dict[str, Any]:
    values = {
        "kind": credential.kind,
        "label": credential.label,
        "thumbprint": credential.thumbprint,
        "source": credential.source,
        "expires_at": credential.expires_at.date().isoformat() if credential.expires_at else "",
    }
    return {name: value for name, value in values.items() if value}


def _people() -> QuerySet[User]:
    """Return active people, annotated with the ``uid`` of their Microsoft account."""
    uid = (
        UserSocialAuth.objects.filter(provider=offboarding.MICROSOFT, user=OuterRef("pk")).order_by("pk").values("uid")
    )
    people = User.objects.filter(kind=User.Kind.PERSON, is_active=True, left_at=None).order_by("username")
    return people.annotate(uid=Subquery(uid[:1]))


def _person(person: User) -> dict[str, str]:
    directory, _, object_id = str(getattr(person, "uid") or "").partition(".")  # noqa: B009 - annotated by _people
    values = {"user_name": person.username, "name": person.get_full_name(), "email": person.email}
    values |= {"directory": directory, "object_id": object_id}
    return {name: value for name, value in values.items() if value}


def _account(account: User) -> dict[str, Any]:
    values = {"name": account.first_name, "purpose": account.purpose}
    if account.responsible is not None:
        values["responsible"] = account.responsible.username
    return {**values, "roles": roles_of(account), "enabled": account.is_active}


def _references() -> QuerySet[ConnectionReference]:
    """Return the organisation's references that have a connection. People's own defaults are not included."""
    rows = ConnectionReference.objects.filter(connector="", removed_at=None, connection__isnull=False)
    return without_tokens(rows.select_related("connection__owner", "team"))


def _reference(reference: ConnectionReference) -> dict[str, Any]:
    connection = reference.connection
    assert connection is not None  # noqa: S101 - filtered
    return {
        "name": reference.name,
        "connection": connection.name,
        "connection_owner": connection.owner.username,
        "team": reference.team.name if reference.team else "",
        "description": reference.description,
    }


def _team(team: Team) -> dict[str, Any]:
    if team.entra_group:
        return {"name": team.name, "entra_group": team.entra_group}
    return {"name": team.name, "members": sorted(user.username for user in team.members.all())}
