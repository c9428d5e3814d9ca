"""A running portal, and an API key of bob's."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from m365_portal import Portal

from connections.access import permissions
from connections.models import Connection, User
from connections.services.api_keys import api_keys
from portal.sandbox.client import Control
from tests import factories

Granted = Callable[..., Connection]


def issue_key(owner: User, *, name: str = "Robot", scopes: list[str] | None = None, now: datetime | None = None) -> str:
    """Return the text of a new key of ``owner``'s; by default it has every scope that the owner's keys may have."""
    wanted = sorted(permissions.scopes_for(owner)) if scopes is None else scopes
    moment = now or timezone.now()
    ends = moment + timedelta(days=90)
    return api_keys.issue(owner, name=name, scopes=wanted, expires_at=ends, actor=owner, now=moment)[1]


@pytest.fixture
def key(transactional_db: None, bob: User) -> str:
    """bob's key, with every scope it may have."""
    return issue_key(bob)


@pytest.fixture
def portal(portal_url: str, key: str) -> Iterator[Portal]:
    """The client with bob's key, without retries."""
    with Portal(portal_url, key, patience=0, timeout=20) as opened:
        yield opened


@pytest.fixture
def granted(sandbox: Control) -> Granted:
    """``granted(name="Invoices")`` creates a connection of bob's to Ada's mailbox, with consent but without a token."""

    def make(**overrides: Any) -> Connection:
        grant = sandbox.issue_grant(
            factories.CLIENT_ID, factories.ADA, ["Mail.Read", "Mail.Read.Shared", "offline_access"]
        )
        values = {"refresh_token": grant["refresh_tokens"][0], "access_token": None, "expires_at": None}
        return factories.make_connection(**(values | overrides))

    return make
