"""What a user sees. Whatever is not in these querysets does not exist for them."""

from typing import TypeVar

from django.db import models
from django.db.models import Exists, OuterRef, Q, QuerySet

from connections.access.roles import person
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

_M = TypeVar("_M", bound=models.Model)


def _all_or_own(user: User, queryset: QuerySet[_M], own: Q) -> QuerySet[_M]:
    return queryset if person(user).oversees else queryset.filter(own)


def visible_connections(user: User) -> QuerySet[Connection]:
    """Own and shared connections; all for IT admins and auditors."""
    if person(user).oversees:
        return Connection.objects.select_related("app_registration__tenant", "owner")
    return usable_connections(user)


def shares_with(user: User) -> ShareQuerySet:
    """The active shares with this user and with their teams."""
    teams = TeamMember.objects.filter(user=user).values("team")
    return Share.objects.active().filter(Q(person=user) | Q(team__in=teams))


def usable_connections(user: User) -> QuerySet[Connection]:
    """Connections whose tokens this user may request: their own and those shared with them."""
    shared = shares_with(user).filter(connection=OuterRef("pk"))
    connections = Connection.objects.select_related("app_registration__tenant", "owner")
    return connections.filter(Q(owner=user) | Q(Exists(shared)))


def visible_teams(user: User) -> QuerySet[Team]:
    """All teams for everybody: people choose whom to share with."""
    person(user)
    return Team.objects.all()


def visible_people(user: User) -> QuerySet[User]:
    """All people for IT admins and auditors; none for others."""
    return User.objects.filter(kind=User.Kind.PERSON) if person(user).oversees else User.objects.none()


def people() -> QuerySet[User]:
    """People who can sign in to the portal."""
    return accounts().filter(kind=User.Kind.PERSON)


def accounts() -> QuerySet[User]:
    """Active people and service accounts: everything that can be shared with."""
    return User.objects.filter(is_active=True).order_by("first_name", "last_name", "username")


def visible_service_accounts(user: User) -> QuerySet[User]:
    """All service accounts for IT admins and auditors; for others those they are responsible for."""
    service_accounts = User.objects.filter(kind=User.Kind.SERVICE).select_related("responsible")
    return _all_or_own(user, service_accounts, Q(responsible=user))


def possible_owners() -> QuerySet[User]:
    """People a connection can be transferred to: active, not departed, and not only auditors."""
    auditors = User.objects.filter(groups__name=AUDITORS, is_superuser=False).exclude(groups__name=IT_ADMINS)
    return people().filter(left_at=None).exclude(pk__in=auditors.values("pk"))


def visible_tenants(user: User) -> QuerySet[Tenant]:
    """All tenants for everybody; permissions.can_read_registry guards their details."""
    person(user)
    return Tenant.objects.all()


def visible_app_registrations(user: User) -> QuerySet[AppRegistration]:
    """All app registrations for everybody: people choose one when connecting."""
    person(user)
    return AppRegistration.objects.select_related("tenant")


def visible_mailboxes(user: User) -> QuerySet[SharedMailbox]:
    person(user)
    return SharedMailbox.objects.select_related("tenant")


def visible_events(user: User) -> QuerySet[AuditEvent]:
    """The whole audit trail for IT admins and auditors; for others their own actions and objects."""
    return _all_or_own(user, AuditEvent.objects.all(), Q(owner_id=user.pk) | Q(actor=user))


def visible_incidents(user: User) -> QuerySet[Incident]:
    """All incidents for IT admins and auditors; for others those of connections they may use, and outages."""
    incidents = Incident.objects.select_related("app_registration", "assignee", "mailbox", "tenant")
    if person(user).oversees:
        return incidents
    affected = visible_affected(user).values("incident")
    others = incidents.exclude(kind=Incident.Kind.LEAVER)  # only IT admins and auditors learn who has left
    return others.filter(Q(pk__in=affected) | Q(assignee=user) | Q(kind=Incident.Kind.OUTAGE))


