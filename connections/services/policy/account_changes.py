"""Confirm that a new Microsoft account of the same name may take over a connection.

If an account is deleted and created again, Microsoft gives it the same name but another object ID. The name alone
proves nothing, because it may belong to someone else now. So the owner signs in with the new account, which stores
nothing. Then an IT admin confirms the account, and the owner signs in again. The connection keeps its ID, shares and
history.
"""

from datetime import datetime

from django.db import transaction

from connections import audit
from connections.errors import AccountReplaced
from connections.microsoft.account_claims import Account
from connections.models import Approval, Connection, User
from connections.models.audit import AuditAction
from connections.services.policy import approval_notifications, approvals

State = Approval.State


def is_same_name(connection: Connection, account: Account) -> bool:
    """Whether this is another account with the same directory and name as the connection's account."""
    if not connection.account_oid or account.tid != connection.account_tid or account.oid == connection.account_oid:
        return False
    return bool(account.username) and account.username.casefold() == connection.account_username.casefold()


def require_confirmed(connection: Connection, account: Account) -> None:
    """Raise AccountReplaced, unless the latest confirmation for this connection is for exactly this account."""
    confirmed = _latest(connection, state=State.APPROVED)
    if confirmed is not None and confirmed.account_oid == account.oid:
        return
    cause = (
        f"{account.username} is a new account with the same name as the one that this connection belongs to. "
        "The old account was probably deleted. Nothing was changed."
    )
    declined = _latest(connection, account_oid=account.oid, state=State.DECLINED)
    if declined is not None:
        raise AccountReplaced(
            f"{cause} {declined.decided_by_name} didn't confirm it: {declined.decision_reason}",
            action="Create a new connection for the new account.",
        )
    raise AccountReplaced(cause)


def request(connection: Connection, account: Account, *, actor: User, now: datetime) -> None:
    """Ask the IT admins to confirm the account, once per account. Replaces an open request for approval."""
    with transaction.atomic():
        current = Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
        latest = _latest(current, account_oid=account.oid)
        if latest is not None and latest.state in (State.WAITING, State.DECLINED):
            return
        approvals.withdraw_open(current, "Replaced by another request.", actor=actor, now=now)
        approval = Approval.objects.create(
            connection=current,
            connection_name=current.name,
            app_name=current.app_registration.name,
            authentication_type=current.authentication_type,
            account_oid=account.oid,
            account_username=account.username,
            reasons=[
                f"{account.username} is a new Microsoft account with the same name. Approve it only if it belongs to "
                "the same person or service as before.",
                f"Object ID before: {current.account_oid}. Object ID now: {account.oid}.",
            ],
            requested_by=actor,
            requested_by_name=str(actor)[:320],
            requested_at=now,
        )
        changes = {
            "connection": current.name,
            "account": account.username,
            "account_oid": [current.account_oid, account.oid],
        }
        audit.record(AuditAction.APPROVAL_REQUESTED, approval, actor=actor, changes=changes)
        approval_notifications.approval_requested(approval, now=now)


def open_request(connection: Connection) -> Approval | None:
    return _latest(connection, state=State.WAITING)


def _latest(connection: Connection, **columns: str) -> Approval | None:
    requests = Approval.objects.filter(connection=connection, **columns).exclude(account_oid="")
    return requests.order_by("-pk").first()
