"""Where the portal's API key comes from: an environment variable or a file."""

from __future__ import annotations

import os
from pathlib import Path

from m365_portal.errors import ConfigurationError


def key_of_environment() -> str:
    """Return the key from PORTAL_API_KEY or PORTAL_API_KEY_FILE. Raises ConfigurationError if both are set."""
    key, path = os.environ.get("PORTAL_API_KEY", ""), os.environ.get("PORTAL_API_KEY_FILE", "")
    if key and path:
        raise ConfigurationError("Both PORTAL_API_KEY and PORTAL_API_KEY_FILE are set.", action="Set one of them.")
    return key_from(path) if path else key


def key_from(path: str) -> str:
    """Return the API key in a file. Raises ConfigurationError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it isn't text"
        raise ConfigurationError(f"The key file {path} can't be read: {reason}.") from None
