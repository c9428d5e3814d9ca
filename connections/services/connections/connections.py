from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput, NotAllowed, PolicyForbids, PortalError
from connections.microsoft import capabilities, resources
from connections.models import AppRegistration, AuditEvent, Connection, SharedMailbox, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.models.connections import status_columns
from connections.services.connections import directories, permission_changes, sign_in_links
from connections.services.consent import request_status
from connections.services.incidents import incidents
from connections.services.mailboxes import mailboxes, probes
from connections.services.notifications.owner_messages import tell_owner
from connections.services.people import ownership_transfer
from connections.services.policy import approvals, evaluate, permission_drift
from connections.services.registry import app_consents
from connections.services.sharing import history, references
from connections.services.tokens import resource_tokens, store
from connections.uniqueness import atomic_or


def start_delegated(
    app_registration: AppRegistration,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    hosts: Mapping[str, str] | None = None,
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime | None = None,
    reason: str = "",
    tenant: Tenant | None = None,
    pending_mailboxes: Sequence[str] = (),
) -> Connection:
    """Create a delegated connection, ready for its sign-in, in ``tenant`` (default: the app registration's own).

    ``hosts`` are as in ``build``. ``pending_mailboxes`` are addresses of shared mailboxes in a directory that is known
    only after the sign-in. Raises NotAllowed, PolicyForbids, InvalidInput or AlreadyExists.
    """
    roles.require(
        permissions.can_connect(actor), cause="Auditors have read-only access.", action="Ask a member to connect."
    )
    connection = build(
        app_registration,
        AuthenticationType.AUTHORIZATION_CODE,
        name,
        chosen,
        extra_scopes,
        actor,
        hosts=hosts,
        tenant=tenant,
    )
    connection.pending_mailboxes = directories.pending_addresses(connection, pending_mailboxes)
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
    *,
    hosts: Mapping[str, str] | None = None,
    tenant: Tenant | None = None,
) -> Connection:
    """Return an unsaved connection. ``hosts`` are the organisation's hosts of SharePoint and Dataverse, by resource.

    Raises NotAllowed, or InvalidInput if the connection could not work.
    """
    roles.require(
        permissions.can_connect_through(owner, app_registration),
        cause=f"Only the person who added {app_registration} can connect through it.",
        action="Choose another app registration, or ask an IT admin to open it to everyone.",
    )
    is_app_only, tenant = (
        authentication_type == AuthenticationType.CLIENT_CREDENTIALS,
        tenant or app_registration.tenant,
    )
    _require_type(app_registration, authentication_type)
    _require_usable(app_registration, tenant, is_app_only=is_app_only)
    if not capabilities.CAPABILITIES.keys() >= set(chosen):
        raise InvalidInput("One of the capabilities doesn't exist.", field="capabilities")
    connection = Connection(
        name=name,
        app_registration=app_registration,
        tenant=tenant,
        owner=owner,
        authentication_type=authentication_type,
        capabilities=list(chosen),
        extra_scopes=" ".join(extra_scopes),
        scopes=" ".join(capabilities.application_roles(chosen, extra_scopes)) if is_app_only else "",
        hosts=dict(hosts or {}),
    )
    _require_addresses(connection)
    connection.resource = resources.main(permission_drift.required_permissions(connection))
    return connection


def _require_type(app_registration: AppRegistration, authentication_type: AuthenticationType) -> None:
    if not app_registration.allows(authentication_type):
        kind = authentication_type.label.partition(":")[0].lower()
        raise NotAllowed(
            f"{app_registration} doesn't allow {kind} connections.",
            action="Choose another app registration, or ask an IT admin to allow it.",
        )


def _require_addresses(connection: Connection) -> None:
    """Raise InvalidInput unless tokens for every resource of the connection can be requested."""
    for key in resources.needed(permission_drift.required_permissions(connection)):
        if key != resources.GRAPH:
            resource_tokens.audience(connection, key)


