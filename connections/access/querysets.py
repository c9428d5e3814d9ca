"""What a user can see. For them, anything that is not in these querysets does not exist."""

from typing import TypeVar

from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from connections import models
from connections.access.roles import person
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.connections import without_tokens
from connections.models.sharing import ShareQuerySet

_M = TypeVar("_M", bound=Model)


def _all_or_own(user: models.User, queryset: QuerySet[_M], own: Q) -> QuerySet[_M]:
    """Return everything for IT admins and auditors, and the rows that match ``own`` for everyone else."""
    return queryset if person(user).oversees else queryset.filter(own)


def visible_connections(user: models.User) -> QuerySet[models.Connection]:
    """Users see connections they own or that are shared with them; IT admins and auditors see all."""
    if person(user).oversees:
        return models.Connection.objects.select_related("app_registration__tenant", "owner")
    return usable_connections(user)


def shares_with(user: models.User) -> ShareQuerySet:
    """Return the active shares with this user and with their teams."""
    teams = models.TeamMember.objects.filter(user=user).values("team")
    return models.Share.objects.active().filter(Q(person=user) | Q(team__in=teams))


def usable_connections(user: models.User) -> QuerySet[models.Connection]:
    """Return the connections whose tokens this user may request: their own and those shared with them."""
    shared = shares_with(user).filter(connection=OuterRef("pk"))
    connections = models.Connection.objects.select_related("app_registration__tenant", "owner")
    return connections.filter(Q(owner=user) | Q(Exists(shared)))


def visible_teams(user: models.User) -> QuerySet[models.Team]:
    """Everyone sees all teams, because people choose whom to share with."""
    person(user)
    return models.Team.objects.all()


def visible_people(user: models.User) -> QuerySet[models.User]:
    """IT admins and auditors see all people; others see none."""
    return (
        models.User.objects.filter(kind=models.User.Kind.PERSON)
        if person(user).oversees
        else models.User.objects.none()
    )


def people() -> QuerySet[models.User]:
    """Return the people who can sign in to the portal."""
    return accounts().filter(kind=models.User.Kind.PERSON)


def accounts() -> QuerySet[models.User]:
    """Return active people and service accounts: everyone with whom a connection can be shared."""
    return models.User.objects.filter(is_active=True).order_by("first_name", "last_name", "username")


def visible_service_accounts(user: models.User) -> QuerySet[models.User]:
    """IT admins and auditors see all service accounts; others see those they are responsible for."""
    service_accounts = models.User.objects.filter(kind=models.User.Kind.SERVICE).select_related("responsible")
    return _all_or_own(user, service_accounts, Q(responsible=user))


def possible_owners() -> QuerySet[models.User]:
    """Return the people who can become a connection's owner: active, not departed, and not only auditors."""
    auditors = models.User.objects.filter(groups__name=AUDITORS, is_superuser=False).exclude(groups__name=IT_ADMINS)
    return people().filter(left_at=None).exclude(pk__in=auditors.values("pk"))


def visible_tenants(user: models.User) -> QuerySet[models.Tenant]:
    """Everyone sees all tenants; permissions.can_read_registry protects their details."""
    person(user)
    return models.Tenant.objects.all()


def visible_app_registrations(user: models.User) -> QuerySet[models.AppRegistration]:
    """Everyone sees all app registrations, because people choose one when connecting."""
    person(user)
    return models.AppRegistration.objects.select_related("tenant")


def visible_mailboxes(user: models.User) -> QuerySet[models.SharedMailbox]:
    person(user)
    return models.SharedMailbox.objects.select_related("tenant")


def visible_events(user: models.User) -> QuerySet[models.AuditEvent]:
    """IT admins and auditors see the whole audit trail; others see their own actions and objects."""
    return _all_or_own(user, models.AuditEvent.objects.all(), Q(owner_id=user.pk) | Q(actor=user))


def visible_incidents(user: models.User) -> QuerySet[models.Incident]:
    """IT admins and auditors see all incidents; others see outages and incidents of connections they may use."""
    incidents = models.Incident.objects.select_related("app_registration", "assignee", "mailbox", "tenant")
    if person(user).oversees:
        return incidents
    affected = visible_affected(user).values("incident")
    others = incidents.exclude(kind=models.Incident.Kind.LEAVER)  # only IT admins and auditors may learn who has left
    return others.filter(Q(pk__in=affected) | Q(assignee=user) | Q(kind=models.Incident.Kind.OUTAGE))


