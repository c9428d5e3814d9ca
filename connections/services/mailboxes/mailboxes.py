"""Register shared mailboxes, once per tenant, and attach them to connections."""

from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InUse, InvalidInput
from connections.microsoft import capabilities, exchange_script, mailbox_errors
from connections.models import Connection, MailboxAccess, SharedMailbox, Tenant, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.mailboxes import probes
from connections.services.policy import permission_drift


def register(tenant: Tenant, *, address: str, display_name: str = "", actor: User) -> SharedMailbox:
    """Register a mailbox; addresses are unique, ignoring case. Raises NotAllowed, InvalidInput or AlreadyExists."""
    allowed = permissions.can_register_mailbox(actor)
    roles.require(allowed, cause="Auditors only look.", action="Ask a member to register it.")
    if tenant.is_shared_endpoint:
        raise InvalidInput(
            f"“{tenant.directory_id}” is no directory, so it has no mailboxes.",
            action="Choose the tenant the mailbox lives in; an IT admin can register it.",
            field="tenant",
        )
    normalized = normalize_address(address)
    mailbox = SharedMailbox(tenant=tenant, address=normalized, display_name=display_name, created_by=actor)
    _check_unique(mailbox)
    try:
        with transaction.atomic():
            mailbox.save(force_insert=True)
            audit.record(AuditAction.MAILBOX_REGISTERED, mailbox, actor=actor, changes={"tenant": tenant.name})
    except IntegrityError as error:
        raise _duplicate(mailbox) from error
    return mailbox


def change(mailbox: SharedMailbox, *, address: str, display_name: str, actor: User) -> None:
    """Change the name or address; a new address discards all probe results. Raises NotAllowed or AlreadyExists."""
    roles.require(permissions.can_change_mailbox(actor, mailbox), action="Ask an IT admin, or whoever registered it.")
    values = {"address": normalize_address(address), "display_name": display_name}
    changes = audit.changed_fields(mailbox, values)
    if not changes:
        return
    _check_unique(SharedMailbox(pk=mailbox.pk, tenant=mailbox.tenant, **values))
    try:
        with transaction.atomic():
            SharedMailbox.objects.filter(pk=mailbox.pk).update(**values)
            if "address" in changes:
                unprobed = {"state": MailboxAccess.State.UNPROBED, "probed_at": None, "probe_after": timezone.now()}
                mailbox.accesses.update(code="", lack="", cause="", action="", **unprobed)
            audit.record(AuditAction.MAILBOX_CHANGED, mailbox, actor=actor, changes=changes)
    except IntegrityError as error:
        raise _duplicate(mailbox) from error
    for name, value in values.items():
        setattr(mailbox, name, value)


def remove(mailbox: SharedMailbox, *, actor: User) -> None:
    """Delete the mailbox. Raises NotAllowed, or InUse while it is attached to a connection."""
    roles.require(permissions.can_change_mailbox(actor, mailbox), action="Ask an IT admin, or whoever registered it.")
    with transaction.atomic():
        # The lock keeps it from being attached between the count and the deletion.
        if not SharedMailbox.objects.select_for_update().filter(pk=mailbox.pk).exists():
            return
        count = mailbox.accesses.count()
        if count:
            users = "One connection still uses" if count == 1 else f"{count} connections still use"
            raise InUse(f"{users} {mailbox}.", action="Detach it there first.")
        audit.record(AuditAction.MAILBOX_REMOVED, mailbox, actor=actor, changes={"tenant": mailbox.tenant.name})
        SharedMailbox.objects.filter(pk=mailbox.pk).delete()


def normalize_address(address: str) -> str:
    """The address with its domain in lower case; the part before the @ is kept as entered."""
    local, _, domain = address.strip().rpartition("@")
    return f"{local}@{domain.lower()}"


def _check_unique(mailbox: SharedMailbox) -> None:
    same = SharedMailbox.objects.filter(tenant=mailbox.tenant, address__iexact=mailbox.address)
    if same.exclude(pk=mailbox.pk).exists():
        raise _duplicate(mailbox)


