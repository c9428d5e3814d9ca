"""Exports whose start, end and number of rows are recorded."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from connections import audit
from connections.models import AuditEvent, User
from connections.models.audit import AuditAction

T = TypeVar("T")


def of_list(rows: Iterable[T], *, name: str, filters: Mapping[str, str], actor: User) -> Iterator[T]:
    """Return the rows of a list for a download, as ``recorded`` does. ``filters`` are those in use."""
    return recorded(
        ((1, row) for row in rows),
        actions=(AuditAction.LIST_EXPORT_STARTED, AuditAction.LIST_EXPORTED),
        target=audit.Subject("List", "", name),
        facts={name: value for name, value in filters.items() if value},
        actor=actor,
    )


def recorded(
    chunks: Iterator[tuple[int, T]],
    *,
    actions: tuple[AuditAction, AuditAction],
    target: audit.Subject,
    facts: dict[str, Any],
    actor: User,
) -> Iterator[T]:
    """Return the chunks, given with their numbers of rows. ``actions`` are those of the start and of the end.

    The start is recorded at once, and the end even if the download is aborted. A start without an end means that
    the client left before the first row.
    """
    started, ended = actions
    audit.record(started, target, actor=actor, changes=facts)
    return _until_the_end(chunks, ended, target, facts, actor, audit.origin.get())


def _until_the_end(
    chunks: Iterator[tuple[int, T]],
    action: AuditAction,
    target: audit.Subject,
    facts: dict[str, Any],
    actor: User,
    origin: audit.Origin,
) -> Iterator[T]:
    rows, complete = 0, False
    try:
        for count, chunk in chunks:
            rows += count
            yield chunk
        complete = True
    finally:
        # The response is streamed after the request has ended, so the request's origin must be restored.
        before = audit.origin.set(origin)
        audit.record(
            action,
            target,
            actor=actor,
            changes={**facts, "rows": rows, "complete": complete},
            outcome=AuditEvent.Outcome.DONE if complete else AuditEvent.Outcome.FAILED,
        )
        audit.origin.reset(before)
