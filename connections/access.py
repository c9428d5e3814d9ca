"""The whole permission policy. Pages, API and services ask here, and nothing else decides.

Not visible means "does not exist" (404); visible but not allowed is NotAllowed (403).
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import cached_property
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Exists, OuterRef, Q, QuerySet

from connections.errors import NotAllowed
from connections.models import (
    AccessReview,
    AffectedConnection,
    AlertChannel,
    ApiKey,
    AppRegistration,
    Approval,
    AuditEvent,
    Connection,
    ConsentRequest,
    Incident,
    ReviewItem,
    Share,
    SharedMailbox,
    Team,
    TeamMember,
    Tenant,
    TokenFetch,
    User,
)
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.connections import without_tokens
from connections.models.sharing import ShareQuerySet

# What was denied during this request. Written down at its end, outside of the work that was refused, even if the
# view told the person in words of its own. Outside of requests nobody reads it.
denied: ContextVar[list[NotAllowed]] = ContextVar("access_denied")


class Person:
    """What a signed-in user is to the portal. Roles are read from the database once per request."""

    def __init__(self, user: User) -> None:
        self.user = user

    @cached_property
    def _groups(self) -> frozenset[str]:
        return frozenset(self.user.groups.values_list("name", flat=True))

    @property
    def is_admin(self) -> bool:
        """IT admin; a superuser is one by definition (break-glass)."""
        return self.user.is_active and (self.user.is_superuser or IT_ADMINS in self._groups)

    @property
    def is_auditor(self) -> bool:
        """Auditor."""
        return self.user.is_active and AUDITORS in self._groups

    @property
    def role(self) -> str:
        """The role in words, the most powerful one first."""
        return "IT admin" if self.is_admin else "Auditor" if self.is_auditor else "Member"


def signed_in(user: Any) -> User:
    """The signed-in user of a request. Raises NotAllowed for anybody else."""
    if not isinstance(user, User):
        raise NotAllowed("You are not signed in.", action="Sign in first.")
    return user


def person(user: User | AnonymousUser) -> Person:
    """The Person behind a user; kept on the user object so that roles are read once."""
    user = signed_in(user)
    found: Person | None = user.__dict__.get("_portal_person")
    if found is None:
        found = user.__dict__["_portal_person"] = Person(user)
    return found


# --- What one sees --------------------------------------------------------------------------------


def visible_connections(user: User) -> QuerySet[Connection]:
    """Connections this person may know about: their own and shared ones; all for IT admins and auditors."""
    found = Connection.objects.select_related("app_registration__tenant", "owner")
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return found
    return found.filter(Q(owner=user) | Q(Exists(shares_with(user).filter(connection=OuterRef("pk")))))


def shares_with(user: User) -> ShareQuerySet:
    """The shares that count for this person just now, their own and those of their teams."""
    mine = TeamMember.objects.filter(user=user).values("team")
    return Share.objects.active().filter(Q(person=user) | Q(team__in=mine))


def usable_connections(user: User) -> QuerySet[Connection]:
    """Connections whose tokens this person may fetch: their own and those shared with them."""
    shared = shares_with(user).filter(connection=OuterRef("pk"))
    return Connection.objects.select_related("app_registration__tenant", "owner").filter(
        Q(owner=user) | Q(Exists(shared))
    )


def visible_teams(user: User) -> QuerySet[Team]:
    """Every person may read teams' names and members: they choose whom to share with."""
    person(user)
    return Team.objects.all()


def visible_people(user: User) -> QuerySet[User]:
    """Accounts: all for IT admins and auditors, nobody's page for others."""
    return User.objects.filter(kind=User.Kind.PERSON) if can_read_people(user) else User.objects.none()


def people() -> QuerySet[User]:
    """Everybody who can sign in to the portal."""
    return accounts().filter(kind=User.Kind.PERSON)


def accounts() -> QuerySet[User]:
    """Everybody and everything that can be shared with: people and service accounts."""
    return User.objects.filter(is_active=True).order_by("first_name", "last_name", "username")


def visible_service_accounts(user: User) -> QuerySet[User]:
    """Service accounts: all for IT admins and auditors; for others those they are responsible for."""
    found = User.objects.filter(kind=User.Kind.SERVICE).select_related("responsible")
    return found if can_read_registry(user) else found.filter(responsible=user)