def visible_affected(user: User) -> QuerySet[AffectedConnection]:
    """Connections affected by incidents: all for IT admins and auditors; for others those they own or may use."""
    if person(user).oversees:
        return AffectedConnection.objects.all()
    shared = shares_with(user).values("connection")
    return AffectedConnection.objects.filter(Q(owner=user) | Q(connection__owner=user) | Q(connection__in=shared))


def visible_consent_requests(user: User) -> QuerySet[ConsentRequest]:
    """Own consent requests and those for own connections; all for IT admins and auditors."""
    requests = without_tokens(ConsentRequest.objects.select_related("app_registration", "connection"))
    return _all_or_own(user, requests, Q(requester=user) | Q(connection__owner=user))


def visible_approvals(user: User) -> QuerySet[Approval]:
    """Own approval requests and those for own connections; all for IT admins and auditors."""
    approvals = without_tokens(Approval.objects.select_related("connection", "requested_by__responsible"))
    return _all_or_own(user, approvals, Q(requested_by=user) | Q(connection__owner=user))


# Review items whose connection's owner cannot answer, so that an IT admin must.
OWNER_CANNOT_ANSWER = (
    Q(connection__owner__is_active=False)
    | Q(connection__owner__left_at__isnull=False)
    | Q(connection__owner__kind=User.Kind.SERVICE)
)


def visible_reviews(user: User) -> QuerySet[AccessReview]:
    """All access reviews for IT admins and auditors; for others those about connections they own, or owned then."""
    if person(user).oversees:
        return AccessReview.objects.all()
    # Two subqueries, each with an index; one condition with OR would read the items of every review.
    owned, assigned = ReviewItem.objects.filter(connection__owner=user), ReviewItem.objects.filter(owner=user)
    return AccessReview.objects.filter(Q(pk__in=owned.values("review")) | Q(pk__in=assigned.values("review")))


def review_items_of(user: User) -> QuerySet[ReviewItem]:
    """Items this user decides: of own connections; as IT admin (unless they use it) those whose owner cannot answer."""
    is_owner = Q(connection__owner=user)
    if not person(user).is_admin:
        return ReviewItem.objects.filter(is_owner)
    used = Share.objects.filter(Q(person=user) | Q(person__responsible=user) | Q(team__members=user))
    other_admins = it_admins().exclude(pk=user.pk).exclude(teams__shares=OuterRef("share"))
    may_decide = ~Exists(used.filter(pk=OuterRef("share"))) | ~Exists(other_admins)
    return ReviewItem.objects.filter(is_owner | OWNER_CANNOT_ANSWER & may_decide)


def it_admins() -> QuerySet[User]:
    """The active IT admins, superusers included."""
    admins = User.objects.filter(Q(groups__name=IT_ADMINS) | Q(is_superuser=True), is_active=True)
    return admins.filter(kind=User.Kind.PERSON).distinct()


def visible_channels(user: User) -> QuerySet[AlertChannel]:
    """The alert channels, without their secrets, for IT admins; none for others."""
    channels = AlertChannel.objects.defer("url", "signing_secret")
    return channels if person(user).is_admin else channels.none()


def visible_fetches(user: User) -> QuerySet[TokenFetch]:
    """All token requests for IT admins and auditors; for others those of their own connections and keys."""
    return _all_or_own(user, TokenFetch.objects.all(), Q(connection__owner=user) | Q(key__owner=user))


def history_of(user: User, target: models.Model) -> QuerySet[AuditEvent]:
    """The audit events of one object."""
    of_target = {"target_type": type(target).__name__, "target_id": str(target.pk)}
    if isinstance(target, Connection) and visible_connections(user).filter(pk=target.pk).exists():
        return AuditEvent.objects.filter(**of_target)
    return visible_events(user).filter(**of_target)


def visible_keys(user: User) -> QuerySet[ApiKey]:
    """Own API keys and those of service accounts the user is responsible for; all for IT admins and auditors."""
    return _all_or_own(user, ApiKey.objects.select_related("owner"), Q(owner=user) | Q(owner__responsible=user))
