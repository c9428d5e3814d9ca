import pytest
from django.test import Client

from connections.models import User
from tests import factories


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Let every test here use the database."""


@pytest.fixture
def admin(alice: User) -> Client:
    return factories.signed_in(alice)


@pytest.fixture
def member(bob: User) -> Client:
    return factories.signed_in(bob)


@pytest.fixture
def auditor(carol: User) -> Client:
    return factories.signed_in(carol)


@pytest.fixture
def stranger(dave: User) -> Client:
    return factories.signed_in(dave)