def _require_usable(app_registration: AppRegistration, tenant: Tenant, *, is_app_only: bool) -> None:
    if is_app_only and tenant.is_shared_endpoint:
        raise InvalidInput(
            f"App-only connections aren't possible with “{tenant.directory_id}”, because it isn't a specific directory.",
            action="Choose a tenant with a directory ID.",
            field="tenant",
        )
    if not app_consents.is_used_in(app_registration, tenant):
        raise InvalidInput(
            f"{app_registration} isn't set up for the tenant {tenant}.",
            action="An IT admin can add the tenant on the app registration's page.",
            field="tenant",
        )


def insert(connection: Connection, shared_mailboxes: Sequence[SharedMailbox], actor: User) -> None:
    """Save a new connection with its mailboxes. Raises AlreadyExists or InvalidInput if its name can't be used."""
    references.require_free_name(connection.name, actor=actor)
    with atomic_or(lambda: _duplicate(connection.name)):
        connection.app_consent = app_consents.for_new_connection(
            connection.app_registration, connection.tenant, actor=actor
        )
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
                "tenant": str(connection.tenant),
                "authentication_type": connection.authentication_type,
                "capabilities": audit.join_values(connection.capabilities),
                "extra_scopes": connection.extra_scopes,
                **({"hosts": audit.join_values(sorted(connection.hosts.values()))} if connection.hosts else {}),
            },
        )
        for mailbox in shared_mailboxes:
            mailboxes.attach(connection, mailbox, actor=actor)


def change(
    connection: Connection,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    hosts: Mapping[str, str] | None = None,
    actor: User,
    now: datetime | None = None,
    reason: str = "",
) -> bool:
    """Change the name and the capabilities. Returns whether added permissions need a new sign-in or consent.

    Granted permissions stay in use until the owner signs in again. The policy must allow the added ones; if it requires
    an approval, the approval is requested with ``reason``. ``hosts`` are as in ``build``; None keeps them.

    Raises NotAllowed, PolicyForbids, InvalidInput or AlreadyExists.
    """
    values: dict[str, Any] = {"name": name, "capabilities": list(chosen), "extra_scopes": " ".join(extra_scopes)}
    if not connection.is_delegated:
        values["scopes"] = " ".join(capabilities.application_roles(chosen, extra_scopes))
    if hosts is not None:
        values["hosts"] = dict(hosts)
    changes = audit.changed_fields(connection, values)
    before = {field: getattr(connection, field) for field in values}
    moment = now or timezone.now()
    try:
        with transaction.atomic():
            _lock(connection)
            roles.require(permissions.can_reconnect(actor, connection))
            if "name" in changes:
                references.require_free_name(name, actor=actor)
            if changes:
                set_columns(connection, values)
                _require_addresses(connection)
                missing = permission_changes.check_policy(connection, before)
                Connection.objects.filter(pk=connection.pk).update(**values)
                event = audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=actor, changes=changes)
                tell_owner(connection, event, f"changed {connection}", actor=actor, now=moment)
                if not changes.keys().isdisjoint((*permission_changes.REQUESTED_COLUMNS, "hosts")):
                    sign_in_links.revoke_open(connection, now=moment)
                permission_changes.update_approval(connection, missing, before, reason=reason, actor=actor, now=moment)
            _follow_resources(connection, before.get("hosts", connection.hosts), moment)
    except IntegrityError as error:
        raise _duplicate(name) from error
    except (PolicyForbids, InvalidInput):
        set_columns(connection, before)
        raise
    return bool(missing_permissions(connection))


