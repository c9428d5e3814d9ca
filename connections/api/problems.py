"""Errors as RFC 9457 problem details, with a stable code, who can resolve them, and what to do."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from pydantic import Field

from connections.access import roles
from connections.errors import InvalidApiKey, InvalidInput, NotAllowed, PortalError
from connections.models import Connection

MOST_ERRORS = 20  # in one response
# Code and title by status, for errors that Django or django-ninja return themselves.
_BY_STATUS = {
    400: ("bad_request", "The call cannot be understood."),
    403: ("not_allowed", "This is not allowed."),
    404: ("not_found", "There is no such thing, or it is not yours to see."),
    405: ("method_not_allowed", "This address does not answer to that method."),
    413: ("too_large", "The body is too large."),
    500: ("internal_error", "The portal made a mistake."),
}


class FieldError(Schema):
    field: str = Field(description="Its name; parts of it are separated by dots. Empty: the request as a whole.")
    message: str


class Problem(Schema):
    """What went wrong (RFC 9457)."""

    type: str = Field("about:blank", description="Always about:blank; `code` tells kinds of problems apart.")
    title: str = Field(description="What kind of problem it is, in words.")
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field("", description="What happened this time, in words.")
    action: str = Field("", description="What to do about it.")
    who: str = Field("", description="Who can mend it: owner, it_admin, microsoft or nobody.")
    incident: int | None = Field(None, description="Number of the open incident that explains it, if it is visible.")
    link: str = Field("", description="The page in the portal that mends it.")
    errors: list[FieldError] = Field([], description="The fields that cannot be used, if it is about fields.")


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
    # A value that a service rejects gets the same status as a value that the schema rejects.
    status = 422 if isinstance(error, InvalidInput) and error.status == 400 else error.status
    response = problem(status, error.code, type(error).cause, error.cause, **fields)
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response


def responses(*statuses: int) -> dict[frozenset[int], type[Problem]]:
    """Declare a route's problems, except for those that all routes of its kind can return (see openapi.py)."""
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
    return problem_of(error)


def _validation_error(request: HttpRequest, error: Any) -> HttpResponse:
    errors = [
        FieldError(field=_field_name(item["loc"]), message=str(item["msg"]).removeprefix("Value error, ")[:500])
        for item in error.errors[:MOST_ERRORS]
    ]
    detail = "; ".join(f"{item.field}: {item.message}" if item.field else item.message for item in errors)
    return problem(422, "invalid_input", "A parameter cannot be used.", detail[:500], errors=errors)


def _field_name(location: tuple[Any, ...]) -> str:
    """Return the field's name as the client knows it, without its source or the view's parameter name for the body."""
    source, *parts = location
    return ".".join(map(str, parts[1:] if source == "body" else parts))[:200]


def _http_error(request: HttpRequest, error: Any) -> HttpResponse:
    code, title = _BY_STATUS.get(error.status_code, ("refused", "The call was refused."))
    return problem(error.status_code, code, title, str(error))


def is_problem(response: HttpResponseBase) -> bool:
    return response.get("Content-Type", "").startswith("application/problem+json")


def problem_for_status(response: HttpResponseBase, *, request_id: str) -> HttpResponse:
    """Turn an error response into a problem that reveals nothing about the portal's internals."""
    status = response.status_code
    code, title = _BY_STATUS.get(status, ("refused", "The call was refused."))
    action = f"Tell an IT admin this number, which is in the log: {request_id}" if status >= 500 else ""
    replacement = problem(status, code, title, action=action)
    for name in ("Allow", "Retry-After"):
        if response.has_header(name):
            replacement[name] = response[name]
    return replacement
