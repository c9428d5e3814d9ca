"""What a user may do with the objects they can see. One function per action, named after it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from connections.access.querysets import memberships_of, shares_with
from connections.access.roles import person
from connections.models import (
    ApiKey,
    AppRegistration,
    Approval,
    AuditEvent,
    BulkAction,
    ChangeRequest,
    Connection,
    ConnectionReference,
    ConsentRequest,
    Share,
    SharedMailbox,
    Team,
    User,
)
from connections.models.accounts import IT_ADMINS
from connections.models.audit import AuditAction


def _is_admin(user: User) -> bool:
    return person(user).is_admin


def _oversees(user: User) -> bool:
    return person(user).oversees


# Only IT admins may do the following.
can_manage_registry = _is_admin  # add, change and remove tenants, app registrations and credentials; grant consent
can_manage_reviews = _is_admin  # start, schedule and cancel access reviews
can_manage_alerts = _is_admin  # see all deliveries, and manage the organisation's alert channels
can_change_policy = _is_admin
can_complete_setup = _is_admin  # confirm steps of the setup checklist, and dismiss it
can_connect_app_only = _is_admin  # create an app-only connection, which reaches the whole tenant
can_limit_key = _is_admin  # set the rate limit of a key
can_manage_service_accounts = _is_admin  # create, change and remove service accounts, and assign roles to them
can_manage_teams = _is_admin  # create teams and manage their members
can_manage_people = _is_admin  # disable and enable accounts, and transfer what a person owns

# IT admins and auditors may do the following.
can_read_registry = _oversees  # read details of tenants and app registrations (members see only names)
can_read_audit = _oversees
can_read_reviews = _oversees
can_read_policy = _oversees  # read every rule and its violations (members see a summary)
can_read_people = _oversees  # see who has an account, what they own, and who has left


def can_export_audit(user: User) -> bool:
    """Whether the user may export audit records and have the trail verified."""
    return person(user).is_auditor


def can_decide_approvals(user: User) -> bool:
    """Whether the user may decide requests. Only people may, because a service account acts for anyone with its key."""
    return person(user).is_admin and not user.is_service


def can_decide(user: User, approval: Approval) -> bool:
    """Whether the user may decide this request. Only IT admins who are not involved in it may.

    The following people are involved: the requester, anyone who requested approval for the connection before, its
    owner, and its owner at the time of the request. If the requester or the owner is a service account, so are the
    person responsible for it, and anyone who issued or rotated one of its keys or has changed the account since.
    """
    if not can_decide_approvals(user):
        return False
    requester, connection = approval.requested_by, approval.connection
    if requester is not None and _may_have_asked(user, requester, since=approval.requested_at):
        return False
    if connection is None:
        return True
    if (
        _may_act_as(user, connection.owner, since=approval.requested_at)
        or connection.approvals.filter(requested_by=user).exists()
    ):
        return False
    return not connection.hand_overs.filter(from_owner=user, at__gte=approval.requested_at).exists()


def can_decide_change(user: User, request: ChangeRequest) -> bool:
    """Whether the user may decide a change that the requester must not make alone.

    A second IT admin may and, except for changes of the policy, the connection's owner. Nobody decides their own
    request. A request from a service account also counts as their own if they are responsible for it or have had its
    key. Service accounts decide nothing.
    """
    if user.is_service or user.is_suspended or request.requested_by is None:
        return False
    if _may_have_asked(user, request.requested_by, since=request.requested_at):
        return False
    return person(user).is_admin or (_answers_for(user, request) and request.kind != ChangeRequest.Kind.POLICY)


def decides_as_owner(user: User, request: ChangeRequest) -> bool:
    """Whether the user, as the connection's owner, decides who gets access to it, even without being an IT admin."""
    return _answers_for(user, request) and request.is_about_sharing


def _answers_for(user: User, request: ChangeRequest) -> bool:
    return request.connection is not None and request.connection.owner.contact == user


def can_withdraw_change(user: User, request: ChangeRequest) -> bool:
    return request.requested_by_id == user.pk and not user.is_suspended


def is_own_access(actor: User, *, user: User | None = None, team: Team | None = None) -> bool:
    """Whether giving access to this person, service account or team would also give it to the actor.

    IT admins issue the keys of service accounts and choose the members of teams, so they gain any access given to
    those. A service account acts for the IT admins and for the person responsible for it.
    """
    is_admin = person(actor).is_admin
    if team is not None:
        own_teams = Q(members=actor) | Q(members__responsible=actor)
        return is_admin or Team.objects.filter(own_teams, pk=team.pk).exists()
    if user is None:
        return False
    if user.is_service:
        return is_admin or user.pk == actor.pk or user.responsible_id == actor.pk
    return user.pk == actor.pk or (actor.is_service and (actor.responsible_id == user.pk or person(user).is_admin))