def possible_owners() -> QuerySet[User]:
    """Everybody a connection can be handed over to: active, not leaving, and more than an auditor."""
    only_look = Q(groups__name=AUDITORS) & ~Q(is_superuser=True)
    auditors = User.objects.filter(only_look).exclude(groups__name=IT_ADMINS)
    return people().filter(left_at=None).exclude(pk__in=auditors.values("pk"))


def visible_tenants(user: User) -> QuerySet[Tenant]:
    """Every person may read tenants' names."""
    person(user)
    return Tenant.objects.all()


def visible_app_registrations(user: User) -> QuerySet[AppRegistration]:
    """Every person may read app registrations' names (they choose one when connecting)."""
    person(user)
    return AppRegistration.objects.select_related("tenant")


def visible_mailboxes(user: User) -> QuerySet[SharedMailbox]:
    """Every person may read shared mailboxes' addresses."""
    person(user)
    return SharedMailbox.objects.select_related("tenant")


def visible_events(user: User) -> QuerySet[AuditEvent]:
    """The audit trail: all of it for IT admins and auditors, that of one's own objects for others."""
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return AuditEvent.objects.all()
    return AuditEvent.objects.filter(Q(owner_id=user.pk) | Q(actor=user))


def visible_incidents(user: User) -> QuerySet[Incident]:
    """Incidents: all for IT admins and auditors; for others those that hit connections they may use, and outages."""
    found = Incident.objects.select_related("app_registration", "assignee", "mailbox", "tenant")
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return found
    mine = visible_affected(user).values("incident")
    others = found.exclude(kind=Incident.Kind.LEAVER)  # who has left is told to IT admins and auditors
    return others.filter(Q(pk__in=mine) | Q(assignee=user) | Q(kind=Incident.Kind.OUTAGE))


def visible_affected(user: User) -> QuerySet[AffectedConnection]:
    """Who and what incidents hit: all for IT admins and auditors; connections one owns or may use for others."""
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return AffectedConnection.objects.all()
    shared = shares_with(user).values("connection")
    return AffectedConnection.objects.filter(Q(owner=user) | Q(connection__owner=user) | Q(connection__in=shared))


def visible_consent_requests(user: User) -> QuerySet[ConsentRequest]:
    """Consent requests: one's own and those for one's connections; all for IT admins and auditors."""
    found = without_tokens(ConsentRequest.objects.select_related("app_registration", "connection"))
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return found
    return found.filter(Q(requester=user) | Q(connection__owner=user))


def visible_approvals(user: User) -> QuerySet[Approval]:
    """Requests for approval: all for IT admins and auditors; for others what they asked and what is about their own."""
    found = without_tokens(Approval.objects.select_related("connection", "requested_by__responsible"))
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return found
    return found.filter(Q(requested_by=user) | Q(connection__owner=user))


# Of review items: nobody but an IT admin can answer for the connection.
OWNER_CANNOT_ANSWER = (
    Q(connection__owner__is_active=False)
    | Q(connection__owner__left_at__isnull=False)
    | Q(connection__owner__kind=User.Kind.SERVICE)
)


def visible_reviews(user: User) -> QuerySet[AccessReview]:
    """Access reviews: all for IT admins and auditors; for others those that ask, or asked, about their connections."""
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return AccessReview.objects.all()
    mine = ReviewItem.objects.filter(Q(connection__owner=user) | Q(owner=user), review=OuterRef("pk"))
    return AccessReview.objects.filter(Exists(mine))


def review_items_of(user: User) -> QuerySet[ReviewItem]:
    """What this person answers in reviews: shares of their connections; for IT admins also those of who has left, or never signs in."""
    mine = Q(connection__owner=user)
    return ReviewItem.objects.filter(mine | OWNER_CANNOT_ANSWER if person(user).is_admin else mine)


def it_admins() -> QuerySet[User]:
    """Everybody who is an IT admin: what the portal asks of "an IT admin" is asked of these."""
    admins = User.objects.filter(Q(groups__name=IT_ADMINS) | Q(is_superuser=True), is_active=True)
    return admins.filter(kind=User.Kind.PERSON).distinct()


def visible_channels(user: User) -> QuerySet[AlertChannel]:
    """The organisation's alert channels, without their secrets: for those who manage them."""
    found = AlertChannel.objects.defer("url", "signing_secret")
    return found if can_manage_alerts(user) else found.none()


