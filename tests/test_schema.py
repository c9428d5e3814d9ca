"""The migrations make exactly the tables, constraints, indexes and triggers that are written down."""

import json

import pytest

from tests import schema


@pytest.mark.django_db
def test_the_tables_are_as_written_down(request: pytest.FixtureRequest) -> None:
    found = json.loads(json.dumps(schema.collect()))
    if request.config.getoption("--write-schema"):
        schema.snapshot_path().write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    expected = json.loads(schema.snapshot_path().read_text())
    assert found["tables"].keys() == expected["tables"].keys()
    for table, description in expected["tables"].items():
        assert found["tables"][table] == description, table
    assert (found["functions"], found["groups"]) == (expected["functions"], expected["groups"])
    guarded = {"connections_auditevent", "connections_tokenfetch", "connections_auditseal"}
    assert all(found["tables"][table]["triggers"] for table in guarded)
