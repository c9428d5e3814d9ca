"""What one may do with what one sees."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from connections.access.querysets import shares_with
from connections.access.roles import person
from connections.models import (
    ApiKey,
    Approval,
    AuditEvent,
    Connection,
    ConsentRequest,
    Share,
    SharedMailbox,
    User,
)
from connections.models.audit import AuditAction


def can_manage_registry(user: User) -> bool:
    """Add, change and remove tenants, app registrations and credentials; grant consent."""
    return person(user).is_admin


def can_read_registry(user: User) -> bool:
    """Read details of tenants and app registrations (members read only names)."""
    return person(user).oversees


def can_read_audit(user: User) -> bool:
    """Open the audit pages."""
    return person(user).oversees


def can_export_audit(user: User) -> bool:
    """Take records away as a file, and have the trail verified."""
    return person(user).is_auditor


def can_manage_reviews(user: User) -> bool:
    """Start, plan and cancel access reviews."""
    return person(user).is_admin


def can_read_reviews(user: User) -> bool:
    """Read and export the report of an access review."""
    return person(user).oversees


def can_manage_alerts(user: User) -> bool:
    """See what was delivered to whom, and manage the organisation's alert channels."""
    return person(user).is_admin


def can_change_policy(user: User) -> bool:
    """Make the rules of the organisation and of app registrations."""
    return person(user).is_admin


def can_read_policy(user: User) -> bool:
    """Read every rule and what breaks it; members read a summary."""
    return person(user).oversees


def can_decide_approvals(user: User) -> bool:
    """Approve or decline what others ask: a person must, as a service account does what its maker wants."""
    return person(user).is_admin and not user.is_service


def can_decide(user: User, approval: Approval) -> bool:
    """Answer this request: an IT admin who has no part in it.

    Whoever asked has, also if another has asked anew since, and whoever owns the connection, or did when it was asked.
    For a service account that asked or owns it this holds of whoever is responsible for it, has had the secret of a key
    of it, or has changed the account since.
    """
    if not can_decide_approvals(user):
        return False
    asked, connection = approval.requested_by, approval.connection
    if asked is not None and _stands_for(user, asked, approval):
        return False
    if connection is None:
        return True
    if _stands_for(user, connection.owner, approval) or connection.approvals.filter(requested_by=user).exists():
        return False
    return not connection.hand_overs.filter(from_owner=user, at__gte=approval.requested_at).exists()


def _stands_for(user: User, account: User, approval: Approval) -> bool:
    """Whether it is this person's own account, or a service account that they answer for or may have used."""
    return user in (account, account.contact) or (account.is_service and _acts_as(user, account, approval))


def _acts_as(user: User, account: User, approval: Approval) -> bool:
    """Whether a service account may have asked in this person's place."""
    done = AuditEvent.objects.filter(actor=user)
    held = Q(action__in=(AuditAction.API_KEY_ISSUED, AuditAction.API_KEY_ROTATED), owner_id=account.pk)
    changed = Q(target_type="User", target_id=str(account.pk), action=AuditAction.SERVICE_ACCOUNT_CHANGED)
    return done.filter(held | changed & Q(at__gte=approval.requested_at)).exists()


def can_withdraw_approval(user: User, approval: Approval) -> bool:
    """Take a request back: who owns the connection, or who asked, as long as its wishes are theirs to change."""
    connection = approval.connection
    if connection is None or connection.owner_id == user.pk:
        return connection is not None or approval.requested_by_id == user.pk
    return approval.requested_by_id == user.pk and can_reconnect(user, connection)


def can_connect(user: User) -> bool:
    """Start a connection of one's own. Auditors only look."""
    return not person(user).is_auditor or person(user).is_admin


def can_connect_app_only(user: User) -> bool:
    """Create an app-only connection: it reaches the whole tenant, so it takes an IT admin."""
    return person(user).is_admin


def can_register_mailbox(user: User) -> bool:
    """Register a shared mailbox address."""
    return can_connect(user)


def can_change_mailbox(user: User, mailbox: SharedMailbox) -> bool:
    """Correct or remove a registered mailbox: an IT admin, or whoever registered it."""
    return person(user).is_admin or (mailbox.created_by_id == user.pk and can_register_mailbox(user))


def manages(user: User, connection: Connection) -> bool:
    """Whether it is this person's own, or shared with them to manage."""
    if connection.owner_id == user.pk:
        return True
    return shares_with(user).filter(connection=connection, level=Share.Level.MANAGE).exists()