def visible_fetches(user: User) -> QuerySet[TokenFetch]:
    """Token hand-outs: all for IT admins and auditors, those of one's own connections and keys for others."""
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return TokenFetch.objects.all()
    return TokenFetch.objects.filter(Q(connection__owner=user) | Q(key__owner=user))


def history_of(user: User, target: models.Model) -> QuerySet[AuditEvent]:
    """The events of one object that this person may already see as such."""
    of_target = {"target_type": type(target).__name__, "target_id": str(target.pk)}
    if isinstance(target, Connection) and visible_connections(user).filter(pk=target.pk).exists():
        return AuditEvent.objects.filter(**of_target)
    return visible_events(user).filter(**of_target)


# --- What one may do ------------------------------------------------------------------------------


def can_manage_registry(user: User) -> bool:
    """Add, change and remove tenants, app registrations and credentials; grant consent."""
    return person(user).is_admin


def can_read_registry(user: User) -> bool:
    """Read details of tenants and app registrations (members read only names)."""
    return person(user).is_admin or person(user).is_auditor


def can_read_audit(user: User) -> bool:
    """Open the audit pages."""
    return person(user).is_admin or person(user).is_auditor


def can_export_audit(user: User) -> bool:
    """Take records away as a file, and have the trail verified."""
    return person(user).is_auditor


def can_manage_reviews(user: User) -> bool:
    """Start, plan and cancel access reviews."""
    return person(user).is_admin


def can_read_reviews(user: User) -> bool:
    """Read and export the report of an access review."""
    return person(user).is_admin or person(user).is_auditor


def can_manage_alerts(user: User) -> bool:
    """See what was delivered to whom, and manage the organisation's alert channels."""
    return person(user).is_admin


def can_change_policy(user: User) -> bool:
    """Make the rules of the organisation and of app registrations."""
    return person(user).is_admin


def can_read_policy(user: User) -> bool:
    """Read every rule and what breaks it; members read a summary."""
    return person(user).is_admin or person(user).is_auditor


def can_decide_approvals(user: User) -> bool:
    """Approve or decline what others ask: a person must, as a service account does what its maker wants."""
    return person(user).is_admin and not user.is_service


def can_decide(user: User, approval: Approval) -> bool:
    """Answer this request: an IT admin who has no part in it.

    Whoever asked has, also if another has asked anew since, whoever owns the connection, and, where a service account
    asked, whoever is responsible for it, has had the secret of a key of it, or has changed the account since.
    """
    if not can_decide_approvals(user):
        return False
    asked, connection = approval.requested_by, approval.connection
    if asked is not None and (user in (asked, asked.contact) or (asked.is_service and _acts_as(user, asked, approval))):
        return False
    if connection is None:
        return True
    return connection.owner_id != user.pk and not connection.approvals.filter(requested_by=user).exists()


def _acts_as(user: User, account: User, approval: Approval) -> bool:
    """Whether a service account may have asked in this person's place."""
    done = AuditEvent.objects.filter(actor=user)
    held = Q(action__in=("api_key.issued", "api_key.rotated"), owner_id=account.pk)
    changed = Q(target_type="User", target_id=str(account.pk), action="service_account.changed")
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


def visible_keys(user: User) -> QuerySet[ApiKey]:
    """API keys: one's own and those of service accounts one is responsible for; all for IT admins and auditors."""
    found = ApiKey.objects.select_related("owner")
    asking = person(user)
    if asking.is_admin or asking.is_auditor:
        return found
    return found.filter(Q(owner=user) | Q(owner__responsible=user))


def scopes_for(owner: User) -> list[str]:
    """What keys of this owner may be for; a scope alone allows nothing that its owner may not do."""
    role = person(owner)
    found = [ApiKey.Scope.TOKEN_READ, ApiKey.Scope.CONNECTIONS_READ, ApiKey.Scope.CONNECTIONS_WRITE]
    if role.is_admin:
        found += [ApiKey.Scope.ADMIN_READ, ApiKey.Scope.ADMIN_WRITE]
    if role.is_admin or role.is_auditor:
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
    return person(user).is_admin or person(user).is_auditor


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


def require(allowed: bool, *, cause: str = "", action: str = "") -> None:
    """Raise NotAllowed unless ``allowed``."""
    if not allowed:
        error = NotAllowed(cause, action=action)
        note_denied(error)
        raise error


def note_denied(error: NotAllowed) -> None:
    """Have the denial recorded when the request is over; a second time for the same error changes nothing."""
    found = denied.get([])
    if not any(error is one for one in found):
        found.append(error)


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
