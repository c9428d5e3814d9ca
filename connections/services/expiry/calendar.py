"""Expirations within the next year: credentials, sign-ins limited by a policy, unused grants, shares, API keys."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery, prefetch_related_objects

from connections.models import ApiKey, AppConsent, AppCredential, AppRegistration, Connection, Tally
from connections.models.connections import APP_REJECTED, RELATED, without_tokens
from connections.models.sharing import ShareQuerySet
from connections.services.expiry import forecast, renewal_rules, sign_in_secret
from connections.services.expiry.forecast import PARKED, CredentialLifetime, Reason

AHEAD = timedelta(days=366)
MOST = 300  # per kind, because a policy may make thousands of sign-ins expire on one day
IN_USE = timedelta(days=30)  # an API key counts as in use for this long after its last use


@dataclass(frozen=True, slots=True)
class Expiration:
    """One expiration: of a connection, a share, a credential, an API key or the portal's own sign-in secret.

    ``app_registration``, ``connection`` and ``key`` are None where they do not apply.
    """

    at: datetime
    reason: Reason
    app_registration: AppRegistration | None
    what: str
    consequence: str
    action: str
    who: Connection.Who
    certain: bool
    stops: int  # number of connections that stop working
    connection: Connection | None = None
    key: ApiKey | None = None
    is_renewed: bool = False  # the portal renews it automatically


@dataclass(frozen=True, slots=True)
class Expirations:
    """A list of expirations, the earliest first."""

    expirations: list[Expiration]
    is_cut: bool = False  # there are more than MOST of one kind


def of_connections(connections: QuerySet[Connection], *, now: datetime) -> Expirations:
    """Expirations of sign-ins that a policy limits, and of grants that are not renewed. Takes at most five queries."""
    delegated = connections.filter(authentication_type="authorization_code").select_related(None)
    active = delegated.filter(status=Connection.Status.ACTIVE)
    limited = active.filter(~APP_REJECTED, sign_in_max_age__isnull=False).order_by("connected_at", "pk")
    parked = delegated.filter(status__in=PARKED, refreshed_at__isnull=False).order_by("refreshed_at", "pk")
    # What Microsoft rejects stopped at one moment, so that its connections need no order.
    queries = (limited, parked, *(active.filter(rejected).order_by() for rejected in _rejected()))
    lists = [list(query[: MOST + 1]) for query in queries]
    rows = [row for rows_of_query in lists for row in rows_of_query[:MOST]]
    # Planning and running seven joins for hundreds of rows takes longer than reading the few related objects once.
    prefetch_related_objects(rows, *RELATED, "owner")
    expirations = [expiration for row in rows for expiration in _of_connection(row, now)]
    return Expirations(
        sorted(expirations, key=lambda expiration: expiration.at),
        any(len(rows_of_query) > MOST for rows_of_query in lists),
    )


def _rejected() -> list[Q]:
    """Return conditions, each with a database index, that find the connections of rejected app registrations."""
    apps = list(AppRegistration.objects.filter(rejected_at__isnull=False).values_list("pk", flat=True)[:MOST])
    consents = AppConsent.objects.filter(rejected_at__isnull=False).exclude(app_registration__in=apps)
    conditions = [Q(app_registration__in=apps, refreshed_at__isnull=False)] if apps else []
    pairs = [
        Q(app_registration=app, tenant=tenant, refreshed_at__isnull=False)
        for app, tenant in consents.values_list("app_registration", "tenant")[:MOST]
    ]
    return [*conditions, reduce(operator.or_, pairs)] if pairs else conditions


def _of_connection(connection: Connection, now: datetime) -> Iterable[Expiration]:
    titles = {Reason.SIGN_IN: "Sign-in expires", Reason.IDLE: "Unused sign-in expires"}
    for event in forecast.summarize(connection, now=now, credentials=()).forecasts:
        if event.reason in titles and event.at <= now + AHEAD:
            yield Expiration(
                event.at,
                event.reason,
                connection.app_registration,
                titles[event.reason],
                f"{event.cause[:1].upper()}{event.cause[1:]}",
                event.action,
                event.who,
                event.certain,
                stops=int(event.reason == Reason.SIGN_IN),
                connection=connection,
            )


def of_shares(shares: ShareQuerySet, *, now: datetime) -> Expirations:
    """Return the expirations of shares. Takes one query."""
    expiring = shares.active(now).filter(until__lte=now + AHEAD).order_by("until", "pk")
    rows = list(without_tokens(expiring.select_related("connection"))[: MOST + 1])
    related = ("connection__app_registration__tenant", "connection__tenant", "connection__owner")
    prefetch_related_objects(rows, "person", "team", *related)
    expirations = [
        Expiration(
            row.until,
            Reason.SHARE,
            row.connection.app_registration,
            f"Share with {row.person or row.team}",
            "They can't use the connection after that.",
            "The owner can extend the share on the connection's page.",
            Connection.Who.OWNER,
            certain=True,
            stops=0,
            connection=row.connection,
        )
        for row in rows[:MOST]
        if row.until
    ]
    return Expirations(expirations, len(rows) > MOST)


def of_keys(keys: QuerySet[ApiKey], *, now: datetime) -> Expirations:
    """Return the expirations of API keys. Takes one query."""
    expiring = keys.filter(revoked_at=None, expires_at__gt=now, expires_at__lte=now + AHEAD, owner__is_active=True)
    rows = list(expiring.order_by("expires_at", "pk")[: MOST + 1])
    expirations = []
    for key in rows[:MOST]:
        # Automations may still use the secret from before the rotation.
        used = any(at is not None and now - at <= IN_USE for at in (key.last_used_at, key.previous_used_at))
        if key.expires_at is not None:
            expiration = Expiration(
                key.expires_at,
                Reason.KEY,
                None,
                "API key",
                "Automations that use this key stop working." if used else "Not used in the last 30 days.",
                "Rotate the key before then. The old secret stays valid while you replace it.",
                Connection.Who.OWNER,
                certain=True,
                stops=int(used),
                key=key,
            )
            expirations.append(expiration)
    return Expirations(expirations, len(rows) > MOST)


def of_sign_in_secret(*, now: datetime) -> Expirations:
    """Return the expiration of the secret of the portal's own sign-in, if its date is known."""
    at = sign_in_secret.expires_at()
    if at is None or at > now + AHEAD:
        return Expirations([])
    texts = (sign_in_secret.WHAT, sign_in_secret.CONSEQUENCE, sign_in_secret.ACTION)
    return Expirations(
        [Expiration(at, Reason.CREDENTIAL, None, *texts, Connection.Who.IT_ADMIN, certain=True, stops=0)]
    )


