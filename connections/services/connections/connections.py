"""Create, change, disable, enable and remove connections."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput, NotAllowed, PolicyForbids, PortalError
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, SharedMailbox, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.connections import permission_changes, sign_in_links
from connections.services.consent import request_status
from connections.services.incidents import incidents
from connections.services.mailboxes import mailboxes, probes
from connections.services.people import ownership_transfer
from connections.services.policy import approvals, evaluate, permission_drift
from connections.services.sharing import history
from connections.services.tokens import store


def start_delegated(
    app_registration: AppRegistration,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime | None = None,
    reason: str = "",
) -> Connection:
    """Create a connection to sign in to. Raises NotAllowed, PolicyForbids, InvalidInput or AlreadyExists."""
    roles.require(permissions.can_connect(actor), cause="Auditors only look.", action="Ask a member to connect.")
    connection = build(app_registration, AuthenticationType.AUTHORIZATION_CODE, name, chosen, extra_scopes, actor)
    connection.created_at = now or connection.created_at
    decision, _ = approvals.evaluate_approval(connection)
    evaluate.refuse_forbidden(decision)
    with transaction.atomic():
        insert(connection, shared_mailboxes, actor)
        if decision.approval:
            approvals.request_approval(
                connection, decision.approval, reason=reason, actor=actor, now=now or timezone.now()
            )
    return connection


def build(
    app_registration: AppRegistration,
    authentication_type: AuthenticationType,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    owner: User,
) -> Connection:
    """Return an unsaved connection. Raises NotAllowed or InvalidInput if it could not work."""
    if not app_registration.allows(authentication_type):
        kind = authentication_type.label.partition(":")[0].lower()
        raise NotAllowed(
            f"{app_registration} is not registered for {kind} connections.",
            action="Choose another app registration, or ask an IT admin to allow it.",
        )
    is_app_only = authentication_type == AuthenticationType.CLIENT_CREDENTIALS
    if is_app_only and app_registration.tenant.is_shared_endpoint:
        raise InvalidInput(
            f"“{app_registration.tenant.directory_id}” cannot work app-only: nobody signs in, so Microsoft cannot know "
            "which directory is meant.",
            action="Use an app registration whose tenant has a directory ID.",
        )
    if not capabilities.CAPABILITIES.keys() >= set(chosen):
        raise InvalidInput("One of the capabilities is not known (any more).", field="capabilities")
    return Connection(
        name=name,
        app_registration=app_registration,
        owner=owner,
        authentication_type=authentication_type,
        capabilities=list(chosen),
        extra_scopes=" ".join(extra_scopes),
        scopes=" ".join(capabilities.application_roles(chosen, extra_scopes)) if is_app_only else "",
    )


def insert(connection: Connection, shared_mailboxes: Sequence[SharedMailbox], actor: User) -> None:
    """Save a new connection with its mailboxes. Raises AlreadyExists if its owner already has one with this name."""
    try:
        with transaction.atomic():
            connection.save(force_insert=True)
            history.ownership_began(connection, actor=actor, now=connection.created_at)
            audit.record(
                AuditAction.CONNECTION_CREATED,
                connection,
                actor=actor,
                at=connection.created_at,
                changes={
                    "owner": audit.recorded_name(connection.owner),
                    "app_registration": str(connection.app_registration),
                    "authentication_type": connection.authentication_type,
                    "capabilities": audit.join_values(connection.capabilities),
                    "extra_scopes": connection.extra_scopes,
                },
            )
            for mailbox in shared_mailboxes:
                mailboxes.attach(connection, mailbox, actor=actor)
    except IntegrityError as error:
        raise _duplicate(connection.name) from error


def change(
    connection: Connection,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    actor: User,
    now: datetime | None = None,
    reason: str = "",
) -> bool:
    """Change name and capabilities. Return whether added permissions need a new sign-in (or consent).

    Granted permissions stay in use until the owner signs in again. The policy must allow the added ones; if it requires
    an approval, that is requested with ``reason``. Raises NotAllowed, PolicyForbids or AlreadyExists.
    """
    values: dict[str, Any] = {"name": name, "capabilities": list(chosen), "extra_scopes": " ".join(extra_scopes)}
    if not connection.is_delegated:
        values["scopes"] = " ".join(capabilities.application_roles(chosen, extra_scopes))
    changes = audit.changed_fields(connection, values)
    before = {field: getattr(connection, field) for field in values}
    try:
        with transaction.atomic():
            _lock(connection)
            roles.require(permissions.can_reconnect(actor, connection))
            if changes:
                moment = now or timezone.now()
                _set(connection, values)
                missing = permission_changes.check_policy(connection, before)
                Connection.objects.filter(pk=connection.pk).update(**values)
                audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=actor, changes=changes)
                if not changes.keys().isdisjoint(permission_changes.REQUESTED_COLUMNS):
                    sign_in_links.revoke_open(connection, now=moment)
                permission_changes.update_approval(connection, missing, before, reason=reason, actor=actor, now=moment)
    except IntegrityError as error:
        raise _duplicate(name) from error
    except PolicyForbids:
        _set(connection, before)
        raise
    return bool(missing_permissions(connection))


def _set(connection: Connection, values: dict[str, Any]) -> None:
    for field, value in values.items():
        setattr(connection, field, value)


def probe_mailboxes(connection: Connection, *, actor: User, now: datetime) -> None:
    """Probe a new connection's mailboxes now; if that fails, the scheduled probe tries again."""
    try:
        probes.probe(connection, actor=actor, now=now)
    except PortalError:
        connection.mailbox_accesses.update(probe_after=now)


