"""Idempotency-Key: a client that repeats a request because its response was lost gets the stored response."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from connections.errors import PortalError
from connections.models import ApiKey, StoredReply

RETENTION = timedelta(hours=24)
# A request that has no reply after this time must have been killed, and may be run again.
MAX_RUN_TIME = timedelta(minutes=5)
PRUNE_BATCH = 1000  # rows deleted per run


class KeyReused(PortalError):
    code = "idempotency_key_reused"
    status = 422
    cause = "This Idempotency-Key was already used for another request."
    action = "Make a new one for every new request; send the old one only to repeat the very same request."
    who = "owner"


class InProgress(PortalError):
    code = "in_progress"
    status = 409
    cause = "The first request with this Idempotency-Key is still running."
    action = "Send it again in a few seconds; you then get its answer."
    who = "nobody"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: str
    headers: dict[str, str]
    standing: str  # the caller's rights at that time; a caller with fewer rights must not get this reply


def claim(key: ApiKey, *, idempotency_key: str, request: bytes, now: datetime) -> StoredReply | Reply:
    """Claim a request, or return its stored reply; of concurrent requests, only one gets the claim.

    ``request`` is everything that must be equal in a repeated request. Raises KeyReused or InProgress.
    """
    digest, request_digest = _digest(idempotency_key.encode("utf-8", "replace")), _digest(request)
    replies = StoredReply.objects.filter(key=key, digest=digest)
    replies.filter(started_at__lte=now - RETENTION).delete()
    try:
        with transaction.atomic():
            return StoredReply.objects.create(key=key, digest=digest, request_digest=request_digest, started_at=now)
    except IntegrityError:
        stored = replies.first()
    if stored is None:  # released at this very moment
        raise InProgress
    if stored.request_digest != request_digest:
        raise KeyReused
    if stored.status is not None:
        answer = json.loads(stored.answer or "{}")
        return Reply(stored.status, answer["body"], answer["headers"], answer.get("standing", ""))
    if stored.started_at > now - MAX_RUN_TIME or not _unfinished(stored).update(started_at=now):
        raise InProgress
    stored.started_at = now
    return stored


def store_reply(claimed: StoredReply, reply: Reply) -> None:
    """Store the reply to a claimed request, unless a repeated request has taken over the claim."""
    answer = json.dumps({"body": reply.body, "headers": reply.headers, "standing": reply.standing})
    _unfinished(claimed).update(status=reply.status, answer=answer)


def release(claimed: StoredReply) -> None:
    """Delete the claim of a rejected request, which changed nothing and may succeed next time."""
    _unfinished(claimed).delete()


def prune(*, now: datetime) -> int:
    """Delete replies older than a day; returns how many."""
    old = StoredReply.objects.filter(started_at__lte=now - RETENTION).order_by("started_at")
    deleted, _ = StoredReply.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:PRUNE_BATCH])).delete()
    return deleted


def _unfinished(claimed: StoredReply) -> QuerySet[StoredReply]:
    return StoredReply.objects.filter(pk=claimed.pk, status=None, started_at=claimed.started_at)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
