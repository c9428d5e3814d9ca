"""Errors as RFC 9457 problem details, with a stable code, who can mend it, and what to do."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from pydantic import Field

from connections.access import roles
from connections.errors import InvalidApiKey, InvalidInput, NotAllowed, PortalError
from connections.models import Connection

MOST_ERRORS = 20  # named in one answer
# A query parameter too many, a bad key, a right that is missing, too long an address, a value that cannot be used, too many requests.
EVERYWHERE = (400, 401, 403, 414, 422, 429)
CREATING = (409, 413)  # exists already, or the same Idempotency-Key is at work; too much of it
CHANGING = (404, 409, 412, 413)
REMOVING = (404, 409, 412)
MICROSOFT = (409, 503)  # it says no; it cannot be asked, or our own secrets cannot be opened


class FieldError(Schema):
    """What is wrong with one field of the request."""

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
    """A problem as a response; ``more`` are further fields of Problem."""
    body = Problem(title=title, status=status, code=code, detail=detail, **more).model_dump()
    answer = JsonResponse(body, status=status)
    answer["Content-Type"] = "application/problem+json"
    answer["Cache-Control"] = "no-store, private"
    answer["Content-Length"] = str(len(answer.content))
    if status == 401:
        answer["WWW-Authenticate"] = 'Bearer realm="portal"'
    return answer


def problem_of(error: PortalError, **more: Any) -> HttpResponse:
    """A PortalError as a problem."""
    told = {"action": error.action, "who": error.who} | more
    if error.field:
        told["errors"] = [FieldError(field=error.field, message=str(error))]
    # A page shows its form again with 422; what a service says about a value is the same kind of answer.
    status = 422 if isinstance(error, InvalidInput) and error.status == 400 else error.status
    answer = problem(status, error.code, type(error).cause, error.cause, **told)
    if error.retry_after is not None:
        answer["Retry-After"] = str(error.retry_after)
    return answer


def responses(*statuses: int) -> dict[frozenset[int], type[Problem]]:
    """The problems a route can answer with: ``statuses``, and those that every route knows."""
    return {frozenset({*EVERYWHERE, *statuses}): Problem}


def register_handlers(api: NinjaAPI) -> None:
    """Let every exception of the API end in a problem."""
    api.add_exception_handler(PortalError, _known)
    api.add_exception_handler(AuthenticationError, lambda request, error: problem_of(InvalidApiKey()))
    api.add_exception_handler(Http404, _gone)
    # Removed by somebody else while it was worked on.
    api.add_exception_handler(Connection.DoesNotExist, _gone)
    api.add_exception_handler(ValidationError, _invalid)
    api.add_exception_handler(HttpError, _refused)


def _gone(request: HttpRequest, error: Any) -> HttpResponse:
    return problem(404, *_OTHERS[404])


def _known(request: HttpRequest, error: Any) -> HttpResponse:
    if isinstance(error, NotAllowed):
        roles.note_denied(error)
    return problem_of(error)


def _invalid(request: HttpRequest, error: Any) -> HttpResponse:
    errors = [FieldError(field=_name(one["loc"]), message=_sentence(one)) for one in error.errors[:MOST_ERRORS]]
    found = "; ".join(f"{error.field}: {error.message}" if error.field else error.message for error in errors)
    return problem(422, "invalid_input", "A parameter cannot be used.", found[:500], errors=errors)


def _name(location: tuple[Any, ...]) -> str:
    """A field's name as the client knows it: without where it stood and what the view calls the body."""
    source, *parts = location
    return ".".join(map(str, parts[1:] if source == "body" else parts))[:200]


def _sentence(error: dict[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")[:500]


def _refused(request: HttpRequest, error: Any) -> HttpResponse:
    code, title = _OTHERS.get(error.status_code, ("refused", "The call was refused."))
    return problem(error.status_code, code, title, str(error))


# --- Answers that come from elsewhere -------------------------------------------------------------

# What Django or django-ninja answer without our doing, by status.
_OTHERS = {
    400: ("bad_request", "The call cannot be understood."),
    403: ("not_allowed", "This is not allowed."),
    404: ("not_found", "There is no such thing, or it is not yours to see."),
    405: ("method_not_allowed", "This address does not answer to that method."),
    413: ("too_large", "The body is too large."),
    500: ("internal_error", "The portal made a mistake."),
}


def is_problem(response: HttpResponseBase) -> bool:
    """Whether the response is a problem already."""
    return response.get("Content-Type", "").startswith("application/problem+json")


def problem_for_status(response: HttpResponseBase, *, request_id: str) -> HttpResponse:
    """The problem that says what an answer without one means. It tells nothing of the portal's insides."""
    status = response.status_code
    code, title = _OTHERS.get(status, ("refused", "The call was refused."))
    action = f"Tell an IT admin this number, which is in the log: {request_id}" if status >= 500 else ""
    made = problem(status, code, title, action=action)
    for name in ("Allow", "Retry-After"):
        if response.has_header(name):
            made[name] = response[name]
    return made