def can_reconnect(user: User, connection: Connection) -> bool:
    """Sign in again (with the same account), change name, capabilities and mailboxes."""
    if not connection.is_delegated and person(user).is_admin:
        return True
    return manages(user, connection)


def can_ask_consent(user: User, connection: Connection) -> bool:
    """Ask the IT admins that what the connection needs is granted: whoever may sign in for it."""
    return can_reconnect(user, connection)


def can_withdraw_consent_request(user: User, request: ConsentRequest) -> bool:
    """Take a consent request back: only who asked."""
    return request.requester_id == user.pk


def can_check(user: User, connection: Connection) -> bool:
    """Ask Microsoft now whether the connection is alive."""
    return person(user).is_admin or manages(user, connection)


def can_share(user: User, connection: Connection) -> bool:
    """Share the connection, change and end shares."""
    return person(user).is_admin or manages(user, connection)


def can_fetch_token(user: User, connection: Connection) -> bool:
    """Get an access token of the connection: owner and those it is shared with. Being an IT admin is not enough."""
    if connection.owner_id == user.pk:
        return True
    return shares_with(user).filter(connection=connection).exists()


def can_issue_key(user: User, owner: User) -> bool:
    """Make or rotate an API key: people for themselves, IT admins for service accounts."""
    return person(user).is_admin if owner.is_service else owner.pk == user.pk


def can_revoke_key(user: User, key: ApiKey) -> bool:
    """Make an API key worthless: its owner, whoever is responsible for the service account, or an IT admin."""
    return user.pk in (key.owner_id, key.owner.responsible_id) or person(user).is_admin


def can_limit_key(user: User) -> bool:
    """Say how often a key may be used in a minute."""
    return person(user).is_admin


def scopes_for(owner: User) -> list[str]:
    """What keys of this owner may be for; a scope alone allows nothing that its owner may not do."""
    role = person(owner)
    found = [ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ, ApiKey.Scope.CONNECTIONS_WRITE]
    if role.is_admin:
        found += [ApiKey.Scope.ADMIN_READ, ApiKey.Scope.ADMIN_WRITE]
    if role.oversees:
        found.append(ApiKey.Scope.AUDIT_READ)
    return [str(scope) for scope in found]


def can_manage_service_accounts(user: User) -> bool:
    """Make, change and remove service accounts, and give them roles."""
    return person(user).is_admin


def can_manage_teams(user: User) -> bool:
    """Make teams, and say who is in them."""
    return person(user).is_admin


def can_read_people(user: User) -> bool:
    """Open the pages about people: who they are, what they own, and who has left."""
    return person(user).oversees


def can_manage_people(user: User) -> bool:
    """Disable and enable accounts, and hand over what somebody owns."""
    return person(user).is_admin


def can_disable_person(user: User, other: User) -> bool:
    """Disable or enable this account: an IT admin, but never one's own, and an operator's only as an operator."""
    return person(user).is_admin and user.pk != other.pk and (user.is_superuser or not other.is_superuser)


def can_disable(user: User, connection: Connection) -> bool:
    """Disable or delete."""
    return connection.owner_id == user.pk or person(user).is_admin


def can_keep_disabled(user: User, connection: Connection) -> bool:
    """Take from its owner that they may enable what they, or the policy, have switched off."""
    is_open = connection.status == Connection.Status.DISABLED and not connection.disabled_by_admin
    return is_open and person(user).is_admin and connection.owner_id != user.pk


def can_use_again(user: User, connection: Connection) -> bool:
    """Bring a disabled connection back; what an IT admin has switched off, only an IT admin switches on."""
    switched_off_by_admin = connection.status == Connection.Status.DISABLED and connection.disabled_by_admin
    return person(user).is_admin or not switched_off_by_admin


def can_enable(user: User, connection: Connection) -> bool:
    """Enable a disabled connection."""
    return can_disable(user, connection) and can_use_again(user, connection)


def can_hand_over(user: User, connection: Connection) -> bool:
    """Give the connection to another owner."""
    return can_disable(user, connection) and can_use_again(user, connection)


def allowed_actions(user: User, connection: Connection) -> dict[str, Any]:
    """What the connection's page may offer this person."""
    return {
        "reconnect": can_reconnect(user, connection),
        "check": can_check(user, connection),
        "disable": can_disable(user, connection),
        "enable": can_enable(user, connection),
        "keep_disabled": can_keep_disabled(user, connection),
        "use_again": can_use_again(user, connection),
        "hand_over": can_hand_over(user, connection),
        "share": can_share(user, connection),
    }
