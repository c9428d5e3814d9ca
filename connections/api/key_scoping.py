"""What a key may see: all that its owner sees or, if the key is limited, what concerns the chosen connections."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from pydantic import AfterValidator, ValidationInfo

from connections.access import permissions, querysets, roles
from connections.api import authentication
from connections.errors import NotAllowed
from connections.models import (
    AffectedConnection,
    ApiKey,
    AppRegistration,
    Approval,
    AuditEvent,
    Connection,
    Incident,
    SharedMailbox,
)

Scope = ApiKey.Scope
M = TypeVar("M", bound=Model)


def any_scope(request: HttpRequest, *scopes: str) -> ApiKey:
    """Return the calling key. Raises NotAllowed unless it has one of the scopes and that scope is not suspended."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    held = [scope for scope in scopes if scope in key.scopes]
    awake = set(held) - permissions.sleeping_scopes(key.owner)
    return key if awake else authentication.require_scope(request, (held or list(scopes))[0])


def unlimited(request: HttpRequest, *scopes: str) -> ApiKey:
    """Like any_scope, but also raises NotAllowed for limited keys. For routes that are not about single connections."""
    key = any_scope(request, *scopes)
    if key.only_chosen:
        raise NotAllowed(
            "This API key is limited to selected connections, so it can't do this.",
            action="Use a key without this limit.",
        )
    return key


def key_and_object(
    request: HttpRequest, visible: Callable[..., QuerySet[M]], pk: int, *scopes: str
) -> tuple[ApiKey, M]:
    """Return the key (see ``unlimited``) and an object ``visible`` to its owner. Raises NotAllowed or Http404."""
    key = unlimited(request, *scopes)
    return key, get_object_or_404(visible(key.owner), pk=pk)


def managed_app(request: HttpRequest, pk: int) -> tuple[ApiKey, AppRegistration]:
    """Return the key and an app registration that it may change. Raises NotAllowed or Http404."""
    key, app = key_and_object(request, querysets.visible_app_registrations, pk, Scope.ADMIN_WRITE)
    manage_registry(key)
    return key, app


def reads_registry(key: ApiKey) -> bool:
    """Whether the key may read the details of tenants and app registrations. Other keys read only their names."""
    return permissions.can_read_registry(key.owner)


def _hide(value: Any, info: ValidationInfo) -> Any:
    request = (info.context or {})["request"]  # set by django-ninja
    return value if reads_registry(request.auth) else None


# For a response field that is null for keys that may not read details of tenants and app registrations.
RegistryOnly = AfterValidator(_hide)


def manage_registry(key: ApiKey) -> None:
    """Raise NotAllowed unless the key's owner may manage tenants and app registrations."""
    roles.require(permissions.can_manage_registry(key.owner), action="Ask an IT admin.")


def mailboxes(key: ApiKey) -> QuerySet[SharedMailbox]:
    """Return visible shared mailboxes; for a limited key, only those attached to one of its connections."""
    mailboxes = querysets.visible_mailboxes(key.owner)
    attached = _chosen(key).filter(mailbox_accesses__isnull=False).values("mailbox_accesses__mailbox")
    return mailboxes.filter(pk__in=attached) if key.only_chosen else mailboxes


def incidents(key: ApiKey) -> QuerySet[Incident]:
    """Return visible incidents; for a limited key, only outages and those that affect one of its connections."""
    incidents = querysets.visible_incidents(key.owner)
    reached = Q(pk__in=affected_connections(key).values("incident")) | Q(kind=Incident.Kind.OUTAGE)
    return incidents.filter(reached) if key.only_chosen else incidents


def affected_connections(key: ApiKey) -> QuerySet[AffectedConnection]:
    """Return visible connections affected by incidents; for a limited key, only its chosen ones."""
    affected = querysets.visible_affected(key.owner)
    return affected.filter(connection__in=_chosen(key).values("pk")) if key.only_chosen else affected


def approvals(key: ApiKey) -> QuerySet[Approval]:
    """Return visible requests for approval; for a limited key, only those about one of its connections."""
    approvals = querysets.visible_approvals(key.owner)
    return approvals.filter(connection__in=_chosen(key).values("pk")) if key.only_chosen else approvals


def events(key: ApiKey) -> QuerySet[AuditEvent]:
    """Return visible audit events; for a limited key, only those about its connections."""
    events = querysets.visible_events(key.owner)
    if not key.only_chosen:
        return events
    numbers = [str(pk) for pk in _chosen(key).values_list("pk", flat=True)]
    return events.filter(target_type="Connection", target_id__in=numbers)


def _chosen(key: ApiKey) -> QuerySet[Connection]:
    return authentication.visible_connections(key).order_by()
