"""Idempotency-Key: a client that repeats a request because its response was lost gets the stored response."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from connections.errors import PortalError, RateLimited
from connections.fields import secret_field
from connections.models import ApiKey, StoredReply

RETENTION = timedelta(hours=24)
# A request that has no reply after this time must have been killed, and may be run again.
MAX_RUN_TIME = timedelta(minutes=5)
PRUNE_BATCH = 1000  # rows deleted at once
# Most replies stored for one key. At this limit new requests are refused. If we deleted the oldest reply instead, a
# repeat of its request would run twice.
MOST_PER_KEY = 10_000


class KeyReused(PortalError):
    code = "idempotency_key_reused"
    status = 422
    cause = "This Idempotency-Key was already used for another request."
    action = "Use a new key for every new request. Reuse a key only to repeat the same request."
    who = "owner"


class InProgress(PortalError):
    code = "in_progress"
    status = 409
    cause = "The first request with this Idempotency-Key is still running."
    action = "Send the request again in a few seconds to get its response."
    who = "nobody"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: str
    headers: dict[str, str]
    standing: str  # the caller's rights at that time; a caller with fewer rights must not get this reply


def claim(key: ApiKey, *, idempotency_key: str, request: bytes, now: datetime) -> StoredReply | Reply:
    """Claim a request, or return its stored reply. Only one of several concurrent requests gets the claim.

    ``request`` contains everything that must be the same when a client repeats the request. Raises KeyReused,
    InProgress, or RateLimited if the key has too many stored replies.
    """
    digest, request_digest = _digest(idempotency_key.encode("utf-8", "replace")), _digest(request)
    replies = StoredReply.objects.filter(key=key, digest=digest)
    replies.filter(started_at__lte=now - RETENTION).delete()
    of_key = StoredReply.objects.filter(key=key)
    if of_key.count() >= MOST_PER_KEY and not replies.exists():
        _prune(of_key, now)
        if of_key.count() >= MOST_PER_KEY:
            cause = f"This API key has {MOST_PER_KEY} requests with an Idempotency-Key within a day."
            raise RateLimited(cause, retry_after=int(MAX_RUN_TIME.total_seconds()))
    try:
        with transaction.atomic():
            return StoredReply.objects.create(
                key=key,
                digest=digest,
                request_digest=request_digest,
                started_at=now,
                identity=_identity(key, digest, request_digest),
            )
    except IntegrityError:
        stored = replies.first()
    if stored is None:  # released at this very moment
        raise InProgress
    if stored.request_digest != request_digest:
        raise KeyReused
    if stored.identity != _identity(key, digest, request_digest):
        raise secret_field(StoredReply, "answer").refusal(stored.identity)
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
    encrypted = secret_field(StoredReply, "answer").encrypt(answer, claimed.identity)
    _unfinished(claimed).update(status=reply.status, answer=encrypted)


def release(claimed: StoredReply) -> None:
    """Delete the claim of a rejected request, which changed nothing and may succeed next time."""
    _unfinished(claimed).delete()


def prune(*, now: datetime) -> int:
    """Delete replies older than a day; returns how many."""
    return _prune(StoredReply.objects.all(), now)


def _prune(replies: QuerySet[StoredReply], now: datetime) -> int:
    old = replies.filter(started_at__lte=now - RETENTION).order_by("started_at")
    total = 0
    while pks := list(old.values_list("pk", flat=True)[:PRUNE_BATCH]):
        total += StoredReply.objects.filter(pk__in=pks).delete()[0]
    return total


def _unfinished(claimed: StoredReply) -> QuerySet[StoredReply]:
    return StoredReply.objects.filter(pk=claimed.pk, status=None, started_at=claimed.started_at)


def _identity(key: ApiKey, digest: str, request_digest: str) -> UUID:
    """Derive the row's identity from the key and both digests.

    If someone assigns the row to another key in the database, the identity no longer matches and the reply is refused.
    """
    return UUID(hex=_digest(f"{key.pk}:{digest}:{request_digest}".encode())[:32])


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
