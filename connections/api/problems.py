"""Errors as RFC 9457 problem details, with a stable code, who can resolve them, and what to do."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from pydantic import Field

from connections.access import roles
from connections.api.hrefs import page_link
from connections.errors import (
    DatabaseUnavailable,
    InvalidApiKey,
    InvalidInput,
    NotAllowed,
    PortalError,
    UnreadableSecret,
)
from connections.models import ApiKey, Connection
from connections.services.operations import running_keys
from connections.services.policy import four_eyes
from connections.services.policy.four_eyes import SecondPersonNeeded

MOST_ERRORS = 20  # errors listed in one response
# Code and title by status, for errors that come from Django or django-ninja.
_BY_STATUS = {
    400: ("bad_request", "The request isn't valid."),
    403: ("not_allowed", "Access denied."),
    404: ("not_found", "Not found, or you don't have access."),
    405: ("method_not_allowed", "This URL doesn't support this method."),
    413: ("too_large", "The body is too large."),
    500: ("internal_error", "Something went wrong."),
    503: (DatabaseUnavailable.code, DatabaseUnavailable.cause),
}


class FieldError(Schema):
    field: str = Field(description="The field's name, with dots between its parts. Empty: the whole request.")
    message: str


class Problem(Schema):
    """What went wrong (RFC 9457)."""

    type: str = Field("about:blank", description="Always about:blank. Use `code` to distinguish problems.")
    title: str = Field(description="A short title.")
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field("", description="What happened, in words.")
    action: str = Field("", description="What to do about it.")
    who: str = Field("", description="Who can fix it: owner, it_admin, microsoft or nobody.")
    incident: int | None = Field(None, description="Number of the open incident that explains it, if it is visible.")
    link: str = Field("", description="The portal page where you can fix it.")
    change_request: int | None = Field(None, description="Number of the change request, if a second person must agree.")
    errors: list[FieldError] = Field([], description="The invalid fields, if the problem concerns fields.")


def problem(status: int, code: str, title: str, detail: str = "", **more: Any) -> HttpResponse:
    """Return a problem as a response; ``more`` are additional fields of Problem."""
    body = Problem(title=title, status=status, code=code, detail=detail, **more).model_dump()
    response = JsonResponse(body, status=status, content_type="application/problem+json")
    response["Cache-Control"] = "no-store, private"
    response["Content-Length"] = str(len(response.content))
    if status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="portal"'
    return response


def problem_of(error: PortalError, **more: Any) -> HttpResponse:
    fields = {"action": error.action, "who": error.who} | more
    if error.field:
        fields["errors"] = [FieldError(field=error.field, message=str(error))]
    # A value rejected by a service gets the same status as one rejected by the schema.
    status = 422 if isinstance(error, InvalidInput) and error.status == 400 else error.status
    response = problem(status, error.code, type(error).cause, error.cause, **fields)
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response


def responses(*statuses: int) -> dict[frozenset[int], type[Problem]]:
    """Declare the problems that a route can return. Those of all routes of its kind are declared in openapi.py."""
    return {frozenset(statuses): Problem}


def register_handlers(api: NinjaAPI) -> None:
    api.add_exception_handler(PortalError, _portal_error)
    api.add_exception_handler(AuthenticationError, lambda request, error: problem_of(InvalidApiKey()))
    for missing in (Http404, Connection.DoesNotExist):  # DoesNotExist: the connection was removed during the request
        api.add_exception_handler(missing, lambda request, error: problem(404, *_BY_STATUS[404]))
    api.add_exception_handler(ValidationError, _validation_error)
    api.add_exception_handler(HttpError, _http_error)


def _portal_error(request: HttpRequest, error: Any) -> HttpResponse:
    if isinstance(error, NotAllowed):
        roles.note_denied(error)
    if isinstance(error, UnreadableSecret):
        error = running_keys.explain(error)
    if isinstance(error, SecondPersonNeeded):
        return _ask(request, error)
    return problem_of(error)


def _ask(request: HttpRequest, error: SecondPersonNeeded) -> HttpResponse:
    """Request approval for the change that the key's owner tried to make. The response links to the request."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    try:
        change = four_eyes.ask(error.change, actor=key.owner, now=timezone.now())
    except PortalError as refused:
        return problem_of(refused)
    action = "Approval is requested. After it is granted, repeat this call or carry out the change request."
    return problem_of(error, action=action, change_request=change.pk, link=page_link("change_request", change.pk))


def _validation_error(request: HttpRequest, error: Any) -> HttpResponse:
    errors = [
        FieldError(field=_field_name(item["loc"]), message=str(item["msg"]).removeprefix("Value error, ")[:500])
        for item in error.errors[:MOST_ERRORS]
    ]
    detail = "; ".join(f"{item.field}: {item.message}" if item.field else item.message for item in errors)
    return problem(422, "invalid_input", "A parameter isn't valid.", detail[:500], errors=errors)


def _field_name(location: tuple[Any, ...]) -> str:
    """Return the field's name as the client knows it: without its source or the name of the view's parameter for the
    body.
    """
    source, *parts = location
    return ".".join(map(str, parts[1:] if source == "body" else parts))[:200]


def _http_error(request: HttpRequest, error: Any) -> HttpResponse:
    code, title = _BY_STATUS.get(error.status_code, ("refused", "The request was rejected."))
    return problem(error.status_code, code, title, str(error))


def is_problem(response: HttpResponseBase) -> bool:
    return response.get("Content-Type", "").startswith("application/problem+json")


def problem_for_status(response: HttpResponseBase, *, request_id: str) -> HttpResponse:
    """Turn an error response into a problem that reveals no internals of the portal."""
    status = response.status_code
    code, title = _BY_STATUS.get(status, ("refused", "The request was rejected."))
    action = f"Contact an IT admin and give them this request ID: {request_id}" if status >= 500 else ""
    if code == DatabaseUnavailable.code:
        return problem_of(DatabaseUnavailable())
    replacement = problem(status, code, title, action=action)
    for name in ("Allow", "Retry-After"):
        if response.has_header(name):
            replacement[name] = response[name]
    return replacement
