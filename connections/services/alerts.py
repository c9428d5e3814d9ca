"""Telling people. (Being written.)"""

from __future__ import annotations

from datetime import datetime

from connections.models import Incident


def incident_opened(incident: Incident, *, now: datetime) -> None:
    """Put the alerts about a new incident into the outbox."""


def incident_healed(incident: Incident, *, now: datetime) -> None:
    """Put the alerts about a healed incident into the outbox."""
