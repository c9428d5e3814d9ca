"""The conditional change of state, with its audit event, that approvals, consent requests and change requests share."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import transaction

from connections import audit
from connections.models import Approval, ChangeRequest, ConsentRequest, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns


def change_state(
    request: Approval | ChangeRequest | ConsentRequest,
    action: AuditAction,
    *,
    coming_from: Collection[str],
    actor: User | None,
    changes: dict[str, Any],
    **values: Any,
) -> bool:
    """Save ``values`` (including ``state``), set them on ``request``, and record ``action`` with ``changes``.

    Returns False without writing anything if the state is not in ``coming_from``, for example because someone else
    changed it first.
    """
    with transaction.atomic():
        rows = type(request)._default_manager.filter(pk=request.pk, state__in=coming_from)
        if not rows.update(**values):
            return False
        audit.record(action, request, actor=actor, changes=changes)
    set_columns(request, values)
    return True


def decided(actor: User | None, now: datetime) -> dict[str, Any]:
    return {"decided_by": actor, "decided_by_name": str(actor or "")[:320], "decided_at": now}
