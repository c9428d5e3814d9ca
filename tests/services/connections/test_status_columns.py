"""Only ``status_columns()`` sets the status of a connection, so its code, cause, action and time always agree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import connections

ROOT = Path(connections.__file__).parent
SETTER = "models/connections.py"
OTHER_STATUS = "services/api_keys/idempotency.py"  # the HTTP status of a stored reply
COLUMNS = {f"status_{name}" for name in ("code", "cause", "action", "who", "reference", "since")}


def written_columns(node: ast.AST) -> Iterator[str]:
    """Yield the status columns set by calls to ``update()``, attribute assignments and dictionaries of columns."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "changed_fields":
            return  # it only compares
        if node.func.attr == "update":
            yield from (keyword.arg for keyword in node.keywords if keyword.arg in {"status", *COLUMNS})
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in COLUMNS:
        yield node.attr
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            name = key.value if isinstance(key, ast.Constant) else None
            text = ast.unparse(value).partition("[")[0].replace("Status.choices", "")  # labels set nothing
            is_status = name == "status" and (None in node.keys or "Status." in text)
            if is_status or name in COLUMNS:
                yield str(name)
    for child in ast.iter_child_nodes(node):
        yield from written_columns(child)


def test_no_other_module_writes_status_columns() -> None:
    paths = {str(path.relative_to(ROOT)): path for path in ROOT.rglob("*.py") if "migrations" not in path.parts}
    written = {name: set(written_columns(ast.parse(path.read_text()))) for name, path in paths.items()}
    assert written.pop(SETTER) >= COLUMNS
    assert written.pop(OTHER_STATUS) == {"status"}
    assert {name: columns for name, columns in written.items() if columns} == {}