def of_credentials(
    apps: QuerySet[AppRegistration], connections: QuerySet[Connection], *, now: datetime, in_detail: bool
) -> Expirations:
    """Return the expirations of usable credentials, with the number of ``connections`` that stop. At most six queries.

    With ``in_detail``, the credentials are named, and ``connections`` must be all connections. Without it, only the
    last credential of each app registration is returned, because nothing stops before that one expires.
    """
    expiring = AppCredential.objects.live().filter(expires_at__lte=now + AHEAD).order_by()
    first = expiring.filter(app_registration=OuterRef("pk")).order_by("expires_at").values("expires_at")[:1]
    soonest = apps.filter(pk__in=expiring.values("app_registration")).order_by(Subquery(first), "pk")
    rows = list(soonest[: MOST + 1])
    credentials = forecast.credentials_of([app.pk for app in rows])
    used = _used(rows, connections, all_connections=in_detail)
    expirations: list[Expiration] = []
    renewed = renewal_rules.renewed_by_portal(rows, now=now)
    for app in rows:
        if not in_detail and not used.get(app.pk):
            continue
        lifetime = forecast.credential_lifetime(credentials[app.pk])
        for credential in credentials[app.pk]:
            if not forecast.is_usable(credential) or not (in_detail or credential == lifetime.last):
                continue
            if credential.expires_at is not None and credential.expires_at <= now + AHEAD:
                count = used.get(app.pk, 0)
                expiration = _of_credential(
                    app, credential, credential.expires_at, lifetime, count, in_detail=in_detail
                )
                is_renewed = app.pk in renewed and expiration.who == Connection.Who.IT_ADMIN
                expirations.append(_renewed(expiration) if is_renewed else expiration)
    is_cut = len(rows) > MOST or len(expirations) > MOST
    return Expirations(sorted(expirations, key=lambda expiration: expiration.at)[:MOST], is_cut)


def _used(apps: list[AppRegistration], connections: QuerySet[Connection], *, all_connections: bool) -> dict[int, int]:
    """Return how many connections each app registration has, by its ID. Disabled connections are not counted."""
    if all_connections:
        tallies = Tally.objects.connections().exclude(value=Connection.Status.DISABLED)
        return dict(tallies.filter(app_consent__app_registration__in=apps).totals("app_consent__app_registration"))
    enabled = connections.exclude(status=Connection.Status.DISABLED).order_by()
    return dict(enabled.values_list("app_registration_id").annotate(Count("pk")))


def _renewed(expiration: Expiration) -> Expiration:
    return replace(
        expiration,
        consequence="The portal renews it before then.",
        action="IT admins are informed if that fails.",
        who=Connection.Who.NOBODY,
        stops=0,
        is_renewed=True,
    )


def _of_credential(
    app: AppRegistration,
    credential: AppCredential,
    expires_at: datetime,
    lifetime: CredentialLifetime,
    count: int,
    *,
    in_detail: bool,
) -> Expiration:
    kind = credential.get_kind_display()
    who = Connection.Who.IT_ADMIN
    if lifetime.lasting is not None or credential != lifetime.last:
        other = f"{lifetime.lasting} never expires" if lifetime.lasting else f"{lifetime.last} expires later"
        consequence = f"No connection is affected. {other}, and the portal uses it."
        action, who, count = "Retire it here and delete it in Entra at any time.", Connection.Who.NOBODY, 0
    else:
        whose = "" if in_detail else " of yours"
        consequence = f"{count} connection{'' if count == 1 else 's'}{whose} will stop working."
        if not count:
            consequence = "No connection uses it."
        action = "Add a new credential before then."
        if lifetime.waiting is not None:
            action = "Upload the prepared certificate to Entra, then test it here."
    return Expiration(
        expires_at,
        Reason.CREDENTIAL,
        app,
        f"{kind} “{credential.label}”" if credential.label and in_detail else kind,
        consequence,
        action,
        who,
        certain=forecast.is_certain(credential),
        stops=count,
    )
