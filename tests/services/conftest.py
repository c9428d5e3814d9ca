"""Fixtures of the service tests."""

import pytest


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every test here may use the database."""
