"""What one sees. What is not in these querysets does not exist for this person."""

from __future__ import annotations

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


def visible_connections(user: User) -> QuerySet[Connection]:
    """Connections this person may know about: their own and shared ones; all for IT admins and auditors."""
    connections = Connection.objects.select_related("app_registration__tenant", "owner")
    if person(user).oversees:
        return connections
    return connections.filter(Q(owner=user) | Q(Exists(shares_with(user).filter(connection=OuterRef("pk")))))


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
    return User.objects.filter(kind=User.Kind.PERSON) if person(user).oversees else User.objects.none()


def people() -> QuerySet[User]:
    """Everybody who can sign in to the portal."""
    return accounts().filter(kind=User.Kind.PERSON)


def accounts() -> QuerySet[User]:
    """Everybody and everything that can be shared with: people and service accounts."""
    return User.objects.filter(is_active=True).order_by("first_name", "last_name", "username")


def visible_service_accounts(user: User) -> QuerySet[User]:
    """Service accounts: all for IT admins and auditors; for others those they are responsible for."""
    people = User.objects.filter(kind=User.Kind.SERVICE).select_related("responsible")
    return people if person(user).oversees else people.filter(responsible=user)


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
    if person(user).oversees:
        return AuditEvent.objects.all()
    return AuditEvent.objects.filter(Q(owner_id=user.pk) | Q(actor=user))


def visible_incidents(user: User) -> QuerySet[Incident]:
    """Incidents: all for IT admins and auditors; for others those that hit connections they may use, and outages."""
    incidents = Incident.objects.select_related("app_registration", "assignee", "mailbox", "tenant")
    if person(user).oversees:
        return incidents
    mine = visible_affected(user).values("incident")
    others = incidents.exclude(kind=Incident.Kind.LEAVER)  # who has left is told to IT admins and auditors
    return others.filter(Q(pk__in=mine) | Q(assignee=user) | Q(kind=Incident.Kind.OUTAGE))


def visible_affected(user: User) -> QuerySet[AffectedConnection]:
    """Who and what incidents hit: all for IT admins and auditors; connections one owns or may use for others."""
    if person(user).oversees:
        return AffectedConnection.objects.all()
    shared = shares_with(user).values("connection")
    return AffectedConnection.objects.filter(Q(owner=user) | Q(connection__owner=user) | Q(connection__in=shared))


def visible_consent_requests(user: User) -> QuerySet[ConsentRequest]:
    """Consent requests: one's own and those for one's connections; all for IT admins and auditors."""
    found = without_tokens(ConsentRequest.objects.select_related("app_registration", "connection"))
    if person(user).oversees:
        return found
    return found.filter(Q(requester=user) | Q(connection__owner=user))


def visible_approvals(user: User) -> QuerySet[Approval]:
    """Requests for approval: all for IT admins and auditors; for others what they asked and what is about their own."""
    found = without_tokens(Approval.objects.select_related("connection", "requested_by__responsible"))
    if person(user).oversees:
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
    if person(user).oversees:
        return AccessReview.objects.all()
    # Each found by its index: asked for both at once, every review's items are read.
    mine, asked = ReviewItem.objects.filter(connection__owner=user), ReviewItem.objects.filter(owner=user)
    return AccessReview.objects.filter(Q(pk__in=mine.values("review")) | Q(pk__in=asked.values("review")))


def review_items_of(user: User) -> QuerySet[ReviewItem]:
    """What this person answers in reviews: shares of their connections; for IT admins also those of who has left, or never signs in.

    A share that an IT admin has a part in is not theirs to answer, as long as there is one who has none.
    """
    mine = Q(connection__owner=user)
    if not person(user).is_admin:
        return ReviewItem.objects.filter(mine)
    used = Share.objects.filter(Q(person=user) | Q(person__responsible=user) | Q(team__members=user))
    others = it_admins().exclude(pk=user.pk).exclude(teams__shares=OuterRef("share"))
    free = ~Exists(used.filter(pk=OuterRef("share"))) | ~Exists(others)
    return ReviewItem.objects.filter(mine | OWNER_CANNOT_ANSWER & free)


def it_admins() -> QuerySet[User]:
    """Everybody who is an IT admin: what the portal asks of "an IT admin" is asked of these."""
    admins = User.objects.filter(Q(groups__name=IT_ADMINS) | Q(is_superuser=True), is_active=True)
    return admins.filter(kind=User.Kind.PERSON).distinct()


def visible_channels(user: User) -> QuerySet[AlertChannel]:
    """The organisation's alert channels, without their secrets: for those who manage them."""
    channels = AlertChannel.objects.defer("url", "signing_secret")
    return channels if person(user).is_admin else channels.none()


def visible_fetches(user: User) -> QuerySet[TokenFetch]:
    """Token hand-outs: all for IT admins and auditors, those of one's own connections and keys for others."""
    if person(user).oversees:
        return TokenFetch.objects.all()
    return TokenFetch.objects.filter(Q(connection__owner=user) | Q(key__owner=user))


def history_of(user: User, target: models.Model) -> QuerySet[AuditEvent]:
    """The events of one object that this person may already see as such."""
    of_target = {"target_type": type(target).__name__, "target_id": str(target.pk)}
    if isinstance(target, Connection) and visible_connections(user).filter(pk=target.pk).exists():
        return AuditEvent.objects.filter(**of_target)
    return visible_events(user).filter(**of_target)


def visible_keys(user: User) -> QuerySet[ApiKey]:
    """API keys: one's own and those of service accounts one is responsible for; all for IT admins and auditors."""
    keys = ApiKey.objects.select_related("owner")
    if person(user).oversees:
        return keys
    return keys.filter(Q(owner=user) | Q(owner__responsible=user))