def missing_permissions(connection: Connection) -> tuple[str, ...]:
    """Return the permissions that the connection's capabilities need but Microsoft has not granted, as short names."""
    return capabilities.missing(permission_drift.required_permissions(connection), connection.granted)


def disable(connection: Connection, *, actor: User, now: datetime) -> None:
    """Disable a connection but keep its grant; safe to repeat. Only an IT admin can enable what one has disabled."""
    with transaction.atomic():
        _lock(connection)
        roles.require(permissions.can_disable(actor, connection))
        by_admin = actor.pk != connection.owner_id
        values = {
            **status_columns(
                Connection.Status.DISABLED,
                code="disabled",
                cause=f"{actor}{', an IT admin,' if by_admin else ''} disabled this connection.",
                action="Only an IT admin can enable it again." if by_admin else "Enable it to use it again.",
                who=Connection.Who.IT_ADMIN if by_admin else Connection.Who.OWNER,
                since=now,
            ),
            "disabled_by": actor,
            "disabled_by_admin": by_admin,
            "refresh_after": None,
        }
        connection.refresh_from_db(fields=["status", "disabled_by_admin"])
        if permissions.can_keep_disabled(actor, connection):
            changes = {"enabled_by": ["the owner", "IT admins only"]}
            audit.record(AuditAction.CONNECTION_DISABLED, connection, actor=actor, changes=changes)
            Connection.objects.filter(pk=connection.pk).update(**values)
            connection.refresh_from_db()
        elif connection.status != Connection.Status.DISABLED:
            _switch(connection, AuditAction.CONNECTION_DISABLED, actor, values)
        incidents.connections_disabled([connection.pk], now=now)


def enable(connection: Connection, *, actor: User, now: datetime) -> None:
    """Use the connection again; the next sweep checks its grant. Raises NotAllowed, PolicyForbids or ApprovalNeeded."""
    with transaction.atomic():
        _lock(connection)
        connection.refresh_from_db(fields=["status", "disabled_by_admin", "connected_at"])
        roles.require(permissions.can_disable(actor, connection))
        roles.require(
            permissions.can_use_again(actor, connection),
            cause="An IT admin has disabled this connection.",
            action="Only an IT admin can enable it again.",
        )
        if connection.status != Connection.Status.DISABLED:
            return
        if connection.connected_at is not None:
            approvals.require(connection)
            approvals.require_account(connection, connection.account_tid)
        values: dict[str, Any] = {**store.healthy_columns(now), "refresh_after": now}
        transfer = ownership_transfer.pending_transfer(connection)
        if connection.connected_at is None:
            values |= status_columns(Connection.Status.PENDING, since=now) | {"refresh_after": None}
        elif transfer is not None and not transfer.keeps_grant:
            from_name = transfer.from_name.partition(" <")[0]
            values |= {"refresh_after": None, **ownership_transfer.awaiting_sign_in(from_name=from_name, now=now)}
        _switch(connection, AuditAction.CONNECTION_ENABLED, actor, values)
        ownership_transfer.remind_new_owner(connection, now=now)


def _switch(connection: Connection, action: AuditAction, actor: User, values: dict[str, Any]) -> None:
    changes = {"status": [connection.status, values["status"]]}
    audit.record(action, connection, actor=actor, changes=changes)
    Connection.objects.filter(pk=connection.pk).update(**values)
    connection.refresh_from_db()


def remove(connection: Connection, *, actor: User, now: datetime) -> None:
    """Delete connection and tokens; Microsoft cannot revoke a single grant (identity-platform/refresh-tokens)."""
    with transaction.atomic():
        _lock(connection, to_remove=True)
        roles.require(permissions.can_disable(actor, connection))
        incidents.connection_removed(connection, now=now)
        history.connection_removed(connection, actor=actor, now=now)
        request_status.connection_removed(connection, actor=actor, now=now)
        approvals.connection_removed(connection, actor=actor, now=now)
        changes = {"account": connection.account_username, "app_registration": str(connection.app_registration)}
        audit.record(AuditAction.CONNECTION_REMOVED, connection, actor=actor, at=now, changes=changes)
        connection.delete()


def _lock(connection: Connection, *, to_remove: bool = False) -> None:
    """Lock the row and reload its owner before checking permissions. ``to_remove`` also blocks inserts that refer to it."""
    rows = Connection.objects.select_for_update(no_key=not to_remove).filter(pk=connection.pk)
    connection.owner_id = rows.values_list("owner", flat=True).first() or connection.owner_id


def _duplicate(name: str) -> AlreadyExists:
    return AlreadyExists(f"You already have a connection called “{name}”.", action="Choose another name.", field="name")
