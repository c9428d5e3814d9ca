"""Stream the audit trail to AUDIT_STREAM_URL, for example to a SIEM: every event and token request, in order, at least once.

The stream follows the seals, because only sealing knows up to which id every event has been committed: nothing can appear
among sealed rows, so nothing is left out. The cursor is the number of the last seal whose rows have all arrived.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.db import transaction

from connections import audit
from connections.models import AuditEvent, AuditSeal, SealPublication, User
from connections.models.audit import AuditAction
from connections.outbound import safe_http, syslog, webhooks
from connections.services.audit import cursors, sealing, serialization

logger = structlog.get_logger(__name__)

PLACE = SealPublication.Place.STREAM
MOST_ROWS = 2000  # in one batch, which is the most that one seal covers
RUN_FOR = timedelta(minutes=1)  # after which a run begins no more batches
MOST_BYTES = 250_000  # of the rows in one webhook, unless a single row is longer; many receivers refuse 1 MB
_SEVERITIES = {AuditEvent.Outcome.DONE.value: 5}  # notice; everything else is a warning
_WARNING = 4
# What becomes structured data of a syslog message.
_OF_EVENT = "kind", "id", "outcome", "actor_name", "target_type", "target_id", "target_name", "address", "request_id"
_OF_REQUEST = "kind", "id", "count", "key_name", "owner_name", "connection_id", "connection_name", "address"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event or a token request: its canonical line, the same parsed, and the number of its seal."""

    line: str
    fields: dict[str, Any]
    seal: int


