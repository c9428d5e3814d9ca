"""The public contract is unchanged; tests/contract.py explains how to change it."""

import json

import pytest

from tests import contract


@pytest.mark.parametrize(
    "part", ["addresses", "problem", "operations", "codes", "audit_actions", "metrics", "settings", "commands"]
)
def test_nothing_that_others_build_on_has_moved(part: str) -> None:
    expected = json.loads(contract.SNAPSHOT.read_text())[part]
    current = json.loads(json.dumps(contract.collect()[part]))
    assert current, "nothing was collected"
    assert current == expected
