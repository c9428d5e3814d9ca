"""Changing one thing: its ETag, and If-Match, so that nobody overwrites what they have not seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse

from connections.errors import Conflict

M = TypeVar("M", bound=models.Model)


class PreconditionFailed(Conflict):
    """If-Match names another state than the present one."""

    status = 412
    cause = "It was changed since you read it, so nothing was changed now."
    action = "Read it again, look at what is different, and send the change with the new ETag."
    who = "owner"


def etag(row: models.Model, columns: Sequence[str]) -> str:
    """The state of what can be changed about a row; what the portal keeps up by itself does not count."""
    state = [type(row).__name__, row.pk, *(str(getattr(row, name)) for name in columns)]
    return f'"{hashlib.sha256(json.dumps(state).encode("utf-8", "replace")).hexdigest()[:32]}"'


def tag(response: HttpResponse, row: models.Model, columns: Sequence[str]) -> None:
    """Send the row's ETag along."""
    response["ETag"] = etag(row, columns)


@contextmanager
def lock_matching(
    request: HttpRequest, row: M, columns: Sequence[str], *, part_of: models.Model | None = None
) -> Iterator[M]:
    """The row as it stands now, locked until the block ends. Raises NotAsRead, Http404 if it has just gone.

    Whatever the block changes is changed only if If-Match still fits under the lock. ``part_of`` is what everybody else
    locks before such a row: locked first here as well, so that nobody waits in a circle.
    """
    with transaction.atomic():
        if part_of is not None:
            whole = type(part_of)._default_manager.select_for_update(no_key=True).filter(pk=part_of.pk)
            list(whole.values_list("pk"))
        current = type(row)._default_manager.select_for_update().filter(pk=row.pk).first()
        if current is None:
            raise Http404
        require_match(request, current, columns)
        yield current


def require_match(request: HttpRequest, row: models.Model, columns: Sequence[str]) -> None:
    """Raise NotAsRead if the request has an If-Match that does not fit the row (RFC 9110, 13.1.1)."""
    wanted = request.headers.get("If-Match", "").strip()
    if not wanted or wanted == "*":
        return
    if etag(row, columns) not in [one.strip() for one in wanted.split(",")]:
        raise PreconditionFailed
