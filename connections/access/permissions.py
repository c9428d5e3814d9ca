"""What a user may do with the objects they can see. One function per action, named after it."""

from typing import Any

from django.db.models import Q

from connections.access.querysets import shares_with
from connections.access.roles import person
from connections.models import ApiKey, Approval, AuditEvent, Connection, ConsentRequest, Share, SharedMailbox, User
from connections.models.audit import AuditAction


def _is_admin(user: User) -> bool:
    return person(user).is_admin


def _oversees(user: User) -> bool:
    return person(user).oversees


# The following are for IT admins only.
can_manage_registry = _is_admin  # add, change and remove tenants, app registrations and credentials; grant consent
can_manage_reviews = _is_admin  # start, schedule and cancel access reviews
can_manage_alerts = _is_admin  # see all deliveries, and manage the organisation's alert channels
can_change_policy = _is_admin
can_connect_app_only = _is_admin  # create an app-only connection, which reaches the whole tenant
can_limit_key = _is_admin  # set the rate limit of a key
can_manage_service_accounts = _is_admin  # create, change and remove service accounts, and assign roles to them
can_manage_teams = _is_admin  # create teams and manage their members
can_manage_people = _is_admin  # disable and enable accounts, and transfer what a person owns

# The following are for IT admins and auditors.
can_read_registry = _oversees  # details of tenants and app registrations (members see only names)
can_read_audit = _oversees
can_read_reviews = _oversees
can_read_policy = _oversees  # every rule and its violations (members see a summary)
can_read_people = _oversees  # who has an account, what they own, and who has left


def can_export_audit(user: User) -> bool:
    """Whether the user may export audit records and have the trail verified."""
    return person(user).is_auditor


def can_decide_approvals(user: User) -> bool:
    """Approve or decline requests. Only people may, because a service account acts for whoever holds its key."""
    return person(user).is_admin and not user.is_service


def can_decide(user: User, approval: Approval) -> bool:
    """Decide this request: only an IT admin who is not involved in it.

    The requester is involved, and so are anybody who requested approval for the connection before, its owner, and its
    owner at the time of the request. If a service account is the requester or the owner, the same applies to the person
    responsible for it, anybody who issued or rotated one of its keys, and anybody who has changed the account since.
    """
    if not can_decide_approvals(user):
        return False
    requester, connection = approval.requested_by, approval.connection
    if requester is not None and _may_act_as(user, requester, approval):
        return False
    if connection is None:
        return True
    if _may_act_as(user, connection.owner, approval) or connection.approvals.filter(requested_by=user).exists():
        return False
    return not connection.hand_overs.filter(from_owner=user, at__gte=approval.requested_at).exists()


def _may_act_as(user: User, account: User, approval: Approval) -> bool:
    """Whether the account is the user's own, or a service account that they are responsible for or may have used."""
    if user in (account, account.contact):
        return True
    if not account.is_service:
        return False
    had_secret = Q(action__in=(AuditAction.API_KEY_ISSUED, AuditAction.API_KEY_ROTATED), owner_id=account.pk)
    changed = Q(target_type="User", target_id=str(account.pk), action=AuditAction.SERVICE_ACCOUNT_CHANGED)
    events = AuditEvent.objects.filter(actor=user)
    return events.filter(had_secret | changed & Q(at__gte=approval.requested_at)).exists()


def can_withdraw_approval(user: User, approval: Approval) -> bool:
    """Allowed for the connection's owner, and for the requester while they may still change the connection."""
    connection = approval.connection
    if connection is None or connection.owner_id == user.pk:
        return connection is not None or approval.requested_by_id == user.pk
    return approval.requested_by_id == user.pk and can_reconnect(user, connection)


def can_connect(user: User) -> bool:
    return not person(user).is_auditor or person(user).is_admin


can_register_mailbox = can_connect


def can_change_mailbox(user: User, mailbox: SharedMailbox) -> bool:
    return person(user).is_admin or (mailbox.created_by_id == user.pk and can_register_mailbox(user))


def manages(user: User, connection: Connection) -> bool:
    """Whether the user owns the connection, or it is shared with them to manage."""
    if connection.owner_id == user.pk:
        return True
    return shares_with(user).filter(connection=connection, level=Share.Level.MANAGE).exists()


def can_reconnect(user: User, connection: Connection) -> bool:
    """Sign in again with the same account; change name, capabilities and mailboxes."""
    if not connection.is_delegated and person(user).is_admin:
        return True
    return manages(user, connection)


can_ask_consent = can_reconnect  # request admin consent for the permissions that the connection needs


def can_withdraw_consent_request(user: User, request: ConsentRequest) -> bool:
    return request.requester_id == user.pk


def can_check(user: User, connection: Connection) -> bool:
    """Test the connection with Microsoft now."""
    return person(user).is_admin or manages(user, connection)


can_share = can_check  # share the connection; change and end shares


def can_fetch_token(user: User, connection: Connection) -> bool:
    """Request an access token: allowed for the owner and those it is shared with. Being an IT admin is not enough."""
    return connection.owner_id == user.pk or shares_with(user).filter(connection=connection).exists()


def can_issue_key(user: User, owner: User) -> bool:
    """Issue or rotate an API key: people for themselves, IT admins for service accounts."""
    return person(user).is_admin if owner.is_service else owner.pk == user.pk


def can_revoke_key(user: User, key: ApiKey) -> bool:
    """Revoke an API key: its owner, the person responsible for the service account, or an IT admin."""
    return user.pk in (key.owner_id, key.owner.responsible_id) or person(user).is_admin


def scopes_for(owner: User) -> list[str]:
    """Return the scopes that this owner's keys may have. A scope never allows more than the owner may do."""
    role = person(owner)
    scopes = [ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ, ApiKey.Scope.CONNECTIONS_WRITE]
    if role.is_admin:
        scopes += [ApiKey.Scope.ADMIN_READ, ApiKey.Scope.ADMIN_WRITE]
    if role.oversees:
        scopes.append(ApiKey.Scope.AUDIT_READ)
    return [str(scope) for scope in scopes]


def can_disable_person(user: User, other: User) -> bool:
    """IT admins may disable or enable any account except their own; only a superuser may do so for a superuser."""
    return person(user).is_admin and user.pk != other.pk and (user.is_superuser or not other.is_superuser)


def can_disable(user: User, connection: Connection) -> bool:
    """Disable or delete the connection."""
    return connection.owner_id == user.pk or person(user).is_admin


def can_keep_disabled(user: User, connection: Connection) -> bool:
    """Turn a disabled connection into one disabled by an admin, so that its owner cannot enable it."""
    owner_can_enable = connection.status == Connection.Status.DISABLED and not connection.disabled_by_admin
    return owner_can_enable and person(user).is_admin and connection.owner_id != user.pk


def can_use_again(user: User, connection: Connection) -> bool:
    """Enable the connection in any way. If an IT admin has disabled it, only an IT admin may."""
    disabled_by_admin = connection.status == Connection.Status.DISABLED and connection.disabled_by_admin
    return person(user).is_admin or not disabled_by_admin


def can_enable(user: User, connection: Connection) -> bool:
    return can_disable(user, connection) and can_use_again(user, connection)


can_hand_over = can_enable


def allowed_actions(user: User, connection: Connection) -> dict[str, Any]:
    """Return the actions that the connection's page offers to this user."""
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
