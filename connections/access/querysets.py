"""What a user can see. To the user, objects outside of these querysets do not exist."""

from typing import Any, TypeVar

from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from connections import models
from connections.access.roles import is_recent, person
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.connections import without_tokens
from connections.models.sharing import ShareQuerySet

_M = TypeVar("_M", bound=Model)


def _all_or_own(user: models.User, queryset: QuerySet[_M], *own: Q) -> QuerySet[_M]:
    """Return everything for IT admins and auditors, and the rows that match one of ``own`` for everyone else."""
    if user.is_suspended:
        return queryset.none()
    return queryset if person(user).oversees else any_of(queryset, *own)


def any_of(queryset: QuerySet[_M], *conditions: Q) -> QuerySet[_M]:
    """Return the rows that match one of the conditions, as a UNION of their ids.

    Each part then uses its own index. With OR, the database would test every row of the table.
    """
    if len(conditions) == 1:
        return queryset.filter(*conditions)
    manager = queryset.model._base_manager
    first, *others = (manager.filter(condition).order_by().values("pk") for condition in conditions)
    return queryset.filter(pk__in=first.union(*others))


def visible_connections(user: models.User) -> QuerySet[models.Connection]:
    """Users see connections they own or that are shared with them; IT admins and auditors see all."""
    if person(user).oversees:
        return models.Connection.objects.with_related()
    return usable_connections(user)


def shares_with(user: models.User) -> ShareQuerySet:
    """Return the active shares with this user and with their teams; none while the user is suspended.

    Shares with a team that follows an Entra group are included only if Entra has confirmed the user's groups recently.
    """
    if user.is_suspended:
        return models.Share.objects.none()
    of_team = Q(team__in=memberships_of(user).values("team"))
    return any_of(models.Share.objects.active(), Q(person=user, ended_at=None), of_team & Q(ended_at=None))  # type: ignore[return-value]


def memberships_of(user: models.User) -> QuerySet[models.TeamMember]:
    """Return the user's valid team memberships; none while the user is suspended.

    Memberships in teams that follow an Entra group are valid only if Entra has confirmed the user's groups recently.
    """
    memberships = models.TeamMember.objects.filter(user=user)
    if user.is_suspended:
        return memberships.none()
    return memberships if is_recent(user.groups_read_at) else memberships.filter(team__entra_group="")


def visible_bulk_actions(user: models.User) -> QuerySet[models.BulkAction]:
    """Users see the bulk actions they prepared; IT admins and auditors also see all that were started."""
    own = Q(requested_by=user)
    if person(user).oversees:
        own |= ~Q(state=models.BulkAction.State.DRAFT)
    return models.BulkAction.objects.filter(own).select_related("requested_by")


def visible_references(user: models.User) -> QuerySet[models.ConnectionReference]:
    """Users see references they own, may change or can use the connection of; IT admins and auditors see all.

    Only IT admins and auditors see the default references of other people.
    """
    references = models.ConnectionReference.objects.filter(removed_at=None).select_related("owner", "team")
    references = without_tokens(references.select_related("connection__owner"))
    of_team = Q(team__in=memberships_of(user).values("team"))
    usable = Q(connection__in=usable_connections(user).order_by().values("pk"))
    return _all_or_own(user, references, Q(owner=user), Q(connector="") & of_team, Q(connector="") & usable)


def referenced_by(user: models.User, name: str) -> QuerySet[models.ConnectionReference]:
    """Return the references that this name can mean for the user: organisation-wide ones and the user's own default."""
    return models.ConnectionReference.objects.filter(Q(connector="") | Q(owner=user), name=name, removed_at=None)


def usable_connections(user: models.User) -> QuerySet[models.Connection]:
    """Return the connections whose tokens this user may request: their own and those shared with them."""
    connections = models.Connection.objects.with_related()
    if user.is_suspended:
        return connections.none()
    return any_of(connections, Q(owner=user), Q(pk__in=shares_with(user).order_by().values("connection")))


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
    """Return the people and service accounts with whom a connection can be shared: active, and not departed."""
    return models.User.objects.filter(is_active=True, left_at=None).order_by("first_name", "last_name", "username")


