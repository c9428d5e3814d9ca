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
    """The ETag in If-Match is outdated."""

    status = 412
    cause = "It was changed since you read it, so nothing was changed now."
    action = "Read it again, compare the differences, and send the change with the new ETag."
    who = "owner"


def etag(row: models.Model, columns: Sequence[str]) -> str:
    """Hash the columns that clients can change; columns that only the portal updates are not included."""
    state = [type(row).__name__, row.pk, *(str(getattr(row, name)) for name in columns)]
    return quote_etag(hashlib.sha256(json.dumps(state).encode("utf-8", "replace")).hexdigest()[:32])


def tag(response: HttpResponse, row: M, columns: Sequence[str]) -> M:
    """Add the row's ETag to the response, and return the row."""
    response["ETag"] = etag(row, columns)
    return row


@contextmanager
def lock_matching(
    request: HttpRequest, row: M, columns: Sequence[str], *, part_of: models.Model | None = None
) -> Iterator[M]:
    """Lock the row, compare it with If-Match under the lock, and yield its current state.

    ``part_of`` is a parent row that other code locks first. To avoid deadlocks, it is locked first here, too. Raises
    PreconditionFailed, or Http404 if the row has just been deleted.
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
    """Raise PreconditionFailed if the request has an If-Match that does not match the row (RFC 9110, 13.1.1)."""
    header = request.headers.get("If-Match", "").strip()
    if header and header != "*" and etag(row, columns) not in parse_etags(header):
        raise PreconditionFailed