def _duplicate(mailbox: SharedMailbox) -> AlreadyExists:
    return AlreadyExists(
        f"{mailbox.address} is already registered in {mailbox.tenant}.",
        action="Choose it from the list instead of adding it again.",
        field="address",
    )


def attach(connection: Connection, mailbox: SharedMailbox, *, actor: User) -> MailboxAccess:
    """Attach the mailbox and schedule a probe. Safe to repeat. Raises NotAllowed, or InvalidInput if out of reach."""
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    if not is_reachable_by(connection, mailbox):
        raise InvalidInput(
            f"{mailbox} belongs to the tenant {mailbox.tenant}, which this connection does not reach.",
            action="Use a connection to that tenant.",
            field="mailbox",
        )
    with transaction.atomic():
        access, is_new = MailboxAccess.objects.get_or_create(
            connection=connection, mailbox=mailbox, defaults={"probe_after": timezone.now()}
        )
        if is_new:
            changes = {"mailbox": str(mailbox)}
            audit.record(AuditAction.CONNECTION_MAILBOX_ATTACHED, connection, actor=actor, changes=changes)
    return access


def attach_address(connection: Connection, *, address: str, actor: User) -> MailboxAccess:
    """Attach a mailbox, registering it if necessary. Raises NotAllowed, or InvalidInput if the directory is unknown."""
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    tenant = home_tenant(connection)
    if tenant is None:
        raise InvalidInput(
            "The directory of the connected account is not registered in this portal."
            if connection.account_tid
            else "Nobody has signed in yet, so the directory of this connection is not known.",
            action="Ask an IT admin to register it as a tenant." if connection.account_tid else "Sign in first.",
            field="address",
        )
    mailbox = SharedMailbox.objects.filter(tenant=tenant, address__iexact=normalize_address(address)).first()
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
            audit.record(AuditAction.CONNECTION_MAILBOX_DETACHED, connection, actor=actor, changes=changes)


def is_reachable_by(connection: Connection, mailbox: SharedMailbox) -> bool:
    """Whether the mailbox belongs to the connection's directory."""
    tenant = connection.app_registration.tenant
    if mailbox.tenant_id == tenant.pk:
        return True
    if not tenant.is_shared_endpoint or mailbox.tenant.environment != tenant.environment:
        return False
    # With a shared endpoint such as "common", the directory is known only after sign-in.
    return connection.account_tid in ("", mailbox.tenant.tid)


def home_tenant(connection: Connection) -> Tenant | None:
    """The tenant whose mailboxes the connection may reach; None if it is unknown."""
    tenant = connection.app_registration.tenant
    if not tenant.is_shared_endpoint:
        return tenant
    if not connection.account_tid:
        return None
    return Tenant.objects.filter(environment=tenant.environment, tid=connection.account_tid).first()


def missing_permission(connection: Connection) -> str:
    """A sentence about the permission that the connection lacks for shared mailboxes; empty if it lacks none."""
    purpose = probes.purpose_of(connection)
    if not connection.is_delegated or not capabilities.missing([purpose.scope], connection.granted):
        # Exchange may have granted an application the permission. Only a probe shows that; its token does not.
        return ""
    required = permission_drift.required_permissions(connection)
    if not capabilities.missing([purpose.scope], required):
        return f"The permission {purpose.scope} is not granted yet; the next sign-in asks for it."
    return (
        f"The permission {purpose.scope} is missing. Add the capability {purpose.capability} to the connection and "
        "sign in again; the sign-in then asks for it."
    )


def exchange_plan(connection: Connection) -> exchange_script.ApplicationPlan | exchange_script.AccountPlan | None:
    """The plan for the PowerShell commands; None without a mailbox, a sign-in or a permission Exchange can grant."""
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
    app_roles = exchange_script.roles_for(application_roles(connection))
    if not addresses or not app_roles:
        return None
    return exchange_script.ApplicationPlan(**shared, client_id=app.client_id, app_name=app.name, roles=app_roles)


def application_roles(connection: Connection) -> tuple[str, ...]:
    """The minimum application permissions that an app-only connection needs; empty for a delegated one."""
    if connection.is_delegated:
        return ()
    return capabilities.application_roles(connection.capabilities, connection.extra_scopes)
