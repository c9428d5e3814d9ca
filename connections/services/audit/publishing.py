"""Publishing seals outside the database: whoever can rewrite the database cannot rewrite what stands elsewhere.

Each place has a row that says up to which seal everything arrived. It moves on only after a success, so nothing is
lost; killed in between, the same seals arrive twice, which does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db.models import F, Q

from connections.models import AuditSeal, SealPublication
from connections.outbound import safe_http, webhooks
from connections.services.audit import sealing

logger = structlog.get_logger(__name__)

TOGETHER = 200  # seals in one message
LEASE = timedelta(minutes=2)
WAITS = (15, 30, 60, 120, 300, 900, 1800, 3600)  # seconds to the next attempt; the last one for ever after

Destination = SealPublication.Place


def publish_due(now: datetime) -> int:
    """Publish what has not arrived yet, everywhere it shall go; returns how many seals arrived, all places together."""
    done = 0
    for place in destinations():
        while (count := _publish_some(place, now)) is not None:
            done += count
    return done


def destinations() -> list[str]:
    """Where seals go, by the settings."""
    wanted = {
        Destination.FILE: settings.AUDIT_SEAL_FILE,
        Destination.WEBHOOK: settings.AUDIT_SEAL_WEBHOOK,
        Destination.LOG: settings.AUDIT_SEAL_LOG,
    }
    return [place.value for place, setting in wanted.items() if setting]


def publication_states() -> list[SealPublication]:
    """How far each place is; one that has never been tried is new."""
    known = SealPublication.objects.in_bulk(destinations())
    return [known.get(place) or SealPublication(place=place) for place in destinations()]


def _publish_some(place: str, now: datetime) -> int | None:
    """One message; None when there is nothing to send, or not now."""
    row, _ = SealPublication.objects.get_or_create(place=place)
    seals = list(AuditSeal.objects.filter(number__gt=row.upto).order_by("number")[:TOGETHER])
    mine = SealPublication.objects.filter(
        Q(next_attempt_at=None) | Q(next_attempt_at__lte=now), pk=place, upto=row.upto
    )
    if not seals or not mine.update(next_attempt_at=now + LEASE):
        return None
    problem = _SENDERS[place](seals, now)
    this = SealPublication.objects.filter(pk=place, upto=row.upto)
    if problem:
        wait = timedelta(seconds=WAITS[min(row.attempts, len(WAITS) - 1)])
        this.update(attempts=F("attempts") + 1, next_attempt_at=now + wait, last_error=problem[:300])
        return None
    this.update(upto=seals[-1].number, published_at=now, attempts=0, next_attempt_at=None, last_error="")
    return len(seals)


# --- The places -------------------------------------------------------------------------------------
# Each returns what went wrong, or nothing.


def _to_file(seals: list[AuditSeal], now: datetime) -> str:
    text = "".join(f"{sealing.published_line(seal)}\n" for seal in seals)
    try:
        with open(settings.AUDIT_SEAL_FILE, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a line that was cut off, when the disk was full
                    text = f"\n{text}"
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        return f"The file could not be written: {problem.strerror or type(problem).__name__}."
    return ""


def _to_webhook(seals: list[AuditSeal], now: datetime) -> str:
    told: list[dict[str, Any]] = [{**sealing.sealed_fields(seal), "hash": seal.hash} for seal in seals]
    body = webhooks.body("sealed", at=seals[-1].sealed_at.isoformat(), data={"seals": told})
    message = f"seals-{seals[0].number}-{seals[-1].number}-{seals[-1].hash[:12]}"
    secrets = [settings.AUDIT_SEAL_WEBHOOK_SECRET] if settings.AUDIT_SEAL_WEBHOOK_SECRET else []
    headers = webhooks.headers(message, body, timestamp=int(now.timestamp()), signing_secrets=secrets)
    if not secrets:
        headers.pop("webhook-signature")
    answer = safe_http.post(
        settings.AUDIT_SEAL_WEBHOOK,
        body,
        headers,
        allow_private=settings.ALERT_PRIVATE_TARGETS,
        ca_bundle=settings.MICROSOFT_CA_BUNDLE,
    )
    return "" if answer.accepted else answer.problem


def _to_log(seals: list[AuditSeal], now: datetime) -> str:
    for seal in seals:
        logger.info("audit seal", number=seal.number, hash=seal.hash, previous_hash=seal.previous_hash)
    return ""


_SENDERS: dict[str, Callable[[list[AuditSeal], datetime], str]] = {
    Destination.FILE: _to_file,
    Destination.WEBHOOK: _to_webhook,
    Destination.LOG: _to_log,
}