def visible_service_accounts(user: models.User) -> QuerySet[models.User]:
    """IT admins and auditors see all service accounts; others see those they are responsible for."""
    service_accounts = models.User.objects.filter(kind=models.User.Kind.SERVICE).select_related("responsible")
    return _all_or_own(user, service_accounts, Q(responsible=user))


def possible_owners() -> QuerySet[models.User]:
    """Return the people who can become a connection's owner: those who can sign in and are not only auditors."""
    auditors = models.User.objects.filter(groups__name=AUDITORS, is_superuser=False).exclude(groups__name=IT_ADMINS)
    return people().exclude(pk__in=auditors.values("pk"))


def visible_tenants(user: models.User) -> QuerySet[models.Tenant]:
    """Everyone sees all tenants; permissions.can_read_registry protects their details."""
    person(user)
    return models.Tenant.objects.all()


def visible_app_registrations(user: models.User) -> QuerySet[models.AppRegistration]:
    """Everyone sees all app registrations, because people choose one when connecting."""
    person(user)
    return models.AppRegistration.objects.select_related("tenant")


def connectable_app_registrations(user: models.User) -> QuerySet[models.AppRegistration]:
    """Return the app registrations through which the user can create connections, if the policy allows it."""
    apps = visible_app_registrations(user).filter(Q(is_personal=False) | Q(created_by=user))
    return apps if person(user).is_admin else apps.filter(allows_delegated=True)


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
    # Only IT admins and auditors may learn who has left, and that the audit trail was altered.
    others = incidents.exclude(kind__in=(models.Incident.Kind.LEAVER, models.Incident.Kind.AUDIT_TRAIL))
    return any_of(others, Q(pk__in=affected), Q(assignee=user), Q(kind=models.Incident.Kind.OUTAGE))


def visible_affected(user: models.User) -> QuerySet[models.AffectedConnection]:
    """IT admins and auditors see all connections affected by incidents; others those they own or may use."""
    if person(user).oversees:
        return models.AffectedConnection.objects.all()
    shared = shares_with(user).values("connection")
    own = Q(owner=user), Q(connection__owner=user)
    return any_of(models.AffectedConnection.objects.all(), *own, Q(connection__in=shared))


def visible_consent_requests(user: models.User) -> QuerySet[models.ConsentRequest]:
    """Users see consent requests they made or that concern their connections; IT admins and auditors see all."""
    requests = without_tokens(models.ConsentRequest.objects.select_related("app_registration", "connection"))
    return _all_or_own(user, requests, Q(requester=user), Q(connection__owner=user))


def visible_approvals(user: models.User) -> QuerySet[models.Approval]:
    """Users see approval requests they made or that concern their connections; IT admins and auditors see all."""
    approvals = without_tokens(models.Approval.objects.select_related("connection", "requested_by__responsible"))
    return _all_or_own(user, approvals, Q(requested_by=user), Q(connection__owner=user))


def visible_change_requests(user: models.User) -> QuerySet[models.ChangeRequest]:
    """Users see changes they asked for or that concern their connections; IT admins and auditors see all."""
    requests = models.ChangeRequest.objects.select_related(
        "connection__owner__responsible", "requested_by__responsible"
    )
    of_owner = Q(connection__owner=user), Q(connection__owner__responsible=user)
    return _all_or_own(user, without_tokens(requests), Q(requested_by=user), *of_owner)


# Review items that an IT admin must decide, because the connection's owner cannot.
OWNER_CANNOT_ANSWER = (
    Q(connection__owner__is_active=False)
    | Q(connection__owner__left_at__isnull=False)
    | Q(connection__owner__kind=models.User.Kind.SERVICE)
)