def stream_due(clock: Callable[[], datetime], *, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Send the rows sealed since the last time, and return how many arrived. Only one worker sends at a time.

    Begins no further batch once ``is_stopping``, or after RUN_FOR; the next run continues.
    """
    if not settings.AUDIT_STREAM_URL:
        return 0
    arrived, end = 0, clock() + RUN_FOR
    while not is_stopping() and clock() < end and (count := _send_next(clock)) is not None:
        arrived += count
    return arrived


def states() -> list[SealPublication]:
    """Return the stream's state, with an unsaved row if it was never tried; nothing if no stream is configured."""
    if not settings.AUDIT_STREAM_URL:
        return []
    return [SealPublication.objects.filter(pk=PLACE).first() or SealPublication(place=PLACE)]


def lag(now: datetime) -> timedelta:
    """Return for how long the oldest row that has not arrived has been waiting. Zero if everything has arrived."""
    upto = SealPublication.objects.filter(pk=PLACE).values_list("upto", flat=True).first() or 0
    seals = AuditSeal.objects.filter(number__gt=upto).order_by("number")
    since = seals.values_list("sealed_at", flat=True).first()
    if since is None:  # everything that is sealed has arrived
        newest = sealing.newest_seal()
        unsealed = AuditEvent.objects.filter(pk__gt=newest.events_upto if newest else 0).order_by("pk")
        since = unsealed.values_list("at", flat=True).first()
    return max(now - since, timedelta(0)) if since else timedelta(0)


def arrived_upto() -> int | None:
    """Return the number of the last seal whose rows have all arrived; None if no stream is configured."""
    return next((state.upto for state in states()), None)


def move(upto: int, *, actor: User | None) -> tuple[int, int]:
    """Continue after the seal ``upto``: resend what follows it, or skip what precedes it. Returns from and to.

    The audit trail records it, because skipped rows are missing at the receiver.
    """
    newest = sealing.newest_seal()
    to = max(0, min(upto, newest.number if newest else 0))
    with transaction.atomic():
        before = cursors.of(PLACE).upto
        SealPublication.objects.filter(pk=PLACE).update(upto=to, attempts=0, next_attempt_at=None, last_error="")
        audit.record(AuditAction.AUDIT_STREAM_MOVED, audit.TRAIL, actor=actor, changes={"seal": [before, to]})
    return before, to


def _send_next(clock: Callable[[], datetime]) -> int | None:
    """Send one batch. Returns None if there is nothing to send, it is not due yet, or it failed."""
    cursor = cursors.of(PLACE)
    seals = _next_seals(cursor.upto)
    if not seals or not cursors.claim(cursor, clock()):
        return None
    entries = [entry for seal in seals for entry in _entries(seal)]
    problem = _send(entries, clock()) if entries else ""
    if problem:
        cursors.postpone(cursor, problem, clock())
        logger.warning("audit events could not be streamed", problem=problem, seal=seals[0].number)
        return None
    cursors.advance(cursor, seals[-1].number, clock())
    return len(entries)


def _next_seals(upto: int) -> list[AuditSeal]:
    """Return the seals after ``upto``: as many as fit into a batch, but at least one."""
    rows, fitting = 0, list[AuditSeal]()
    for seal in AuditSeal.objects.defer("marks").filter(number__gt=upto).order_by("number")[:200]:
        rows += seal.events_count + seal.fetches_count
        if fitting and rows > MOST_ROWS:
            break
        fitting.append(seal)
    return fitting


def _entries(seal: AuditSeal) -> Iterator[Entry]:
    """Yield what a seal covers. Rows that retention has removed are missing."""
    events, fetches = serialization.events(), serialization.fetches()
    between = serialization.rows(events, "id > %s AND id <= %s", [seal.events_after, seal.events_upto])
    for kind, rows in ((events, between), (fetches, serialization.rows(fetches, "seal = %s", [seal.number]))):
        for row in rows:
            line = kind.line(row)
            yield Entry(line, json.loads(line), seal.number)


def _send(entries: list[Entry], now: datetime) -> str:
    """Return an error message, or "" if everything arrived."""
    url = settings.AUDIT_STREAM_URL
    if urlsplit(url).scheme in syslog.PORTS:
        trust = syslog.Trust(settings.AUDIT_STREAM_CA_BUNDLE, settings.AUDIT_STREAM_CLIENT_CERTIFICATE)
        messages = map(_syslog_message, entries)
        return syslog.send(url, messages, allow_private=settings.AUDIT_STREAM_PRIVATE_TARGET, trust=trust)
    return next(filter(None, (_post(url, part, now) for part in _parts(entries))), "")


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Split a batch into webhooks of at most MOST_BYTES."""
    part, size = list[Entry](), 0
    for entry in entries:
        length = len(entry.line.encode())
        if part and size + length > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(entry)
        size += length
    if part:
        yield part


def _post(url: str, entries: list[Entry], now: datetime) -> str:
    first, last = entries[0], entries[-1]
    names = (f"{entry.seal}-{entry.fields['kind']}-{entry.fields['id']}" for entry in (first, last))
    message_id = f"audit-{'-to-'.join(names)}"
    data = {"events": [entry.fields | {"seal": entry.seal} for entry in entries]}
    body = webhooks.body("streamed", at=str(last.fields.get("at") or last.fields.get("minute")), data=data)
    secrets = [settings.AUDIT_STREAM_SECRET] if settings.AUDIT_STREAM_SECRET else []
    headers = webhooks.headers(message_id, body, timestamp=int(now.timestamp()), signing_secrets=secrets)
    if not secrets:
        headers.pop("webhook-signature")
    result = safe_http.post(
        url,
        body,
        headers,
        allow_private=settings.AUDIT_STREAM_PRIVATE_TARGET,
        ca_bundle=settings.AUDIT_STREAM_CA_BUNDLE or settings.MICROSOFT_CA_BUNDLE,
    )
    return "" if result.accepted else result.problem


def _syslog_message(entry: Entry) -> bytes:
    """The message is the line as it was sealed, so that a copy can be compared with the seals."""
    fields = entry.fields
    is_event = fields["kind"] == "event"
    return syslog.message(
        severity=_SEVERITIES.get(str(fields["outcome"]), _WARNING) if is_event else 6,  # informational
        at=str(fields["at"] if is_event else fields["minute"]),
        host=urlsplit(settings.PORTAL_URL).hostname or "-",
        kind=str(fields["action"]) if is_event else AuditAction.CONNECTION_TOKEN_FETCHED,
        data={"seal": entry.seal} | {name: fields.get(name) for name in (_OF_EVENT if is_event else _OF_REQUEST)},
        text=entry.line,
    )
