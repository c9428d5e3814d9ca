"""What ends within the next year: credentials, sign-ins that a policy limits, grants nobody renews, shares, API keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q, QuerySet

from connections.models import ApiKey, AppCredential, AppRegistration, Connection, Share
from connections.models.connections import without_tokens
from connections.models.sharing import ShareQuerySet
from connections.services.expiry import forecast as expiry_forecast
from connections.services.expiry.forecast import PARKED, CredentialLifetime, Reason

AHEAD = timedelta(days=366)
# Of each kind; a policy may end thousands of sign-ins on one day, and nobody reads a list of them.
MOST = 300
IN_USE = timedelta(days=30)  # an API key that was used within this time is needed


@dataclass(frozen=True, slots=True)
class Expiration:
    """One thing that ends: a credential has no connection, an API key neither that nor an app registration."""

    at: datetime
    reason: Reason
    app_registration: AppRegistration | None
    what: str
    consequence: str
    action: str
    who: Connection.Who
    certain: bool
    stops: int  # connections that stop working with it
    connection: Connection | None = None
    key: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class Expirations:
    """What was found, the earliest first."""

    expirations: list[Expiration]
    is_cut: bool = False  # there is more than MOST of one kind


def of_connections(connections: QuerySet[Connection], *, now: datetime) -> Expirations:
    """Ends of the connections themselves: limited sign-ins and grants that nothing renews. Two queries."""
    delegated = connections.filter(authentication_type="authorization_code").select_related("app_registration__tenant")
    limited = delegated.filter(
        status=Connection.Status.ACTIVE, app_registration__rejected_at=None, sign_in_max_age__isnull=False
    )
    stopped = Q(status__in=PARKED) | Q(status=Connection.Status.ACTIVE, app_registration__rejected_at__isnull=False)
    parked = delegated.filter(stopped, refreshed_at__isnull=False)
    cut, found = False, list[Expiration]()
    for rows in (limited.order_by("connected_at", "pk"), parked.order_by("refreshed_at", "pk")):
        listed = list(rows[: MOST + 1])
        cut |= len(listed) > MOST
        found += [ending for connection in listed[:MOST] for ending in _of_connection(connection, now)]
    return Expirations(sorted(found, key=lambda ending: ending.at), cut)


def _of_connection(connection: Connection, now: datetime) -> Iterable[Expiration]:
    what = {Reason.SIGN_IN: "Sign-in runs out", Reason.IDLE: "Grant is forgotten"}
    for forecast in expiry_forecast.summarize(connection, now=now, credentials=()).forecasts:
        if forecast.reason in what and forecast.at <= now + AHEAD:
            yield Expiration(
                forecast.at,
                forecast.reason,
                connection.app_registration,
                what[forecast.reason],
                f"{forecast.cause[:1].upper()}{forecast.cause[1:]}",
                forecast.action,
                forecast.who,
                forecast.certain,
                stops=int(forecast.reason == Reason.SIGN_IN),
                connection=connection,
            )


def of_shares(shares: ShareQuerySet, *, now: datetime) -> Expirations:
    """Shares that end by their own date. One query."""
    dated = shares.active(now).filter(until__lte=now + AHEAD).order_by("until", "pk")
    rows = dated.select_related("person", "team", "connection__app_registration__tenant", "connection__owner")
    listed = list(without_tokens(rows)[: MOST + 1])
    return Expirations([_of_share(share) for share in listed[:MOST]], len(listed) > MOST)


def _of_share(share: Share) -> Expiration:
    assert share.until is not None  # noqa: S101 - only dated ones are asked for
    return Expiration(
        share.until,
        Reason.SHARE,
        share.connection.app_registration,
        f"Share with {share.person or share.team}",
        "From then on they can no longer use the connection.",
        "Whoever manages the connection can extend the share on its page.",
        Connection.Who.OWNER,
        certain=True,
        stops=0,
        connection=share.connection,
    )


def of_keys(keys: QuerySet[ApiKey], *, now: datetime) -> Expirations:
    """API keys that end by their own date. One query."""
    dated = keys.filter(revoked_at=None, expires_at__gt=now, expires_at__lte=now + AHEAD, owner__is_active=True)
    listed = list(dated.order_by("expires_at", "pk")[: MOST + 1])
    return Expirations([_of_key(key, now) for key in listed[:MOST]], len(listed) > MOST)


def _of_key(key: ApiKey, now: datetime) -> Expiration:
    assert key.expires_at is not None  # noqa: S101 - only dated ones are asked for
    # An automation that still sends the secret from before a rotation uses the key too.
    uses = [at for at in (key.last_used_at, key.previous_used_at) if at is not None]
    used = bool(uses) and now - max(uses) <= IN_USE
    return Expiration(
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


def of_credentials(
    apps: QuerySet[AppRegistration], connections: QuerySet[Connection], *, now: datetime, in_detail: bool
) -> Expirations:
    """Ends of the credentials that work, with how many of ``connections`` stop. Three queries.

    ``in_detail`` False leaves out the credentials' names, and those that another one outlasts: nothing stops with them.
    """
    listed = list(apps.order_by("pk"))
    known = expiry_forecast.credentials_of([app.pk for app in listed])
    enabled = connections.exclude(status=Connection.Status.DISABLED).order_by()
    used = dict(enabled.values_list("app_registration_id").annotate(Count("pk")))
    expirations: list[Expiration] = []
    for app in listed:
        if not in_detail and not used.get(app.pk):
            continue
        last = expiry_forecast.credential_lifetime(known[app.pk])
        for credential in known[app.pk]:
            if not expiry_forecast.is_usable(credential) or not (in_detail or credential == last.last):
                continue
            if credential.expires_at is not None and credential.expires_at <= now + AHEAD:
                expirations.append(_of_credential(app, credential, last, used.get(app.pk, 0), in_detail=in_detail))
    return Expirations(sorted(expirations, key=lambda ending: ending.at)[:MOST], len(expirations) > MOST)


def _of_credential(
    app: AppRegistration, credential: AppCredential, last: CredentialLifetime, used: int, *, in_detail: bool
) -> Expiration:
    assert credential.expires_at is not None  # noqa: S101 - asked before
    outlasted = credential != last.last
    kind = credential.get_kind_display()
    if outlasted:
        consequence = f"Nothing stops: {last.last} lasts longer, and the portal goes on with it."
        action, who = "Retire it here and delete it in Entra when it suits you.", Connection.Who.NOBODY
    elif last.waiting is not None:
        consequence, who = _stops(used, in_detail=in_detail), Connection.Who.IT_ADMIN
        action = "Upload the certificate that is ready to Entra, then try it here."
    else:
        consequence, who = _stops(used, in_detail=in_detail), Connection.Who.IT_ADMIN
        action = "Add the next credential before then."
    return Expiration(
        credential.expires_at,
        Reason.CREDENTIAL,
        app,
        f"{kind} “{credential.label}”" if credential.label and in_detail else kind,
        consequence,
        action,
        who,
        certain=expiry_forecast.is_certain(credential),
        stops=0 if outlasted else used,
    )


def _stops(count: int, *, in_detail: bool) -> str:
    if not count:
        return "No connection uses it just now."
    whose = "of this app registration" if in_detail else "of yours"
    return f"{count} connection{'' if count == 1 else 's'} {whose} stop{'s' if count == 1 else ''}."
