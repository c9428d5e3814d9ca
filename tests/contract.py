"""What others rely on and no change may break by accident: URLs, API, codes, audit actions, metrics, settings,
commands.

After an intended change, rewrite it with ``python -m tests.with_temp_settings .venv/bin/python -m tests.contract >
tests/contract.json``; the diff then shows what to announce.
"""

import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

from portal.settings_model import PortalSettings
from tests.environment import ROOT

SNAPSHOT = Path(__file__).with_name("contract.json")
# JSON Schema keys that affect clients; the others (titles, descriptions, examples) may change.
_SCHEMA_KEYS = ("type", "format", "enum", "const", "default", "minimum", "maximum", "minLength", "maxLength", "pattern",
                "minItems", "maxItems", "additionalProperties", "nullable")  # fmt: skip


def urls(patterns: list[Any], prefix: str = "") -> Iterator[str]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from urls(pattern.url_patterns, route)
        elif not route.startswith("admin/"):
            yield route


def shape(schema: Any, document: dict[str, Any], seen: tuple[str, ...] = ()) -> Any:
    """Return a schema with resolved references, so that class names do not matter."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if name == "Problem" and seen != ("",):
            return {"again": "Problem"}  # those of every route, listed once
        return (
            {"again": True} if name in seen else shape(document["components"]["schemas"][name], document, (*seen, name))
        )
    kept: dict[str, Any] = {key: schema[key] for key in _SCHEMA_KEYS if key in schema}
    if "properties" in schema:
        kept["properties"] = {name: shape(part, document, seen) for name, part in sorted(schema["properties"].items())}
        kept["required"] = sorted(schema.get("required", []))
    if "items" in schema:
        kept["items"] = shape(schema["items"], document, seen)
    for key in ("anyOf", "allOf", "oneOf"):
        parts = [shape(part, document, seen) for part in schema.get(key, [])]
        if len(parts) == 1:
            kept.update(parts[0])
        elif parts:
            kept[key] = parts
    return kept


def operations(document: dict[str, Any]) -> dict[str, Any]:
    described = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("parameters", "summary", "description"):
                continue
            described[f"{method.upper()} {path}"] = {
                "id": operation.get("operationId"),
                "parameters": sorted(
                    [
                        item["in"],
                        item["name"],
                        bool(item.get("required")),
                        json.dumps(shape(item.get("schema"), document)),
                    ]
                    for item in (resolved(item, document) for item in operation.get("parameters", []))
                ),
                "body": content(operation.get("requestBody", {}), document),
                "answers": {
                    status: content(resolved(answer, document), document)
                    for status, answer in operation["responses"].items()
                },
            }
    return dict(sorted(described.items()))


def resolved(part: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return the operation's own parameter or response, or the shared one it points to."""
    while "$ref" in part:
        _, _, kind, name = part["$ref"].split("/")
        part = document["components"][kind][name]
    return part


def content(part: dict[str, Any], document: dict[str, Any]) -> Any:
    return {kind: shape(body.get("schema"), document) for kind, body in part.get("content", {}).items()}


def codes() -> dict[str, list[int]]:
    """Return every problem code with its HTTP statuses."""
    from connections import errors

    # Every module may define its own errors.
    for package in (importlib.import_module(f"connections.{name}") for name in ("services", "outbound", "api")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    importlib.import_module("connections.pipeline")
    statuses_by_code: dict[str, set[int]] = {}
    waiting = [errors.PortalError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if error.__module__.startswith("connections."):
            statuses_by_code.setdefault(error.code, set()).add(error.status)
    return {code: sorted(statuses) for code, statuses in sorted(statuses_by_code.items())}


def metrics() -> list[str]:
    """Return the names of metrics, read from the source because their values need a database."""
    directory = ROOT / "connections/services/operations"
    source = "".join((directory / name).read_text() for name in ("health.py", "metrics.py"))
    return sorted(set(re.findall(r'"(portal_[a-z_]+)"', source)))


def settings() -> list[str]:
    """Return every environment variable that the portal reads."""
    return sorted(PortalSettings.model_fields)


def commands() -> list[str]:
    return sorted(path.stem for path in (ROOT / "connections/management/commands").glob("[a-z]*.py"))


def audit_actions() -> list[str]:
    from connections.models.audit import AuditAction

    return sorted(str(action) for action in AuditAction)


def collect() -> dict[str, Any]:
    """Return the whole contract as plain JSON values."""
    from connections.api.urls import api

    root = importlib.import_module("portal.urls")
    document = json.loads(json.dumps(api.get_openapi_schema(path_prefix="/api/v1/")))
    return {
        "addresses": sorted(urls(root.urlpatterns)),
        "problem": shape({"$ref": "#/components/schemas/Problem"}, document, ("",)),
        "operations": operations(document),
        "codes": codes(),
        "audit_actions": audit_actions(),
        "metrics": metrics(),
        "settings": settings(),
        "commands": commands(),
    }


if __name__ == "__main__":
    django.setup()
    json.dump(collect(), sys.stdout, indent=0, sort_keys=True)
    sys.stdout.write("\n")
