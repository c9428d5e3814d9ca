"""docs/security.md names the test behind each of its claims; these must exist."""

import ast
import re

import pytest

from tests.environment import ROOT

DOCUMENT = (ROOT / "docs/security.md").read_text()
REFERENCES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DOCUMENT)))


@pytest.mark.parametrize(("path", "name"), REFERENCES)
def test_every_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert names if not name else name in names


def test_every_row_names_a_test() -> None:
    tables = DOCUMENT.partition("## Who attacks")[2].split("\n## ")[1:]
    rows = [line for table in tables for line in table.splitlines() if line.startswith("| ")][len(tables) :]
    assert len(rows) > 60
    attacks = [row.split(" | ") for row in rows if not row.startswith("| Attack or fault")]
    assert [cells[0] for cells in attacks if "`tests/" not in cells[2]] == []