def _may_have_asked(user: User, requester: User, *, since: datetime) -> bool:
    """Whether the requester is the user's own account, or a service account that may have acted for them.

    If nothing shows who has had the service account's keys, every user may be behind the request, except IT admins who
    have never changed the account.
    """
    if _may_act_as(user, requester, since=since):
        return True
    keys = requester.api_keys.all()
    if not requester.is_service or (keys.exists() and not keys.filter(issued_by=None).exists()):
        return False
    return not person(user).is_admin or _changes_of(requester).filter(actor=user).exists()


def _may_act_as(user: User, account: User, *, since: datetime) -> bool:
    """Whether the account is the user's own, or a service account that they are responsible for or may have used.

    This includes a service account whose key was issued by another service account of theirs.
    """
    reached: set[int] = set()
    waiting = [account]
    while waiting:
        current = waiting.pop()
        reached.add(current.pk)
        if current.is_service:
            waiting += User.objects.filter(pk__in=_behind(current, since=since) - reached)
    return user.pk in reached


def _behind(account: User, *, since: datetime) -> set[int]:
    """Return the ids of the people behind a service account.

    They are the person responsible for it, those who have had one of its secrets, and those who have changed it since.
    """
    had_secret = (AuditAction.API_KEY_ISSUED, AuditAction.API_KEY_ROTATED)
    ids = {
        account.responsible_id,
        *AuditEvent.objects.filter(action__in=had_secret, owner_id=account.pk).values_list("actor", flat=True),
        *_changes_of(account).filter(at__gte=since).values_list("actor", flat=True),
    }
    for issuer_and_rotator in account.api_keys.values_list("issued_by", "rotated_by"):
        ids.update(issuer_and_rotator)
    return {pk for pk in ids if pk is not None}


def _changes_of(account: User) -> QuerySet[AuditEvent]:
    return AuditEvent.objects.filter(
        target_type="User", target_id=str(account.pk), action=AuditAction.SERVICE_ACCOUNT_CHANGED
    )


def can_withdraw_approval(user: User, approval: Approval) -> bool:
    """Whether the user may withdraw the request: the owner may, and the requester while they may reconnect."""
    connection = approval.connection
    if connection is None or connection.owner_id == user.pk:
        return connection is not None or approval.requested_by_id == user.pk
    return approval.requested_by_id == user.pk and can_reconnect(user, connection)


def can_connect(user: User) -> bool:
    return not user.is_suspended and (not person(user).is_auditor or person(user).is_admin)


can_register_mailbox = can_connect
# Prepare and start bulk actions. The user also needs permission for each of the connections.
can_change_many = can_connect


def can_stop(user: User, bulk_action: BulkAction) -> bool:
    return (bulk_action.requested_by_id == user.pk and not user.is_suspended) or person(user).is_admin


def can_look_up_people(user: User) -> bool:
    """Whether the user may search for people and teams, to share a connection or transfer its ownership."""
    return person(user).oversees or can_connect(user)


def can_bring_app(user: User, *, members_may: bool) -> bool:
    """Whether the user may add an app registration while connecting.

    ``members_may`` says whether the policy lets members add one, too.
    """
    return person(user).is_admin or (members_may and can_connect(user))


def can_connect_through(user: User, app_registration: AppRegistration) -> bool:
    """Whether the user may create connections and sign in through this app registration.

    An app registration that a member added can be used by that member only.
    """
    return not app_registration.is_personal or app_registration.created_by_id == user.pk


def can_change_mailbox(user: User, mailbox: SharedMailbox) -> bool:
    return person(user).is_admin or (mailbox.created_by_id == user.pk and can_register_mailbox(user))


def owns(user: User, connection: Connection) -> bool:
    """Whether the user has the rights of the owner. They are suspended once the owner has left."""
    return connection.owner_id == user.pk and not user.is_suspended


def manages(user: User, connection: Connection) -> bool:
    """Whether the user owns the connection, or it is shared with them to manage."""
    if owns(user, connection):
        return True
    return shares_with(user).filter(connection=connection, level=Share.Level.MANAGE).exists()


def managed_among(user: User, connections: Iterable[Connection]) -> frozenset[int]:
    """Return the ids of the connections that the user ``manages``, with one query for all of them."""
    rows = list(connections)
    shared = shares_with(user).filter(connection__in=[row.pk for row in rows], level=Share.Level.MANAGE)
    return frozenset(row.pk for row in rows if owns(user, row)) | frozenset(shared.values_list("connection", flat=True))


