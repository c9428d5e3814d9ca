"""What people read about approvals in their mail: the question to the IT admins, the answer to who asked."""

from __future__ import annotations

from datetime import datetime

from connections.access import querysets
from connections.models import Approval
from connections.services.notifications import alerts

State = Approval.State
_TONES = {State.APPROVED: "ok", State.DECLINED: "warning"}


def approval_requested(approval: Approval, *, now: datetime) -> None:
    """Ask every IT admin but the requester. Call it in the transaction of the request."""
    others = querysets.it_admins().exclude(pk=approval.requested_by_id or 0).select_related("alert_choice")
    message = alerts.Message(
        subject=f"{approval.requested_by_name} asks for approval: {approval.connection_name}",
        paragraphs=(*approval.reasons, *_in_their_words(approval)),
        path=_path(approval),
        button="Approve or decline",
        why="You get this because you are an IT admin and did not ask for it yourself.",
        facts=_facts(approval),
        lines=tuple(approval.permissions),
        lines_label="Permissions it comes to",
    )
    alerts.notify(others, message, about=f"approval:{approval.pk}:asked", now=now)


def approval_answered(approval: Approval, *, now: datetime) -> None:
    """Tell the requester what became of it; what they withdrew themselves they know."""
    if approval.requested_by is None or approval.state not in _TONES:
        return
    word = approval.get_state_display().lower()
    then = "Sign in at Microsoft" if not approval.is_app_only else "Connect it"
    goes_on = f"{then} to go on." if approval.state == State.APPROVED else "Nothing was changed at Microsoft."
    message = alerts.Message(
        subject=f"{approval.connection_name} is {word}",
        paragraphs=tuple(filter(None, (f"{approval.decided_by_name} {word} it.", approval.decision_reason, goes_on))),
        path=_path(approval),
        button="Look at it",
        why="You get this because you asked for it.",
        facts=_facts(approval),
        tone=_TONES[State(approval.state)],
    )
    alerts.notify([approval.requested_by], message, about=f"approval:{approval.pk}:{approval.state}", now=now)


def _in_their_words(approval: Approval) -> tuple[str, ...]:
    if not approval.reason:
        return (f"{approval.requested_by_name} gave no reason.",)
    return (f"{approval.requested_by_name} needs it for: {approval.reason}",)


def _facts(approval: Approval) -> tuple[tuple[str, str], ...]:
    kind = "App-only: acts without any person" if approval.is_app_only else "Delegated"
    return (
        ("Connection", approval.connection_name),
        ("App registration", approval.app_name),
        ("Kind", kind),
        ("Asked by", approval.requested_by_name),
    )


def _path(approval: Approval) -> str:
    return f"/approvals/{approval.pk}/"
