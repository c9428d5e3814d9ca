"""The house has floors, and imports only point down. Read from the source with ast, so nothing can hide from it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environment import ROOT

# The floors from the ground up. A module may import its own floor and everything below it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("connections.errors",),
    ("connections.fields", "connections.models", "connections.outbound"),
    ("connections.access", "connections.audit", "connections.keyset", "connections.microsoft"),
    ("connections.services",),
    (
        "connections.views",
        "connections.api",
        "connections.tasks",
        "connections.pipeline",
        "connections.admin",
        "connections.forms",
        "connections.management",
        "connections.middleware",
        "connections.context",
        "connections.templatetags",
        "connections.checks",
        "connections.apps",
        "connections.urls",
    ),
)

# What one part may not touch, besides the floors above it: (part, forbidden module, the rule in words).
FORBIDDEN = (
    ("connections.microsoft", "connections.models", "microsoft knows no models"),
    ("connections.microsoft", "connections.fields", "microsoft knows no models"),
    ("connections.outbound", "connections.models", "outbound knows no models"),
    ("connections.outbound", "connections.fields", "outbound knows no models"),
    ("connections.services", "django.http", "services know no request"),
    ("connections.services", "django.forms", "services know no form"),
    ("connections.services", "django.shortcuts", "services know no HTML"),
    ("connections.services", "django.template", "services know no HTML"),
    ("connections.services", "celery", "services know no Celery"),
    ("connections.services", "portal.celery", "services know no Celery"),
    ("connections", "connections.tasks", "nobody imports tasks"),
    ("connections", "portal.sandbox", "the product does not know the sandbox"),
    ("portal.sandbox", "connections", "the sandbox shares no code with the product"),
    ("portal.sandbox", "portal.settings", "the sandbox shares no settings with the portal"),
)


def imports_of(name: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module the source imports, at run time or later; imports for type checking only do not count."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def floor_of(module: str) -> int | None:
    found = [number for number, parts in enumerate(FLOORS) if any(is_in(module, part) for part in parts)]
    return found[0] if found else None


def violations(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What this module imports although it must not, one sentence each."""
    found = []
    own = floor_of(name)
    for imported in dict.fromkeys(imports_of(name, source, is_package=is_package)):
        other = floor_of(imported)
        if own is not None and other is not None and other > own:
            found.append(f"{name} imports {imported}, which stands above it")
        found += [
            f"{name} imports {imported}: {rule}"
            for part, forbidden, rule in FORBIDDEN
            if is_in(name, part) and is_in(imported, forbidden) and name != forbidden
        ]
    return found


def modules() -> list[tuple[str, Path]]:
    paths = sorted([*ROOT.glob("connections/**/*.py"), *ROOT.glob("portal/**/*.py")])
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in paths
        if "migrations" not in path.parts
    ]


def test_every_module_of_the_product_stands_on_a_floor():
    homeless = [name for name, _ in modules() if is_in(name, "connections") and floor_of(name) is None]
    assert homeless == ["connections"], "give the new module a floor in FLOORS"


def test_imports_only_point_down():
    checked = modules()
    assert len(checked) > 50
    found = [
        sentence
        for name, path in checked
        for sentence in violations(name, path.read_text(), is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "sentence"),
    [
        ("connections.models.teams", "from connections import audit", "stands above it"),
        ("connections.errors", "import connections.fields", "stands above it"),
        ("connections.access", "from connections.services.tokens import refresh", "stands above it"),
        ("connections.microsoft.graph", "from connections.models import Tenant", "microsoft knows no models"),
        ("connections.services.teams", "from django.http import HttpRequest", "services know no request"),
        ("connections.services.teams", "def f():\n    from celery import shared_task", "services know no Celery"),
        ("connections.services.teams", "from ..views import home", "stands above it"),
        ("connections.views.teams", "from connections import tasks", "nobody imports tasks"),
        ("connections.views.teams", "from portal.sandbox import seed", "does not know the sandbox"),
        ("portal.sandbox.teams", "from connections.errors import PortalError", "shares no code"),
    ],
)
def test_a_violation_is_found(name: str, source: str, sentence: str):
    found = violations(name, source)
    assert found
    assert sentence in "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("connections.views.teams", "from connections.services import teams"),
        ("connections.services.teams", "from . import tokens\nfrom connections.models import User"),
        ("connections.errors", "if TYPE_CHECKING:\n    from connections.microsoft.errors import Verdict"),
        ("connections.tasks", "from celery import shared_task\nfrom connections.services import keepalive"),
    ],
)
def test_what_points_down_is_allowed(name: str, source: str):
    assert violations(name, source) == []