def can_reconnect(user: User, connection: Connection) -> bool:
    """Whether the user may sign in again with the same account and change the name, capabilities and mailboxes."""
    if not connection.is_delegated and person(user).is_admin:
        return True
    return manages(user, connection)


can_ask_consent = can_reconnect  # request admin consent for the permissions that the connection needs


def can_withdraw_consent_request(user: User, request: ConsentRequest) -> bool:
    return request.requester_id == user.pk


def can_check(user: User, connection: Connection) -> bool:
    """Whether the user may test the connection with Microsoft."""
    return person(user).is_admin or manages(user, connection)


can_tag = can_check  # change the connection's tags
can_share = can_check  # share the connection, and change or remove its shares


def can_take_emergency_access(user: User, connection: Connection) -> bool:
    """Whether the user may use another person's connection for a few hours in an emergency.

    The connection's owner, the IT admins and the auditors are alerted.
    """
    return person(user).is_admin and not user.is_service and not can_fetch_token(user, connection)


def can_fetch_token(user: User, connection: Connection) -> bool:
    """Whether the user may request an access token: the owner and those the connection is shared with may.

    Being an IT admin is not enough.
    """
    return owns(user, connection) or shares_with(user).filter(connection=connection).exists()


def can_issue_key(user: User, owner: User) -> bool:
    """Whether the user may issue or rotate the owner's API keys.

    People may do so for themselves, and IT admins for service accounts.
    """
    return person(user).is_admin if owner.is_service else owner.pk == user.pk and not user.is_suspended


def can_revoke_key(user: User, key: ApiKey) -> bool:
    """Whether the user may revoke the API key.

    Its owner, the person responsible for the service account and IT admins may.
    """
    if user.is_suspended:
        return False
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


def sleeping_scopes(owner: User) -> frozenset[str]:
    """Return the scopes that the owner's keys cannot use at the moment, because the owner's roles need to be confirmed
    again.
    """
    sleeping = person(owner).sleeping_roles
    scopes = {ApiKey.Scope.ADMIN_READ, ApiKey.Scope.ADMIN_WRITE} if IT_ADMINS in sleeping else set()
    if sleeping:
        scopes.add(ApiKey.Scope.AUDIT_READ)
    return frozenset(map(str, scopes)) - frozenset(scopes_for(owner))


def can_disable_person(user: User, other: User) -> bool:
    """Whether the user may disable or enable the other account.

    IT admins may, except for their own account. Only a superuser may disable or enable a superuser.
    """
    return person(user).is_admin and user.pk != other.pk and (user.is_superuser or not other.is_superuser)


def can_disable(user: User, connection: Connection) -> bool:
    """Whether the user may disable or delete the connection."""
    return owns(user, connection) or person(user).is_admin


def can_keep_disabled(user: User, connection: Connection) -> bool:
    """Whether the user may mark a disabled connection as disabled by an admin, so that its owner cannot enable it."""
    owner_can_enable = connection.status == Connection.Status.DISABLED and not connection.disabled_by_admin
    return owner_can_enable and person(user).is_admin and connection.owner_id != user.pk


def can_use_again(user: User, connection: Connection) -> bool:
    """Whether the user may enable the connection, also by signing in. Only IT admins may if an IT admin disabled it."""
    disabled_by_admin = connection.status == Connection.Status.DISABLED and connection.disabled_by_admin
    return person(user).is_admin or not (disabled_by_admin or user.is_suspended)


def can_enable(user: User, connection: Connection) -> bool:
    return can_disable(user, connection) and can_use_again(user, connection)


can_hand_over = can_enable


def can_point_at(user: User, connection: Connection) -> bool:
    """Whether the user may point a reference at the connection, which needs permission to use or share the connection.

    The reference gives nobody access.
    """
    return can_fetch_token(user, connection) or can_share(user, connection)


can_create_reference = can_connect


def can_own_reference(user: User, reference: ConnectionReference) -> bool:
    """Whether the user may remove the reference or choose who may change its target.

    Default references belong to one person and are never managed by IT admins.
    """
    is_owner = reference.owner_id == user.pk and not user.is_suspended
    return is_owner or (person(user).is_admin and not reference.is_default)


def can_point_reference(user: User, reference: ConnectionReference) -> bool:
    """Whether the user may point the reference at another connection: owner, team members and IT admins may."""
    if can_own_reference(user, reference):
        return True
    return reference.team_id is not None and memberships_of(user).filter(team=reference.team_id).exists()


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
        "tag": can_tag(user, connection),
    }
