"""ETag and If-Match, so that nobody overwrites a change they have not seen."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.http import parse_etags, quote_etag

from connections.errors import Conflict

M = TypeVar("M", bound=models.Model)


class PreconditionFailed(Conflict):
    """If-Match names another state than the current one."""

    status = 412
    cause = "It was changed since you read it, so nothing was changed now."
    action = "Read it again, look at what is different, and send the change with the new ETag."
    who = "owner"


def etag(row: models.Model, columns: Sequence[str]) -> str:
    """A hash of the columns that clients can change; what the portal updates by itself has no part in it."""
    state = [type(row).__name__, row.pk, *(str(getattr(row, name)) for name in columns)]
    return quote_etag(hashlib.sha256(json.dumps(state).encode("utf-8", "replace")).hexdigest()[:32])


def tag(response: HttpResponse, row: M, columns: Sequence[str]) -> M:
    """The row; its ETag is sent as a header."""
    response["ETag"] = etag(row, columns)
    return row


@contextmanager
def lock_matching(
    request: HttpRequest, row: M, columns: Sequence[str], *, part_of: models.Model | None = None
) -> Iterator[M]:
    """The current row, locked until the block ends. Raises PreconditionFailed, or Http404 if the row was just deleted.

    If-Match is compared under the lock. ``part_of`` is the row that others lock before this one; it is locked first
    here as well, to avoid deadlocks.
    """
    with transaction.atomic():
        if part_of is not None:
            parent = type(part_of)._default_manager.select_for_update(no_key=True).filter(pk=part_of.pk)
            list(parent.values_list("pk"))
        current = type(row)._default_manager.select_for_update().filter(pk=row.pk).first()
        if current is None:
            raise Http404
        require_match(request, current, columns)
        yield current


def require_match(request: HttpRequest, row: models.Model, columns: Sequence[str]) -> None:
    """Raise PreconditionFailed if the request has an If-Match that does not fit the row (RFC 9110, 13.1.1)."""
    header = request.headers.get("If-Match", "").strip()
    if header and header != "*" and etag(row, columns) not in parse_etags(header):
        raise PreconditionFailed
