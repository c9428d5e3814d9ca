"""Fixtures of the service tests."""

import pytest


@pytest.fixture(autouse=True)
def _database(request: pytest.FixtureRequest) -> None:
    """Every test here may use the database."""
    request.getfixturevalue("db")
