from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections.access import permissions, querysets, roles
from connections.errors import InvalidInput
from connections.fresh_sign_in import fresh_sign_in_required
from connections.services.audit import export as audit_export
from connections.services.audit.export import Format
from connections.views.audit import filter_form

_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.JSONL: "application/x-ndjson"}


@require_POST
@fresh_sign_in_required()
def export(request: HttpRequest) -> StreamingHttpResponse:
    """Stream all events and token requests that match the filter. POST is required, because the export is recorded."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_export_audit(user), cause="Only auditors can export.", action="Ask an auditor.")
    form = filter_form(request.POST)
    file_format = request.POST.get("format", Format.JSONL)
    if file_format not in Format.values or not form.is_valid():
        raise InvalidInput(
            "The filter is invalid, so nothing was exported.", action="Go back, correct the filter, and export again."
        )
    text = audit_export.export(
        form.narrow(querysets.visible_events(user)),
        form.narrow_fetches(querysets.visible_fetches(user)),
        file_format=Format(file_format),
        filters={name: str(value) for name, value in form.conditions().items()},
        actor=user,
    )
    name = f"audit-{timezone.now():%Y-%m-%d-%H%M%S}.{file_format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store, private"}
    return StreamingHttpResponse(text, content_type=_TYPES[Format(file_format)], headers=headers)
