"""Emails about approvals: the request to the IT admins, and the decision to the requester."""

from datetime import datetime

from connections.access import querysets
from connections.models import Approval
from connections.services.notifications import alerts

State = Approval.State
_TONES = {State.APPROVED: "ok", State.DECLINED: "warning"}


def approval_requested(approval: Approval, *, now: datetime) -> None:
    """Email every IT admin except the requester. Call it in the transaction of the request."""
    others = querysets.it_admins().exclude(pk=approval.requested_by_id or 0).select_related("alert_choice")
    name = approval.requested_by_name
    purpose = f"Justification from {name}: {approval.reason}" if approval.reason else "No justification provided."
    message = alerts.Message(
        subject=f"{name} requests approval: {approval.connection_name}",
        paragraphs=(*approval.reasons, purpose),
        path=f"/approvals/{approval.pk}/",
        button="Review request",
        why="You received this email because you're an IT admin.",
        facts=_facts(approval),
        lines=tuple(approval.permissions),
        lines_label="Resulting permissions" if approval.permissions else "",
    )
    alerts.notify(others, message, about=f"approval:{approval.pk}:asked", now=now)


def approval_answered(approval: Approval, *, now: datetime) -> None:
    """Email the decision to the requester, unless they withdrew the request."""
    if approval.requested_by is None or approval.state not in _TONES:
        return
    word = approval.get_state_display().lower()
    next_step = "Nothing was changed at Microsoft."
    if approval.state == State.APPROVED:
        next_step = "Next step: connect it." if approval.is_app_only else "Next step: sign in at Microsoft."
    paragraphs = (f"{approval.decided_by_name} {word} it.", approval.decision_reason, next_step)
    message = alerts.Message(
        subject=f"{approval.connection_name} is {word}",
        paragraphs=tuple(filter(None, paragraphs)),
        path=f"/approvals/{approval.pk}/",
        button="View connection",
        why="You received this email because you requested approval.",
        facts=_facts(approval),
        tone=_TONES[State(approval.state)],
    )
    alerts.notify([approval.requested_by], message, about=f"approval:{approval.pk}:{approval.state}", now=now)


def _facts(approval: Approval) -> tuple[tuple[str, str], ...]:
    return (
        ("Connection", approval.connection_name),
        ("App registration", approval.app_name),
        ("Kind", "App-only" if approval.is_app_only else "Delegated"),
        ("Asked by", approval.requested_by_name),
    )
