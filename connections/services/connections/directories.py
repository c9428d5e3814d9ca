"""Bind connections through a shared endpoint such as "common" to the directory of the account that signed in.

The directory is unknown until the sign-in, so the addresses of shared mailboxes are stored with the connection until
then. A directory that is not a tenant in the portal is registered automatically if the policy allows it. Otherwise IT
admins are asked to register it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from connections import audit, mail_addresses
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput, PortalError
from connections.microsoft.account_claims import Account
from connections.microsoft.clouds import CONSUMERS_TID
from connections.models import Connection, Incident, Tenant, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.mailboxes import mailboxes
from connections.services.policy import evaluate
from connections.services.registry import app_consents, tenants

BATCH = 50  # directories per run
LONGEST_NAME = 100


def pending_addresses(connection: Connection, addresses: Sequence[str]) -> list[str]:
    """Return the addresses to attach after the sign-in, without duplicates.

    Raises InvalidInput if the directory is known already, because its mailboxes can be chosen directly.
    """
    if addresses and not connection.tenant.is_shared_endpoint:
        raise InvalidInput("Choose shared mailboxes of the connection's tenant.", field="shared_mailboxes")
    unique = {address.lower(): address for address in map(mail_addresses.parse, addresses)}
    return list(unique.values())


def mailbox_options(tenant: Tenant, addresses: Sequence[str], *, actor: User) -> dict[str, Any]:
    """Return the arguments for creating a connection in ``tenant`` with these mailboxes.

    If the directory is known, mailboxes that are not in the portal yet are registered now.
    """
    if tenant.is_shared_endpoint:
        return {"pending_mailboxes": addresses} if addresses else {}
    return {"shared_mailboxes": mailboxes.find_or_register(tenant, addresses, actor=actor)}


def signed_in(connection: Connection, account: Account, *, actor: User, now: datetime) -> None:
    """Bind the connection to the account's directory. Call it in the transaction that stores the sign-in.

    ``connection`` must be locked. If the directory is not registered and mailboxes wait for it, IT admins are asked.
    """
    if not connection.tenant.is_shared_endpoint:
        app_consents.accept(connection.app_registration, connection.tenant, now=now)
        return
    if account.tid == CONSUMERS_TID:
        return  # personal accounts have neither a directory of their own nor shared mailboxes
    tenant = _find(connection.tenant.environment, account.tid) or _register_if_allowed(connection, account)
    if tenant is None:
        if connection.pending_mailboxes:
            incidents.tenant_unknown(connection, account.tid, username=account.username, now=now)
    elif _is_allowed(connection, tenant):
        _bind(connection, tenant, actor=actor, now=now)


def _find(environment: str, tid: str) -> Tenant | None:
    return Tenant.objects.filter(environment=environment, tid=tid).first() if tid else None


def _register_if_allowed(connection: Connection, account: Account) -> Tenant | None:
    if not evaluate.load_policies().organisation.register_tenants:
        return None
    return _register(connection.tenant.environment, account.tid, username=account.username, actor=None)


def _register(environment: str, tid: str, *, username: str, actor: User | None) -> Tenant | None:
    """Register the directory, named after the account's domain.

    Returns None if another tenant has the name or the ID.
    """
    domain = username.rpartition("@")[2][:LONGEST_NAME] or tid
    for name in dict.fromkeys((domain, f"{domain} ({tid[:8]})", tid)):
        try:
            return tenants.add(name, environment=environment, directory_id=tid, tid=tid, actor=actor)
        except AlreadyExists:
            # Someone else may have registered it at the same moment.
            if existing := _find(environment, tid):
                return existing
    return None


def _is_allowed(connection: Connection, tenant: Tenant) -> bool:
    """Whether the policy allows connections in this tenant. If not, the connection stays at the shared endpoint."""
    policies = evaluate.load_policies().of(connection.app_registration)
    return not evaluate.is_tenant_forbidden(policies, tenant)


def _bind(connection: Connection, tenant: Tenant, *, actor: User, now: datetime) -> None:
    consent = app_consents.accept(connection.app_registration, tenant, now=now)
    changes = {"tenant": [str(connection.tenant), str(tenant)]}
    audit.record(AuditAction.CONNECTION_TENANT_BOUND, connection, actor=None, changes=changes)
    connection.tenant, connection.app_consent = tenant, consent
    Connection.objects.filter(pk=connection.pk).update(tenant=tenant, app_consent=consent)
    not_attached = [
        address for address in connection.pending_mailboxes if not _attach(connection, address, actor=actor)
    ]
    if not_attached != connection.pending_mailboxes:
        Connection.objects.filter(pk=connection.pk).update(pending_mailboxes=not_attached)
        connection.pending_mailboxes = not_attached
    incidents.tenant_known(connection, now=now)


def _attach(connection: Connection, address: str, *, actor: User) -> bool:
    """Attach the mailbox, and return whether that succeeded.

    A sign-in must not fail because of a mailbox, so after a refusal the address simply keeps waiting.
    """
    for _ in range(2):  # someone else may register the same address at this moment
        try:
            with transaction.atomic():
                mailboxes.attach_address(connection, address=address, actor=actor)
            return True
        except AlreadyExists:
            continue
        except PortalError:
            return False
    return False


def register_asked(incident: Incident, *, actor: User, now: datetime) -> Tenant:
    """Register the directory that an incident asks for, and bind the connections that wait for it.

    Safe to repeat. Raises NotAllowed, or InvalidInput if the directory cannot be registered.
    """
    roles.require(permissions.can_manage_registry(actor), action="Ask an IT admin.")
    environment, tid = directory_of(incident)
    tenant = _find(environment, tid)
    if tenant is None:
        waiting = _waiting(incident, tid).first()
        username = waiting.account_username if waiting is not None else ""
        tenant = _register(environment, tid, username=username, actor=actor)
    if tenant is None:
        raise InvalidInput("The directory can't be registered automatically.", action="Add the tenant manually.")
    _bind_waiting(incident, tenant, now=now)
    return tenant


def directory_of(incident: Incident) -> tuple[str, str]:
    """Return the environment and directory ID that an incident of the kind TENANT is about."""
    _, environment, tid = incident.key.split(":", 2)
    return environment, tid


def bind_waiting(*, now: datetime) -> int:
    """Bind connections whose directory has been registered in the meantime. Returns how many were bound."""
    waiting = Incident.objects.filter(kind=Incident.Kind.TENANT, closed_at=None).order_by("seen_at", "pk")
    count = 0
    for incident in waiting[:BATCH]:
        tenant = _find(*directory_of(incident))
        if tenant is not None:
            count += _bind_waiting(incident, tenant, now=now)
        Incident.objects.filter(pk=incident.pk).update(seen_at=now)  # so that the next run starts with other incidents
    return count


def _waiting(incident: Incident, tid: str) -> QuerySet[Connection]:
    affected = incident.affected.filter(healed_at=None).values("connection")
    return Connection.objects.filter(pk__in=affected, account_tid=tid).order_by("pk")


def _bind_waiting(incident: Incident, tenant: Tenant, *, now: datetime) -> int:
    count = 0
    for pk in list(_waiting(incident, tenant.tid).values_list("pk", flat=True)):
        with transaction.atomic():
            connection = Connection.objects.locked().filter(pk=pk, account_tid=tenant.tid).first()
            if connection is None or not connection.tenant.is_shared_endpoint or not _is_allowed(connection, tenant):
                continue
            _bind(connection, tenant, actor=connection.owner, now=now)
            count += 1
    return count


def why_waiting(connection: Connection) -> str:
    """Say why shared mailboxes still wait for their directory. Returns "" if no mailbox waits."""
    if not connection.pending_mailboxes:
        return ""
    if not connection.account_tid:
        return "They are added after the sign-in, when the directory is known."
    if connection.account_tid == CONSUMERS_TID:
        return "Personal Microsoft accounts don't have shared mailboxes."
    tenant = _find(connection.tenant.environment, connection.account_tid)
    if tenant is None:
        return "An IT admin needs to add the account's directory as a tenant. We've asked them."
    if connection.tenant.is_shared_endpoint and not _is_allowed(connection, tenant):
        return f"The policy doesn't allow connections in the tenant {tenant}."
    return "They couldn't be added. Add them again, or ask an IT admin."
