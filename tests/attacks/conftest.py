import pytest


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Let every test here use the database."""
