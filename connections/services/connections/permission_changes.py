"""What a change of wishes means under the policy: what may be added, what must be approved, what need not any more."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from connections.models import Connection, User
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, Reason

# Columns that say what a connection is to be able to do.
REQUESTED_COLUMNS = ("capabilities", "extra_scopes")


def check_policy(connection: Connection, before: dict[str, Any]) -> tuple[Reason, ...]:
    """What of a changed wish wants an approval. ``before`` are the columns as they were.

    Raises PolicyForbids for what was added; what stood there already is judged at the next sign-in.
    """
    old = copy.copy(connection)
    for field, value in before.items():
        setattr(old, field, value)
    decision, missing = approvals.evaluate_approval(connection)
    known = set(approvals.evaluate_approval(old)[0].forbidden)
    evaluate.refuse_forbidden(Decision(tuple(one for one in decision.forbidden if one not in known)))
    had, wants = evaluate.request_of(old), evaluate.request_of(connection)
    widened = not set(wants.permissions) <= set(had.permissions) or not set(wants.capabilities) <= set(had.capabilities)
    return missing if widened or approvals.open_request(connection) is not None else ()


def update_approval(
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
        if not approvals.evaluate_approval(connection)[1]:
            approvals.close_if_unneeded(connection, actor=actor, now=now)
        return
    if all(getattr(connection, field) == before[field] for field in REQUESTED_COLUMNS):
        return  # only the name
    was = {field: before[field] for field in REQUESTED_COLUMNS} if connection.connected_at is not None else None
    approvals.request_approval(connection, missing, reason=reason, actor=actor, now=now, before=was)
