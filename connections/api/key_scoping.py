"""What a key reaches: what its owner may see, and of that only what belongs to its chosen connections, if it has any."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections.access import permissions, querysets, roles
from connections.api import authentication
from connections.errors import NotAllowed
from connections.models import ApiKey, Approval, AuditEvent, Connection, Incident, SharedMailbox

Scope = ApiKey.Scope


def any_scope(request: HttpRequest, *scopes: str) -> ApiKey:
    """The calling key. Raises NotAllowed unless it has at least one of the scopes."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    for scope in scopes:
        if scope in key.scopes:
            return key
    return authentication.require_scope(request, scopes[0])


def unlimited(request: HttpRequest, *scopes: str) -> ApiKey:
    """The calling key for what concerns more than single connections. Raises NotAllowed for a key of chosen ones."""
    key = any_scope(request, *scopes)
    if key.only_chosen:
        raise NotAllowed(
            "This API key is limited to chosen connections, so it can do nothing that concerns others.",
            action="Use a key that is not limited.",
        )
    return key


def reads_registry(key: ApiKey) -> bool:
    """Whether the key may read details of tenants and app registrations, not only names."""
    return permissions.can_read_registry(key.owner)


def manage_registry(key: ApiKey) -> None:
    """Raise NotAllowed unless the key's owner manages tenants and app registrations."""
    roles.require(permissions.can_manage_registry(key.owner), action="Ask an IT admin.")


def mailboxes(key: ApiKey) -> QuerySet[SharedMailbox]:
    """Shared mailboxes; for a key of chosen connections those that are attached to one of them."""
    mailboxes = querysets.visible_mailboxes(key.owner)
    if not key.only_chosen:
        return mailboxes
    return mailboxes.filter(
        pk__in=_chosen(key).filter(mailbox_accesses__isnull=False).values("mailbox_accesses__mailbox")
    )


def incidents(key: ApiKey) -> QuerySet[Incident]:
    """Incidents; for a key of chosen connections those that hit one of them, and outages."""
    incidents = querysets.visible_incidents(key.owner)
    if not key.only_chosen:
        return incidents
    hit = querysets.visible_affected(key.owner).filter(connection__in=_chosen(key).values("pk")).values("incident")
    return incidents.filter(Q(pk__in=hit) | Q(kind=Incident.Kind.OUTAGE))


def approvals(key: ApiKey) -> QuerySet[Approval]:
    """Requests for approval; for a key of chosen connections those about one of them."""
    approvals = querysets.visible_approvals(key.owner)
    return approvals.filter(connection__in=_chosen(key).values("pk")) if key.only_chosen else approvals


def events(key: ApiKey) -> QuerySet[AuditEvent]:
    """The audit trail; for a key of chosen connections what happened to them."""
    events = querysets.visible_events(key.owner)
    if not key.only_chosen:
        return events
    numbers = [str(pk) for pk in _chosen(key).values_list("pk", flat=True)]
    return events.filter(target_type="Connection", target_id__in=numbers)


def _chosen(key: ApiKey) -> QuerySet[Connection]:
    return authentication.visible_connections(key).order_by()
