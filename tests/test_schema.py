"""The migrations create exactly the expected tables, constraints, indexes and triggers."""

import json

import pytest

from tests import schema


@pytest.mark.django_db
def test_the_tables_are_as_written_down(request: pytest.FixtureRequest) -> None:
    current = json.loads(json.dumps(schema.collect()))
    if request.config.getoption("--write-schema"):
        schema.snapshot_path().write_text(json.dumps(current, indent=1, sort_keys=True) + "\n")
    expected = json.loads(schema.snapshot_path().read_text())
    assert current["tables"].keys() == expected["tables"].keys()
    for table, description in expected["tables"].items():
        assert current["tables"][table] == description, table
    assert (current["functions"], current["groups"]) == (expected["functions"], expected["groups"])
    guarded = {"connections_auditevent", "connections_tokenfetch", "connections_auditseal"}
    assert all(current["tables"][table]["triggers"] for table in guarded)
