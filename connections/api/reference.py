"""The API's reference for people: its OpenAPI document as one page of the portal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from ninja import NinjaAPI


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a field of an answer."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One status an operation can answer with."""

    status: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing the API does."""

    anchor: str
    method: str
    path: str
    title: str
    text: str
    parameters: list[Field]
    answers: list[Answer]


def page_of(api: NinjaAPI) -> Callable[[HttpRequest], HttpResponse]:
    """The view that shows everything of the API's document, without JavaScript and without the internet."""

    @require_safe
    def page(request: HttpRequest) -> HttpResponse:
        document = api.get_openapi_schema()
        schemas = document["components"]["schemas"]
        context = {
            "operations": [
                _operation(method, path, told)
                for path, methods in document["paths"].items()
                for method, told in methods.items()
            ],
            "schemas": [
                (name, schema.get("description", ""), _fields(schema)) for name, schema in sorted(schemas.items())
            ],
            "portal_url": settings.PORTAL_URL,
        }
        return render(request, "api/reference.html", context)

    return page


def _operation(method: str, path: str, told: dict[str, Any]) -> Operation:
    parameters = [
        Field(f"{one['name']} ({one['in']})", _kind(one["schema"]), one.get("description", ""))
        for one in told.get("parameters", [])
    ]
    return Operation(
        told["operationId"],
        method.upper(),
        path,
        told["summary"],
        told.get("description", ""),
        parameters,
        [_answer(status, one) for status, one in told["responses"].items()],
    )


def _answer(status: str, told: dict[str, Any]) -> Answer:
    content: dict[str, Any] = next(iter(told.get("content", {}).values()), {})
    return Answer(str(status), _kind(content.get("schema", {})), told.get("description", ""))


def _fields(schema: dict[str, Any]) -> list[Field]:
    return [Field(name, _kind(one), one.get("description", "")) for name, one in schema.get("properties", {}).items()]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    default = [f"usually {schema['default']}"] if schema.get("default") not in (None, "") else []
    return ", ".join([str(schema.get("format") or schema.get("type") or ""), *limits, *default])