def visible_reviews(user: models.User) -> QuerySet[models.AccessReview]:
    """IT admins and auditors see all access reviews; others see those of connections they own or owned then."""
    if person(user).oversees:
        return models.AccessReview.objects.all()
    # Use two subqueries, because each has an index. A single condition with OR would read the items of every review.
    owned, assigned = (
        models.ReviewItem.objects.filter(connection__owner=user),
        models.ReviewItem.objects.filter(owner=user),
    )
    return models.AccessReview.objects.filter(Q(pk__in=owned.values("review")) | Q(pk__in=assigned.values("review")))


def review_items_of(user: models.User, **of: Any) -> QuerySet[models.ReviewItem]:
    """Return the shares this user must review: those of their connections, and for IT admins also those whose owner cannot.

    ``of`` are conditions that few items meet, such as ``review=review``. An IT admin does not decide a share that they
    use themselves, unless every IT admin uses it. What was transferred to an owner who cannot answer is theirs once the
    item names that owner (governance.access_review_schedule).
    """
    is_owner = Q(connection__owner=user, **of)
    if not person(user).is_admin:
        return models.ReviewItem.objects.filter(is_owner)
    shares = models.Share.objects.all()
    used = any_of(shares, Q(person=user), Q(person__responsible=user), Q(team__members=user)).order_by().values("pk")
    other_admins = it_admins().exclude(pk=user.pk).exclude(teams__shares=OuterRef("share"))
    may_decide = ~Q(share__in=used) | Q(~Exists(other_admins))
    # The item's own column has an index; the connection's owner decides.
    silent = models.User.objects.filter(models.User.CANNOT_ANSWER).order_by().values("pk")
    of_silent = Q(owner__in=silent, **of) & OWNER_CANNOT_ANSWER & may_decide
    return any_of(models.ReviewItem.objects.all(), is_owner, of_silent)


def it_admins() -> QuerySet[models.User]:
    """Return the IT admins who have not left, including superusers."""
    admins = models.User.objects.filter(Q(groups__name=IT_ADMINS) | Q(is_superuser=True))
    return admins.filter(is_active=True, left_at=None, kind=models.User.Kind.PERSON).distinct()


def auditors() -> QuerySet[models.User]:
    """Return the auditors who have not left."""
    return models.User.objects.filter(
        groups__name=AUDITORS, is_active=True, left_at=None, kind=models.User.Kind.PERSON
    ).distinct()


def overseers() -> QuerySet[models.User]:
    """Return the active people who oversee everything: IT admins and auditors."""
    return models.User.objects.filter(Q(pk__in=it_admins().values("pk")) | Q(pk__in=auditors().values("pk")))


def visible_notifications(user: models.User) -> QuerySet[models.Notification]:
    """Everyone sees only their own notifications."""
    rows = models.Notification.objects.filter(user=user)
    return rows.none() if user.is_suspended else rows


def visible_channels(user: models.User) -> QuerySet[models.AlertChannel]:
    """IT admins see the alert channels, without their secrets; others see none."""
    channels = models.AlertChannel.objects.defer("url", "signing_secret")
    return channels if person(user).is_admin else channels.none()


def visible_fetches(user: models.User) -> QuerySet[models.TokenFetch]:
    """IT admins and auditors see all token requests; others see those of their own connections and keys."""
    return _all_or_own(user, models.TokenFetch.objects.all(), Q(connection__owner=user), Q(key__owner=user))


def history_of(user: models.User, target: Model) -> QuerySet[models.AuditEvent]:
    of_target = {"target_type": type(target).__name__, "target_id": str(target.pk)}
    if isinstance(target, models.Connection) and visible_connections(user).filter(pk=target.pk).exists():
        return models.AuditEvent.objects.filter(**of_target)
    return visible_events(user).filter(**of_target)


def visible_keys(user: models.User) -> QuerySet[models.ApiKey]:
    """Users see their own API keys and those of their service accounts; IT admins and auditors see all."""
    return _all_or_own(user, models.ApiKey.objects.select_related("owner"), Q(owner=user), Q(owner__responsible=user))
