import pytest

from connections.services.api_keys import rate_limit


@pytest.fixture(autouse=True)
def _reset_early_refresh_counters() -> None:
    """Reset the counters, because other tests use the same connection numbers."""
    client = rate_limit.client()
    for name in client.scan_iter("*:rate:early:*"):
        client.delete(name)
