"""Gunicorn's log, with what is secret in addresses cut out."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from portal.logs import hide_links


class AccessLog(Logger):  # type: ignore[misc]
    """The access log of portal/gunicorn.conf.py."""

    def atoms(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Called by gunicorn for each answer: the parts that the log's format may name."""
        parts: dict[str, Any] = super().atoms(*args, **kwargs)
        return {name: hide_links(value) if isinstance(value, str) else value for name, value in parts.items()}
