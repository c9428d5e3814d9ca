"""Expirations within the next year: credentials, sign-ins limited by a policy, unused grants, shares, API keys."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q, QuerySet

from connections.models import ApiKey, AppCredential, AppRegistration, Connection
from connections.models.connections import without_tokens
from connections.models.sharing import ShareQuerySet
from connections.services.expiry import forecast
from connections.services.expiry.forecast import PARKED, CredentialLifetime, Reason

AHEAD = timedelta(days=366)
MOST = 300  # of each kind, because a policy may make thousands of sign-ins expire on one day
IN_USE = timedelta(days=30)  # an API key is considered in use for this long after its last use


@dataclass(frozen=True, slots=True)
class Expiration:
    """One expiration. A credential's has no connection; an API key's has neither connection nor app registration."""

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


@dataclass(frozen=True, slots=True)
class Expirations:
    """A list of expirations, the earliest first."""

    expirations: list[Expiration]
    is_cut: bool = False  # there are more than MOST of one kind


def of_connections(connections: QuerySet[Connection], *, now: datetime) -> Expirations:
    """Expirations of sign-ins that a policy limits, and of grants that are not renewed. Takes two queries."""
    delegated = connections.filter(authentication_type="authorization_code").select_related("app_registration__tenant")
    limited = delegated.filter(
        status=Connection.Status.ACTIVE, app_registration__rejected_at=None, sign_in_max_age__isnull=False
    )
    stopped = Q(status__in=PARKED) | Q(status=Connection.Status.ACTIVE, app_registration__rejected_at__isnull=False)
    parked = delegated.filter(stopped, refreshed_at__isnull=False)
    is_cut, expirations = False, list[Expiration]()
    for query in (limited.order_by("connected_at", "pk"), parked.order_by("refreshed_at", "pk")):
        rows = list(query[: MOST + 1])
        is_cut |= len(rows) > MOST
        expirations += [expiration for row in rows[:MOST] for expiration in _of_connection(row, now)]
    return Expirations(sorted(expirations, key=lambda expiration: expiration.at), is_cut)


def _of_connection(connection: Connection, now: datetime) -> Iterable[Expiration]:
    titles = {Reason.SIGN_IN: "Sign-in runs out", Reason.IDLE: "Grant is forgotten"}
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
    """Expirations of shares. Takes one query."""
    expiring = shares.active(now).filter(until__lte=now + AHEAD).order_by("until", "pk")
    related = expiring.select_related("person", "team", "connection__app_registration__tenant", "connection__owner")
    rows = list(without_tokens(related)[: MOST + 1])
    expirations = [
        Expiration(
            row.until,
            Reason.SHARE,
            row.connection.app_registration,
            f"Share with {row.person or row.team}",
            "From then on they can no longer use the connection.",
            "Whoever manages the connection can extend the share on its page.",
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
    """Expirations of API keys. Takes one query."""
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
                "Whatever uses it is refused from then on." if used else "Nobody has used it for a month.",
                "Rotate it before then: the old secret goes on while the new one is put in place.",
                Connection.Who.OWNER,
                certain=True,
                stops=int(used),
                key=key,
            )
            expirations.append(expiration)
    return Expirations(expirations, len(rows) > MOST)


def of_credentials(
    apps: QuerySet[AppRegistration], connections: QuerySet[Connection], *, now: datetime, in_detail: bool
) -> Expirations:
    """Expirations of usable credentials, with the number of ``connections`` that stop. Takes three queries.

    Without ``in_detail``, credentials are not named, and those that another one outlasts are left out.
    """
    rows = list(apps.order_by("pk"))
    credentials = forecast.credentials_of([app.pk for app in rows])
    enabled = connections.exclude(status=Connection.Status.DISABLED).order_by()
    used = dict(enabled.values_list("app_registration_id").annotate(Count("pk")))
    expirations: list[Expiration] = []
    for app in rows:
        if not in_detail and not used.get(app.pk):
            continue
        lifetime = forecast.credential_lifetime(credentials[app.pk])
        for credential in credentials[app.pk]:
            if not forecast.is_usable(credential) or not (in_detail or credential == lifetime.last):
                continue
            if credential.expires_at is not None and credential.expires_at <= now + AHEAD:
                count = used.get(app.pk, 0)
                expirations.append(
                    _of_credential(app, credential, credential.expires_at, lifetime, count, in_detail=in_detail)
                )
    return Expirations(sorted(expirations, key=lambda expiration: expiration.at)[:MOST], len(expirations) > MOST)


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
    if credential != lifetime.last:
        consequence = f"Nothing stops: {lifetime.last} lasts longer, and the portal goes on with it."
        action, who, count = "Retire it here and delete it in Entra when it suits you.", Connection.Who.NOBODY, 0
    else:
        whose = "of this app registration" if in_detail else "of yours"
        consequence = f"{count} connection{'' if count == 1 else 's'} {whose} stop{'s' if count == 1 else ''}."
        if not count:
            consequence = "No connection uses it just now."
        action = "Add the next credential before then."
        if lifetime.waiting is not None:
            action = "Upload the certificate that is ready to Entra, then try it here."
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
