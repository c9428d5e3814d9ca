"""The API reference: the OpenAPI document as a page that needs neither JavaScript nor access to the internet."""

import json
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString


def render_reference(document: dict[str, Any]) -> SafeString:
    """Return the HTML of the page's main part, which is the same for all readers."""
    schemas = sorted(document["components"]["schemas"].items())
    context = {
        "groups": _groups(document),
        "schemas": [(name, schema.get("description", ""), _fields(schema)) for name, schema in schemas],
        "portal_url": settings.PORTAL_URL,
    }
    return render_to_string("api/reference_content.html", context)


def _groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Group the operations by tag, in the order of the document's tags."""
    groups: dict[str, dict[str, Any]] = {}
    for tag in document["tags"]:
        name, text = tag["name"], tag["description"]
        groups[name] = {"anchor": name.lower().replace(" ", "-"), "name": name, "text": text, "operations": []}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]]["operations"].append(_operation(document, method, path, operation))
    return [group for group in groups.values() if group["operations"]]


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = []
    for status, response in operation["responses"].items():
        content: dict[str, Any] = next(iter(response.get("content", {}).values()), {})
        kind, text = _kind(content.get("schema", {})), response.get("description", "")
        answers.append({"status": str(status), "name": kind, "text": text})
    return {
        "anchor": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "title": operation["summary"],
        "text": operation.get("description", ""),
        "parameters": [_parameter(_resolve(document, part)) for part in operation.get("parameters", [])],
        "fields": _fields(_resolve(document, body.get("schema", {}))),
        "curl": _curl(method, path, body.get("example")),
        "answers": [answer for answer in answers if answer["status"].startswith("2")],
        "problems": [answer for answer in answers if not answer["status"].startswith("2")],
    }


def _resolve(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    for name in part["$ref"].removeprefix("#/").split("/"):
        document = document[name]
    return document


def _curl(method: str, path: str, example: Any) -> str:
    lines = ['curl -H "Authorization: Bearer $KEY"', f'"{settings.PORTAL_URL}{path}"']
    if method != "get":
        lines.insert(1, f"-X {method.upper()}")
    if example is not None:
        lines.append(f"--json '{json.dumps(example)}'")
    return " \\\n  ".join(lines)


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{parameter['name']} ({parameter['in']})",
        "kind": _kind(parameter["schema"]),
        "text": parameter.get("description", ""),
        "required": parameter.get("required", False),
    }


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    fields = []
    for name, field in schema.get("properties", {}).items():
        texts = (option.get("description", "") for option in [field, *field.get("anyOf", [])])
        text, is_required = next(filter(None, texts), ""), name in schema.get("required", [])
        fields.append({"name": name, "kind": _kind(field), "text": text, "required": is_required})
    return fields


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    bounds = {"minimum": "at least", "maximum": "at most"}
    limits = [f"{word} {schema[key]}" for key, word in bounds.items() if key in schema]
    default = [f"usually {schema['default']}"] if schema.get("default") not in (None, "") else []
    words = [str(schema.get("format") or schema.get("type") or ""), *limits, *default]
    return ", ".join(word for word in words if word)
