"""Rejects unknown query parameters, because a misspelt filter would otherwise be ignored and match everything."""

from functools import wraps
from typing import Any

from django.http import HttpRequest
from ninja import Router
from ninja.operation import Operation

from connections.errors import UnknownParameter

MOST_NAMED = 5


def reject_unknown_params(router: Router) -> None:
    """Make every operation of ``router`` reject unknown query parameters, after authentication."""
    for path_view in router.path_operations.values():
        for operation in path_view.operations:
            _reject_unknown_params_of(operation)


def _reject_unknown_params_of(operation: Operation) -> None:
    view = operation.view_func
    known = sorted(
        name
        for model in operation.models
        if model.__ninja_param_source__ == "query"
        for name in model.__ninja_flatten_map__
    )
    action = f"Available parameters: {', '.join(known)}." if known else "Remove it. This URL has no parameters."

    @wraps(view)
    def wrapper(request: HttpRequest, **values: Any) -> Any:
        unknown = sorted(set(request.GET) - set(known))
        if unknown:
            names = ", ".join(name[:60] for name in unknown[:MOST_NAMED])
            cause = f"Unknown query parameter: {names}."
            raise UnknownParameter(cause, action=action, field=unknown[0][:200])
        return view(request, **values)

    operation.view_func = wrapper
