from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from connections import audit, mail_addresses
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InUse, InvalidInput
from connections.microsoft import capabilities, exchange_script, mailbox_errors
from connections.models import Connection, MailboxAccess, SharedMailbox, Tenant, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.incidents import incidents
from connections.services.mailboxes import probes
from connections.services.notifications.owner_messages import tell_owner
from connections.services.policy import permission_drift
from connections.uniqueness import atomic_or

_MAILBOX_PERMISSIONS = ("Mail.", "MailboxSettings.", "MailboxFolder", "Calendars.", "Contacts.", "exchange/")


def register(tenant: Tenant, *, address: str, display_name: str = "", actor: User) -> SharedMailbox:
    """Register a mailbox. Addresses are unique, ignoring case. Raises NotAllowed, InvalidInput or AlreadyExists."""
    allowed = permissions.can_register_mailbox(actor)
    roles.require(allowed, cause="Auditors have read-only access.", action="Ask a member to register it.")
    if tenant.is_shared_endpoint:
        raise InvalidInput(
            f"“{tenant.directory_id}” isn't a directory, so it has no mailboxes.",
            action="Choose the mailbox's tenant. An IT admin can add it.",
            field="tenant",
        )
    normalized = mail_addresses.parse(address)
    mailbox = SharedMailbox(tenant=tenant, address=normalized, display_name=display_name, created_by=actor)
    with atomic_or(lambda: _duplicate(mailbox)):
        mailbox.save(force_insert=True)
        audit.record(AuditAction.MAILBOX_REGISTERED, mailbox, actor=actor, changes={"tenant": tenant.name})
    return mailbox


def find_or_register(tenant: Tenant, addresses: Sequence[str], *, actor: User) -> list[SharedMailbox]:
    """Return the mailboxes with these addresses, registering unknown ones. Raises the same errors as ``register``."""
    known = {mailbox.address.lower(): mailbox for mailbox in tenant.shared_mailboxes.all()} if addresses else {}
    unique = {address.lower(): address for address in addresses}
    return [known.get(lower) or register(tenant, address=address, actor=actor) for lower, address in unique.items()]


def change(mailbox: SharedMailbox, *, address: str, display_name: str, actor: User) -> None:
    """Change the name or the address. A new address discards all probe results.

    Raises NotAllowed, InvalidInput or AlreadyExists.
    """
    roles.require(permissions.can_change_mailbox(actor, mailbox), action="Ask an IT admin or the person who added it.")
    values = {"address": mail_addresses.parse(address), "display_name": display_name}
    changes = audit.changed_fields(mailbox, values)
    if not changes:
        return
    with atomic_or(lambda: _duplicate(SharedMailbox(tenant=mailbox.tenant, **values))):
        SharedMailbox.objects.filter(pk=mailbox.pk).update(**values)
        if "address" in changes:
            unprobed = {"state": MailboxAccess.State.UNPROBED, "probed_at": None, "probe_after": timezone.now()}
            mailbox.accesses.update(code="", lack="", cause="", action="", **unprobed)
        audit.record(AuditAction.MAILBOX_CHANGED, mailbox, actor=actor, changes=changes)
    set_columns(mailbox, values)


def remove(mailbox: SharedMailbox, *, actor: User) -> None:
    """Delete the mailbox. Raises NotAllowed, or InUse while it is attached to a connection."""
    roles.require(permissions.can_change_mailbox(actor, mailbox), action="Ask an IT admin or the person who added it.")
    with transaction.atomic():
        # The lock prevents the mailbox from being attached between the count and the deletion.
        if not SharedMailbox.objects.select_for_update().filter(pk=mailbox.pk).exists():
            return
        count = mailbox.accesses.count()
        if count:
            users = "One connection still uses" if count == 1 else f"{count} connections still use"
            raise InUse(f"{users} {mailbox}.", action="Detach it there first.")
        audit.record(AuditAction.MAILBOX_REMOVED, mailbox, actor=actor, changes={"tenant": mailbox.tenant.name})
        SharedMailbox.objects.filter(pk=mailbox.pk).delete()


def _duplicate(mailbox: SharedMailbox) -> AlreadyExists:
    return AlreadyExists(
        f"{mailbox.address} already exists in {mailbox.tenant}.",
        action="Choose it from the list.",
        field="address",
    )


def attach(connection: Connection, mailbox: SharedMailbox, *, actor: User) -> MailboxAccess:
    """Attach the mailbox and schedule a probe. Safe to repeat.

    Raises NotAllowed, or InvalidInput if the mailbox is in another tenant.
    """
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    if not is_reachable_by(connection, mailbox):
        raise InvalidInput(
            f"{mailbox} belongs to the tenant {mailbox.tenant}, which this connection can't access.",
            action="Use a connection to that tenant.",
            field="mailbox",
        )
    with transaction.atomic():
        access, is_new = MailboxAccess.objects.get_or_create(
            connection=connection, mailbox=mailbox, defaults={"probe_after": timezone.now()}
        )
        if is_new:
            changes = {"mailbox": str(mailbox)}
            event = audit.record(AuditAction.CONNECTION_MAILBOX_ATTACHED, connection, actor=actor, changes=changes)
            tell_owner(connection, event, f"added {mailbox} to {connection}", actor=actor, now=timezone.now())
    return access


