"""Check changed permissions against the policy: are they forbidden, or do they need an approval?"""

import copy
from datetime import datetime
from typing import Any

from connections.models import Connection, User
from connections.models.columns import set_columns
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision, Reason

# The columns with the capabilities and permissions that the owner chose.
REQUESTED_COLUMNS = ("capabilities", "extra_scopes")


def check_policy(connection: Connection, before: dict[str, Any]) -> tuple[Reason, ...]:
    """Return the reasons why the change since ``before`` needs an approval.

    Raises PolicyForbids if the policy forbids a permission that the change adds.
    """
    unchanged = copy.copy(connection)
    set_columns(unchanged, before)
    decision, missing = approvals.evaluate_approval(connection)
    known = set(approvals.evaluate_approval(unchanged)[0].forbidden)
    evaluate.refuse_forbidden(Decision(tuple(rule for rule in decision.forbidden if rule not in known)))
    old, new = evaluate.request_of(unchanged), evaluate.request_of(connection)
    widened = not set(new.permissions) <= set(old.permissions) or not set(new.capabilities) <= set(old.capabilities)
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
    """Request the approval that the stored change needs, or close a request that is no longer needed."""
    if not missing:
        if not approvals.evaluate_approval(connection)[1]:
            approvals.close_if_unneeded(connection, actor=actor, now=now)
        return
    if all(getattr(connection, field) == before[field] for field in REQUESTED_COLUMNS):
        return  # only the name was changed
    old = {field: before[field] for field in REQUESTED_COLUMNS} if connection.connected_at is not None else None
    approvals.request_approval(connection, missing, reason=reason, actor=actor, now=now, before=old)
