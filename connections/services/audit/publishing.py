"""Publish seals outside the database, out of reach of anybody who can rewrite it. The same seal may arrive twice."""

import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from django.conf import settings

from connections.models import AuditSeal, SealPublication
from connections.outbound import safe_http, webhooks
from connections.services.audit import cursors, seal_format

logger = structlog.get_logger(__name__)

BATCH = 200  # seals per message

Destination = SealPublication.Place


def publish_due(now: datetime) -> int:
    """Publish new seals to every configured destination; returns how many arrived, summed over all destinations."""
    published = 0
    for destination in destinations():
        while (count := _publish_batch(destination, now)) is not None:
            published += count
    return published


def destinations() -> list[str]:
    configured = {
        Destination.FILE: settings.AUDIT_SEAL_FILE,
        Destination.WEBHOOK: settings.AUDIT_SEAL_WEBHOOK,
        Destination.LOG: settings.AUDIT_SEAL_LOG,
    }
    return [destination.value for destination, setting in configured.items() if setting]


def publication_states() -> list[SealPublication]:
    """Return the state of each configured destination, with an unsaved row for any that was never tried."""
    known = SealPublication.objects.in_bulk(destinations())
    return [known.get(destination) or SealPublication(place=destination) for destination in destinations()]


def _publish_batch(destination: str, now: datetime) -> int | None:
    """Send one message. Returns None if there is nothing to send, it is not due yet, or it failed."""
    cursor = cursors.of(destination)
    seals = list(AuditSeal.objects.filter(number__gt=cursor.upto).order_by("number")[:BATCH])
    if not seals or not cursors.claim(cursor, now):
        return None
    problem = _SENDERS[destination](seals, now)
    if problem:
        cursors.postpone(cursor, problem, now)
        return None
    cursors.advance(cursor, seals[-1].number, now)
    return len(seals)


def _to_file(seals: list[AuditSeal], now: datetime) -> str:
    text = "".join(f"{seal_format.published_line(seal)}\n" for seal in seals)
    try:
        with open(settings.AUDIT_SEAL_FILE, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the last line was cut off by a full disk
                    text = f"\n{text}"
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        return f"The file can't be written: {problem.strerror or type(problem).__name__}."
    return ""


def _to_webhook(seals: list[AuditSeal], now: datetime) -> str:
    data = {"seals": [seal_format.published_fields(seal) for seal in seals]}
    message_id = f"seals-{seals[0].number}-{seals[-1].number}-{seals[-1].hash[:12]}"
    return _post("sealed", data, message_id=message_id, at=seals[-1].sealed_at, now=now)


def send_alarm(event: str, data: dict[str, Any], *, message_id: str, now: datetime) -> None:
    """Post an alarm to AUDIT_SEAL_WEBHOOK, if it is set. A failure is only logged. Call it outside transactions."""
    if settings.AUDIT_SEAL_WEBHOOK:
        problem = _post(event, data, message_id=message_id, at=now, now=now)
        if problem:
            logger.error("the audit alarm could not be posted", event_type=event, problem=problem)


def _post(event: str, data: dict[str, Any], *, message_id: str, at: datetime, now: datetime) -> str:
    body = webhooks.body(event, at=at.isoformat(), data=data)
    secrets = [settings.AUDIT_SEAL_WEBHOOK_SECRET] if settings.AUDIT_SEAL_WEBHOOK_SECRET else []
    headers = webhooks.headers(message_id, body, timestamp=int(now.timestamp()), signing_secrets=secrets)
    if not secrets:
        headers.pop("webhook-signature")
    result = safe_http.post(
        settings.AUDIT_SEAL_WEBHOOK,
        body,
        headers,
        allow_private=settings.ALERT_PRIVATE_TARGETS,
        ca_bundle=settings.MICROSOFT_CA_BUNDLE,
    )
    return "" if result.accepted else result.problem


def _to_log(seals: list[AuditSeal], now: datetime) -> str:
    for seal in seals:
        logger.info("audit seal", number=seal.number, hash=seal.hash, previous_hash=seal.previous_hash)
    return ""


# Each function returns an error message, or "" if it succeeded.
_SENDERS: dict[str, Callable[[list[AuditSeal], datetime], str]] = {
    Destination.FILE: _to_file,
    Destination.WEBHOOK: _to_webhook,
    Destination.LOG: _to_log,
}