def visible_affected(user: models.User) -> QuerySet[models.AffectedConnection]:
    """IT admins and auditors see all connections affected by incidents; others those they own or may use."""
    if person(user).oversees:
        return models.AffectedConnection.objects.all()
    shared = shares_with(user).values("connection")
    return models.AffectedConnection.objects.filter(
        Q(owner=user) | Q(connection__owner=user) | Q(connection__in=shared)
    )


def visible_consent_requests(user: models.User) -> QuerySet[models.ConsentRequest]:
    """Users see consent requests they made or that concern their connections; IT admins and auditors see all."""
    requests = without_tokens(models.ConsentRequest.objects.select_related("app_registration", "connection"))
    return _all_or_own(user, requests, Q(requester=user) | Q(connection__owner=user))


def visible_approvals(user: models.User) -> QuerySet[models.Approval]:
    """Users see approval requests they made or that concern their connections; IT admins and auditors see all."""
    approvals = without_tokens(models.Approval.objects.select_related("connection", "requested_by__responsible"))
    return _all_or_own(user, approvals, Q(requested_by=user) | Q(connection__owner=user))


# Review items that an IT admin must decide, because the connection's owner cannot.
OWNER_CANNOT_ANSWER = (
    Q(connection__owner__is_active=False)
    | Q(connection__owner__left_at__isnull=False)
    | Q(connection__owner__kind=models.User.Kind.SERVICE)
)


def visible_reviews(user: models.User) -> QuerySet[models.AccessReview]:
    """IT admins and auditors see all access reviews; others see those of connections they own, or owned at the time."""
    if person(user).oversees:
        return models.AccessReview.objects.all()
    # Two subqueries, each with an index: a single condition with OR would read the items of every review.
    owned, assigned = (
        models.ReviewItem.objects.filter(connection__owner=user),
        models.ReviewItem.objects.filter(owner=user),
    )
    return models.AccessReview.objects.filter(Q(pk__in=owned.values("review")) | Q(pk__in=assigned.values("review")))


def review_items_of(user: models.User) -> QuerySet[models.ReviewItem]:
    """Return the shares this user must review: those of their connections, and for IT admins also those whose owner cannot.

    An IT admin does not decide a share that they use themselves, unless every IT admin uses it.
    """
    is_owner = Q(connection__owner=user)
    if not person(user).is_admin:
        return models.ReviewItem.objects.filter(is_owner)
    used = models.Share.objects.filter(Q(person=user) | Q(person__responsible=user) | Q(team__members=user))
    other_admins = it_admins().exclude(pk=user.pk).exclude(teams__shares=OuterRef("share"))
    may_decide = ~Exists(used.filter(pk=OuterRef("share"))) | ~Exists(other_admins)
    return models.ReviewItem.objects.filter(is_owner | OWNER_CANNOT_ANSWER & may_decide)


def it_admins() -> QuerySet[models.User]:
    """Return the active IT admins, including superusers."""
    admins = models.User.objects.filter(Q(groups__name=IT_ADMINS) | Q(is_superuser=True), is_active=True)
    return admins.filter(kind=models.User.Kind.PERSON).distinct()


def visible_channels(user: models.User) -> QuerySet[models.AlertChannel]:
    """IT admins see the alert channels, without their secrets; others see none."""
    channels = models.AlertChannel.objects.defer("url", "signing_secret")
    return channels if person(user).is_admin else channels.none()


def visible_fetches(user: models.User) -> QuerySet[models.TokenFetch]:
    """IT admins and auditors see all token requests; others see those of their own connections and keys."""
    return _all_or_own(user, models.TokenFetch.objects.all(), Q(connection__owner=user) | Q(key__owner=user))


def history_of(user: models.User, target: Model) -> QuerySet[models.AuditEvent]:
    of_target = {"target_type": type(target).__name__, "target_id": str(target.pk)}
    if isinstance(target, models.Connection) and visible_connections(user).filter(pk=target.pk).exists():
        return models.AuditEvent.objects.filter(**of_target)
    return visible_events(user).filter(**of_target)


def visible_keys(user: models.User) -> QuerySet[models.ApiKey]:
    """Users see their own API keys and those of their service accounts; IT admins and auditors see all."""
    return _all_or_own(user, models.ApiKey.objects.select_related("owner"), Q(owner=user) | Q(owner__responsible=user))
