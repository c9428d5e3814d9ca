"""Query parameters that a route does not know are refused: a misspelt filter would otherwise find everything."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.http import HttpRequest
from ninja import Router
from ninja.operation import Operation

from connections.errors import UnknownParameter

MOST_NAMED = 5


def reject_unknown_params(router: Router) -> None:
    """Let every operation of ``router`` refuse query parameters that it does not know. Keys and rights come first."""
    for path_view in router.path_operations.values():
        for operation in path_view.operations:
            _refuse_unknown(operation)


def _refuse_unknown(operation: Operation) -> None:
    view = operation.view_func
    known = sorted(
        name
        for model in operation.models
        if model.__ninja_param_source__ == "query"
        for name in model.__ninja_flatten_map__
    )

    @wraps(view)
    def strict(request: HttpRequest, **values: Any) -> Any:
        unknown = sorted(set(request.GET) - set(known))
        if unknown:
            raise UnknownParameter(_sentence(unknown), action=_advice(known), field=unknown[0][:200])
        return view(request, **values)

    operation.view_func = strict


def _sentence(unknown: list[str]) -> str:
    named = ", ".join(name[:60] for name in unknown[:MOST_NAMED])
    return f"There is no query parameter of this name here: {named}."


def _advice(known: list[str]) -> str:
    return f"The parameters are: {', '.join(known)}." if known else "Leave it out; this address takes none."
