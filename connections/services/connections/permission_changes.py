"""What a change of wishes means under the policy: what may be added, what must be approved, what need not any more."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from connections.models import Connection, User
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, Reason

# Columns that say what a connection is to be able to do.
WISHES = ("capabilities", "extra_scopes")


def judge(connection: Connection, before: dict[str, Any]) -> tuple[Reason, ...]:
    """What of a changed wish wants an approval. ``before`` are the columns as they were.

    Raises PolicyForbids for what was added; what stood there already is judged at the next sign-in.
    """
    old = copy.copy(connection)
    for field, value in before.items():
        setattr(old, field, value)
    decision, missing = approvals.lacking(connection)
    known = set(approvals.lacking(old)[0].forbidden)
    evaluate.refuse_forbidden(Decision(tuple(one for one in decision.forbidden if one not in known)))
    had, wants = evaluate.wish_of(old), evaluate.wish_of(connection)
    widened = not set(wants.permissions) <= set(had.permissions) or not set(wants.capabilities) <= set(had.capabilities)
    return missing if widened or approvals.waiting(connection) is not None else ()


def follow(
    connection: Connection,
    missing: tuple[Reason, ...],
    before: dict[str, Any],
    *,
    reason: str,
    actor: User,
    now: datetime,
) -> None:
    """The changed wish is stored: ask for what it lacks, or end a request that is not needed any more."""
    if not missing:
        if not approvals.lacking(connection)[1]:
            approvals.settle(connection, actor=actor, now=now)
        return
    if all(getattr(connection, field) == before[field] for field in WISHES):
        return  # only the name
    was = {field: before[field] for field in WISHES} if connection.connected_at is not None else None
    approvals.ask(connection, missing, reason=reason, actor=actor, now=now, before=was)
