from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import permissions, roles
from connections.api import authentication, http_methods, key_scoping
from connections.api.field_types import Day, Text, listed
from connections.api.hrefs import link_to
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.errors import InvalidInput
from connections.models import ApiKey, AuditEvent, AuditSeal
from connections.services.audit import event_filter, export, seal_format

router = Router(tags=["Audit"])
Outcome = Annotated[AuditEvent.Outcome, listed(AuditEvent.Outcome)]


class EventOut(Schema):
    id: int
    at: datetime
    action: str = Field(description="noun.verb", examples=["connection.shared"])
    outcome: Outcome
    actor: str = Field(validation_alias="actor_name", description="Name and user name, or Portal.")
    target_type: str
    target_id: str
    target_name: str
    changes: dict[str, Any] = Field(
        description="Changed fields as [before, after], or single values. Never contains secrets."
    )
    request_id: str
    address: str | None
    link: Annotated[str, link_to("audit_event")] = Field(validation_alias="pk")


class EventFilter(Schema):
    q: Text = Field("", max_length=100, description="Part of the name of the object or of the person.")
    who: Text = Field("", max_length=100, description="Part of the person's name.")
    action: Text = Field("", max_length=60, description="Exactly this action, for example connection.shared.")
    target_type: Text = Field(
        "", max_length=40, description="Only events on this type of object, for example Connection."
    )
    target_id: Text = Field("", max_length=40, description="Only events on the object with this ID.")
    outcome: Outcome | None = Field(None, description="Only events with this outcome.")
    date_from: Day | None = Field(None, description="The first day (UTC).")
    date_to: Day | None = Field(None, description="The last day (UTC).")


class EventQuery(EventFilter, PageQuery):
    not_columns = set(EventFilter.model_fields)  # applied by event_filter


class SealOut(Schema):
    """A seal over a range of the audit trail. It contains the hash of the previous seal."""

    number: int
    sealed_at: datetime
    covers_from: datetime
    covers_until: datetime
    events_count: int
    fetches_count: int
    hash: str
    previous_hash: str
    line: str = Field(description="The seal as published: one line of JSON, for verification elsewhere.")

    @staticmethod
    def resolve_line(seal: AuditSeal) -> str:
        return seal_format.published_line(seal)


@router.get("/audit-events", response=page_of(EventOut), summary="List audit events")
def list_audit_events(request: HttpRequest, query: Query[EventQuery]) -> Any:
    """Audit events, newest first. For IT admins and auditors."""
    return page(_matching_events(_reader(request), query), query, order=("-pk",))


@router.get(
    "/audit-events/export",
    response={200: None},
    summary="Export audit events",
    openapi_extra={"responses": {200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}},
)
def export_audit_events(request: HttpRequest, query: Query[EventFilter]) -> Any:
    """For auditors: all matching events as JSON Lines in their sealed form, oldest first.

    Each export is recorded in the audit trail. A key that is limited to certain connections exports only their events.
    """
    key = _reader(request)
    events = _matching_events(key, query)
    text: Iterator[str] = iter(())
    if http_methods.is_head_request(request):
        export.require_permission(key.owner)
    else:
        filters = {name: str(value) for name, value in query if value is not None and value != ""}
        text = export.export(events, None, file_format=export.Format.JSONL, filters=filters, actor=key.owner)
    name = f"audit-{timezone.now():%Y-%m-%d-%H%M%S}.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store, private"}
    return StreamingHttpResponse(text, content_type="application/x-ndjson", headers=headers)


@router.get("/audit-events/{int:event_id}", response=EventOut, summary="Get an audit event")
def read_audit_event(request: HttpRequest, event_id: int) -> Any:
    """One event: what changed, and where the request came from."""
    return get_object_or_404(key_scoping.events(_reader(request)), pk=event_id)


@router.get("/audit-seals", response=page_of(SealOut), summary="List seals")
def list_audit_seals(request: HttpRequest, query: Query[PageQuery]) -> Any:
    """Seals, newest first. Store copies elsewhere to detect later changes to the audit trail."""
    key = key_scoping.unlimited(request, Scope.AUDIT_READ)
    roles.require(permissions.can_read_audit(key.owner), action="Ask an auditor.")
    return page(AuditSeal.objects.all(), query, order=("-number",))


def _matching_events(key: ApiKey, query: EventFilter) -> QuerySet[AuditEvent]:
    if query.date_from and query.date_to and query.date_from > query.date_to:
        raise InvalidInput("The last day is before the first day.", field="date_to")
    return event_filter.filter_events(key_scoping.events(key), query.model_dump())


def _reader(request: HttpRequest) -> ApiKey:
    """Return the calling key. Raises NotAllowed unless its owner may read the audit trail."""
    key = authentication.require_scope(request, Scope.AUDIT_READ)
    roles.require(
        permissions.can_read_audit(key.owner),
        cause="Only IT admins and auditors can view the audit trail.",
        action="You can see your connections' history on their pages.",
    )
    return key
