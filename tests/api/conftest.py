"""What all tests of the API need."""

from __future__ import annotations

import pytest

from connections.services import rate_limits


@pytest.fixture(autouse=True)
def _early_questions_counted_anew() -> None:
    """Connections of other tests have the same numbers."""
    client = rate_limits.client()
    for name in client.scan_iter("rate:early:*"):
        client.delete(name)
