"""The API's reference for people: its OpenAPI document as one page of the portal."""

from __future__ import annotations

import json
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
    """A parameter, or a field of a body."""

    name: str
    kind: str
    text: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One status an operation can answer with."""

    status: str
    name: str  # of what is in it, with a table of its own further down; "" for nothing
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
    body: str  # name of what is sent
    fields: list[Field]  # of what is sent
    curl: str
    answers: list[Answer]
    problems: list[Answer]


@dataclass(frozen=True, slots=True)
class Group:
    """Operations about one noun."""

    anchor: str
    name: str
    text: str
    operations: list[Operation]


def render_page(api: NinjaAPI) -> Callable[[HttpRequest], HttpResponse]:
    """The view that shows everything of the API's document, without JavaScript and without the internet."""

    @require_safe
    def page(request: HttpRequest) -> HttpResponse:
        document = api.get_openapi_schema()
        schemas = document["components"]["schemas"]
        context = {
            "groups": _groups(document),
            "schemas": [
                (name, schema.get("description", ""), _fields(schema)) for name, schema in sorted(schemas.items())
            ],
            "portal_url": settings.PORTAL_URL,
        }
        return render(request, "api/reference.html", context)

    return page


def _groups(document: dict[str, Any]) -> list[Group]:
    """The operations under their tags, in the order of the document's list of tags."""
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            found[told["tags"][0]].append(_operation(document, method, path, told))
    return [
        Group(tag["name"].lower().replace(" ", "-"), tag["name"], tag["description"], found[tag["name"]])
        for tag in document["tags"]
        if found[tag["name"]]
    ]


def _operation(document: dict[str, Any], method: str, path: str, told: dict[str, Any]) -> Operation:
    body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = [_answer(status, one) for status, one in told["responses"].items()]
    return Operation(
        told["operationId"],
        method.upper(),
        path,
        told["summary"],
        told.get("description", ""),
        [_parameter(_resolved(document, one)) for one in told.get("parameters", [])],
        _kind(body.get("schema", {})),
        _fields(_resolved(document, body.get("schema", {}))),
        _curl(method, path, body.get("example")),
        [answer for answer in answers if answer.status.startswith("2")],
        [answer for answer in answers if not answer.status.startswith("2")],
    )


def _resolved(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What a reference points to; anything else as it is."""
    if "$ref" not in found:
        return found
    for part in found["$ref"].removeprefix("#/").split("/"):
        document = document[part]
    return document


def _parameter(told: dict[str, Any]) -> Field:
    name = f"{told['name']} ({told['in']})"
    return Field(name, _kind(told["schema"]), told.get("description", ""), told.get("required", False))


def _curl(method: str, path: str, example: Any) -> str:
    """The call as a command line."""
    lines = ['curl -H "Authorization: Bearer $KEY"', f'"{settings.PORTAL_URL}{path}"']
    if method != "get":
        lines.insert(1, f"-X {method.upper()}")
    if example is not None:
        lines.append(f"--json '{json.dumps(example)}'")
    return " \\\n  ".join(lines)


def _answer(status: str, told: dict[str, Any]) -> Answer:
    content: dict[str, Any] = next(iter(told.get("content", {}).values()), {})
    return Answer(str(status), _kind(content.get("schema", {})), told.get("description", ""))


def _fields(schema: dict[str, Any]) -> list[Field]:
    required = schema.get("required", [])
    return [
        Field(name, _kind(one), _description(one), name in required)
        for name, one in schema.get("properties", {}).items()
    ]


def _description(schema: dict[str, Any]) -> str:
    inner = [one.get("description", "") for one in schema.get("anyOf", [])]
    return str(schema.get("description") or next(filter(None, inner), ""))


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    default = [f"usually {schema['default']}"] if schema.get("default") not in (None, "") else []
    words = [str(schema.get("format") or schema.get("type") or ""), *limits, *default]
    return ", ".join(word for word in words if word)
