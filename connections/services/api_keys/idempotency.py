"""Idempotency-Key: a request that is sent again, because its answer got lost, is answered and not done again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q

from connections.errors import PortalError
from connections.models import ApiKey, StoredReply

RETENTION = timedelta(hours=24)
# After that long without an answer, whoever worked on it was killed; the request may be done again.
MAX_RUN_TIME = timedelta(minutes=5)
PRUNE_BATCH = 1000  # rows one tick removes


class KeyReused(PortalError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_key_reused"
    status = 422
    cause = "This Idempotency-Key was already used for another request."
    action = "Make a new one for every new request; send the old one only to repeat the very same request."
    who = "owner"


class InProgress(PortalError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "in_progress"
    status = 409
    cause = "The first request with this Idempotency-Key is still running."
    action = "Send it again in a few seconds; you then get its answer."
    who = "nobody"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to be sent again."""

    status: int
    body: str
    headers: dict[str, str]
    # What the caller was when it was given; who is less now must not read it again.
    standing: str


def claim(key: ApiKey, *, idempotency_key: str, request: bytes, now: datetime) -> StoredReply | Reply:
    """Claim a request for doing it, or get the answer it has had.

    ``request`` is everything that makes two requests the same. Of several at once, one gets the claim. Raises
    KeyReused, InProgress.
    """
    digest, request_digest = _digest(idempotency_key.encode("utf-8", "replace")), _digest(request)
    mine = StoredReply.objects.filter(key=key, digest=digest)
    mine.filter(started_at__lte=now - RETENTION).delete()
    try:
        with transaction.atomic():
            return StoredReply.objects.create(key=key, digest=digest, request_digest=request_digest, started_at=now)
    except IntegrityError:
        found = mine.first()
    if found is None:  # given up in this very moment
        raise InProgress
    if found.request_digest != request_digest:
        raise KeyReused
    if found.status is not None:
        told = json.loads(found.answer or "{}")
        return Reply(found.status, told["body"], told["headers"], told.get("standing", ""))
    abandoned = Q(pk=found.pk, status=None, started_at=found.started_at)
    if found.started_at > now - MAX_RUN_TIME or not mine.filter(abandoned).update(started_at=now):
        raise InProgress
    found.started_at = now
    return found


def store_reply(claimed: StoredReply, reply: Reply) -> None:
    """Keep the answer of a claimed request; not if somebody else has taken the claim over since."""
    answer = json.dumps({"body": reply.body, "headers": reply.headers, "standing": reply.standing})
    mine = StoredReply.objects.filter(pk=claimed.pk, status=None, started_at=claimed.started_at)
    mine.update(status=reply.status, answer=answer)


def release(claimed: StoredReply) -> None:
    """Forget the claim of a request that was refused: it changed nothing, and may work the next time."""
    StoredReply.objects.filter(pk=claimed.pk, status=None, started_at=claimed.started_at).delete()


def prune(*, now: datetime) -> int:
    """Remove answers that are older than a day; returns how many rows went."""
    old = StoredReply.objects.filter(started_at__lte=now - RETENTION).order_by("started_at")
    gone, _ = StoredReply.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:PRUNE_BATCH])).delete()
    return gone


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
