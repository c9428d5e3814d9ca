import pytest
from django.test import Client

from connections.models import User
from tests.views.pages import SignIn


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Let every test here use the database."""


@pytest.fixture
def admin(alice: User, signed_in: SignIn) -> Client:
    return signed_in(alice)


@pytest.fixture
def member(bob: User, signed_in: SignIn) -> Client:
    return signed_in(bob)


@pytest.fixture
def auditor(carol: User, signed_in: SignIn) -> Client:
    return signed_in(carol)


@pytest.fixture
def stranger(dave: User, signed_in: SignIn) -> Client:
    return signed_in(dave)
