"""What all tests of the API need."""

from __future__ import annotations

import pytest

from connections.services.api_keys import rate_limit


@pytest.fixture(autouse=True)
def _early_questions_counted_anew() -> None:
    """Connections of other tests have the same numbers."""
    client = rate_limit.client()
    for name in client.scan_iter("rate:early:*"):
        client.delete(name)