def attach_address(connection: Connection, *, address: str, actor: User) -> MailboxAccess:
    """Attach a mailbox, registering it if necessary. Raises NotAllowed, AlreadyExists or InvalidInput.

    InvalidInput also means that the connection's directory is unknown or not a tenant.
    """
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    tenant = home_tenant(connection)
    if tenant is None:
        raise InvalidInput(
            "The connected account's directory isn't a tenant in this portal."
            if connection.account_tid
            else "Nobody has signed in yet, so the connection's directory is unknown.",
            action="Ask an IT admin to add it as a tenant." if connection.account_tid else "Sign in first.",
            field="address",
        )
    mailbox = SharedMailbox.objects.filter(tenant=tenant, address__iexact=mail_addresses.parse(address)).first()
    with transaction.atomic():
        mailbox = mailbox or register(tenant, address=address, actor=actor)
        return attach(connection, mailbox, actor=actor)


def detach(attached: MailboxAccess, *, actor: User) -> None:
    """Detach the mailbox from its connection. Safe to repeat. Raises NotAllowed."""
    connection = attached.connection
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    with transaction.atomic():
        deleted, _ = MailboxAccess.objects.filter(pk=attached.pk).delete()
        if deleted:
            incidents.mailbox_reachable(attached, now=timezone.now())
            changes = {"mailbox": str(attached.mailbox)}
            event = audit.record(AuditAction.CONNECTION_MAILBOX_DETACHED, connection, actor=actor, changes=changes)
            what = f"removed {attached.mailbox} from {connection}"
            tell_owner(connection, event, what, actor=actor, now=timezone.now())


def is_reachable_by(connection: Connection, mailbox: SharedMailbox) -> bool:
    """Whether the mailbox belongs to the connection's directory."""
    tenant = connection.tenant
    if mailbox.tenant_id == tenant.pk:
        return True
    if not tenant.is_shared_endpoint or mailbox.tenant.environment != tenant.environment:
        return False
    # With a shared endpoint such as "common", the directory is known only after sign-in.
    return connection.account_tid in ("", mailbox.tenant.tid)


def home_tenant(connection: Connection) -> Tenant | None:
    """Return the tenant whose mailboxes the connection may reach, or None if it is unknown."""
    tenant = connection.tenant
    if not tenant.is_shared_endpoint:
        return tenant
    if not connection.account_tid:
        return None
    return Tenant.objects.filter(environment=tenant.environment, tid=connection.account_tid).first()


def reads_mailboxes(connection: Connection) -> bool:
    """Whether the connection requests or has permissions for mailboxes."""
    names = {*permission_drift.required_permissions(connection), *connection.granted}
    return any(name.startswith(_MAILBOX_PERMISSIONS) for name in names)


def missing_permission(connection: Connection) -> str:
    """Return a sentence about the permission that the connection lacks for shared mailboxes, or "" if it lacks none."""
    purpose = probes.purpose_of(connection)
    if not connection.is_delegated or not capabilities.missing([purpose.scope], connection.granted):
        # For app-only connections, Exchange may have granted the permission. Tokens don't show that, only a probe does.
        return ""
    required = permission_drift.required_permissions(connection)
    if not capabilities.missing([purpose.scope], required):
        return f"The permission {purpose.scope} isn't granted yet. The next sign-in requests it."
    return (
        f"The permission {purpose.scope} is missing. Add the capability {purpose.capability} to the connection, then "
        "sign in again."
    )


def capabilities_with_permission(connection: Connection) -> list[str]:
    """The connection's capabilities, and the one that requests the permission it lacks for shared mailboxes."""
    purpose, required = probes.purpose_of(connection), permission_drift.required_permissions(connection)
    lacks = connection.is_delegated and capabilities.missing([purpose.scope], required)
    return [*connection.capabilities, *([purpose.key] if lacks else [])]


def exchange_plan(connection: Connection) -> exchange_script.ApplicationPlan | exchange_script.AccountPlan | None:
    """Return the plan for the PowerShell commands that give the connection access to its mailboxes.

    Returns None without a mailbox, a sign-in, or a permission that Exchange can grant.
    """
    openable = connection.mailbox_accesses.exclude(lack__in=[lack.value for lack in mailbox_errors.WITHOUT_MAILBOX])
    addresses = tuple(openable.values_list("mailbox__address", flat=True))
    app = connection.app_registration
    shared: dict[str, Any] = {
        "environment": app.tenant.environment,
        "tid": connection.account_tid or app.tenant.tid,
        "connection_name": connection.name,
        "key": f"{app.client_id[:8]}-{connection.pk}",
        "addresses": addresses,
    }
    if connection.is_delegated and addresses and (account := connection.account_username):
        return exchange_script.AccountPlan(**shared, account=account, sends=probes.may_send(connection))
    required = application_roles(connection)
    app_roles, protocols = exchange_script.roles_for(required), exchange_script.protocols_for(required)
    if not addresses or not (app_roles or protocols):
        return None
    return exchange_script.ApplicationPlan(
        **shared, client_id=app.client_id, app_name=app.name, roles=app_roles, protocols=protocols
    )


def application_roles(connection: Connection) -> tuple[str, ...]:
    """Return the minimum application permissions of an app-only connection, or () for a delegated connection."""
    if connection.is_delegated:
        return ()
    return capabilities.application_roles(connection.capabilities, connection.extra_scopes)