def _follow_resources(connection: Connection, hosts_before: Mapping[str, str], now: datetime) -> None:
    """Delete tokens that are no longer needed.

    App-only connections request new tokens; others get them at a sign-in.
    """
    moved = [key for key in hosts_before if connection.hosts.get(key) != hosts_before[key]]
    connection.resource_tokens.filter(resource__in=moved).delete()
    if connection.resource in moved:
        Connection.objects.filter(pk=connection.pk).update(access_token=None, expires_at=None)
        Connection.objects.filter(pk=connection.pk, status__in=Connection.KEPT_ALIVE).update(refresh_after=now)
    is_ready = not connection.is_delegated and connection.connected_at is not None
    if is_ready and approvals.open_request(connection) is None:
        resource_tokens.arrange(connection, forget_tokens=False, now=now)
    else:
        resource_tokens.drop_unneeded(connection, now=now)


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
    """Disable a connection but keep its grant. Safe to repeat. Raises NotAllowed.

    If an IT admin disables someone else's connection, only IT admins can enable it again.
    """
    with transaction.atomic():
        _lock(connection)
        roles.require(permissions.can_disable(actor, connection))
        by_admin = actor.pk != connection.owner_id
        values = {
            **status_columns(
                Connection.Status.DISABLED,
                code="disabled",
                cause=f"{actor}{', an IT admin,' if by_admin else ''} disabled this connection.",
                action="Only an IT admin can enable it again."
                if by_admin
                else "Enable the connection to use it again.",
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
            event = audit.record(AuditAction.CONNECTION_DISABLED, connection, actor=actor, changes=changes)
            tell_owner(connection, event, f"disabled {connection}", actor=actor, now=now)
            Connection.objects.filter(pk=connection.pk).update(**values)
            connection.refresh_from_db()
        elif connection.status != Connection.Status.DISABLED:
            event = _switch(connection, AuditAction.CONNECTION_DISABLED, actor, values)
            tell_owner(connection, event, f"disabled {connection}", actor=actor, now=now)
        incidents.connections_disabled([connection.pk], now=now)


def enable(connection: Connection, *, actor: User, now: datetime) -> None:
    """Enable a connection. The next sweep checks its grant. Raises NotAllowed, PolicyForbids or ApprovalNeeded."""
    with transaction.atomic():
        _lock(connection)
        connection.refresh_from_db(fields=["status", "disabled_by_admin", "connected_at"])
        roles.require(permissions.can_disable(actor, connection))
        roles.require(
            permissions.can_use_again(actor, connection),
            cause="An IT admin disabled this connection.",
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
        event = _switch(connection, AuditAction.CONNECTION_ENABLED, actor, values)
        tell_owner(connection, event, f"enabled {connection}", actor=actor, now=now)
        ownership_transfer.remind_new_owner(connection, now=now)


def _switch(connection: Connection, action: AuditAction, actor: User, values: dict[str, Any]) -> AuditEvent:
    changes = {"status": [connection.status, values["status"]]}
    event = audit.record(action, connection, actor=actor, changes=changes)
    Connection.objects.filter(pk=connection.pk).update(**values)
    connection.refresh_from_db()
    return event


def remove(connection: Connection, *, actor: User, now: datetime) -> None:
    """Delete the connection and its tokens. Raises NotAllowed.

    Microsoft offers no way to revoke a single grant (identity-platform/refresh-tokens), so the grant remains there.
    """
    with transaction.atomic():
        _lock(connection, to_remove=True)
        roles.require(permissions.can_disable(actor, connection))
        incidents.connection_removed(connection, now=now)
        history.connection_removed(connection, actor=actor, now=now)
        request_status.connection_removed(connection, actor=actor, now=now)
        approvals.connection_removed(connection, actor=actor, now=now)
        references.connection_removed(connection, actor=actor, now=now)
        changes = {"account": connection.account_username, "app_registration": str(connection.app_registration)}
        event = audit.record(AuditAction.CONNECTION_REMOVED, connection, actor=actor, at=now, changes=changes)
        tell_owner(connection, event, f"removed {connection}", actor=actor, now=now)
        connection.delete()


def _lock(connection: Connection, *, to_remove: bool = False) -> None:
    """Lock the row and reload its owner, before checking permissions. ``to_remove`` also blocks new references."""
    rows = Connection.objects.select_for_update(no_key=not to_remove).filter(pk=connection.pk)
    connection.owner_id = rows.values_list("owner", flat=True).first() or connection.owner_id


def _duplicate(name: str) -> AlreadyExists:
    return AlreadyExists(f"You already have a connection named “{name}”.", action="Choose another name.", field="name")
