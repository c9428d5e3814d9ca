"""The ``response=`` of a route by its kind. ``statuses`` are those of further problems it can answer with."""

from __future__ import annotations

from typing import Any

from ninja import Schema

from connections.api import problems
from connections.api.pagination import page_schema

Responses = dict[Any, Any]


def ok(schema: Any, *statuses: int) -> Responses:
    """For GET and PUT."""
    return {200: schema} | problems.responses(*statuses)


def page(item: type[Schema], *statuses: int) -> Responses:
    """For a GET of a list."""
    return ok(page_schema(item), *statuses)


def created(schema: Any, *statuses: int) -> Responses:
    """For a POST that creates something."""
    return {201: schema} | problems.responses(409, 413, *statuses)


def done(schema: Any, *statuses: int) -> Responses:
    """For a POST that acts on something."""
    return ok(schema, 409, 413, *statuses)


def changed(schema: Any, *statuses: int) -> Responses:
    """For PATCH."""
    return ok(schema, 404, 409, 412, 413, *statuses)


def removed(*statuses: int) -> Responses:
    """For DELETE."""
    return {204: None} | problems.responses(404, *statuses)
