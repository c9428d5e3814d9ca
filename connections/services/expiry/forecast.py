"""Forecast when and why a connection will stop working, and who can prevent it. Reads no secrets."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from connections.access import querysets
from connections.microsoft import classifier
from connections.models import AppCredential, Connection, Share, User
from connections.services.registry import credential_checks

Status = Connection.Status
Who = Connection.Who

# An unused refresh token expires after this time (Microsoft: identity-platform/refresh-tokens).
IDLE_LIMIT = timedelta(days=90)
# An active connection that has not been refreshed for this long is not being renewed.
FRESH = timedelta(days=1)
# With these statuses, a grant is valid, but we don't renew it.
PARKED = (Status.DISABLED, Status.BLOCKED, Status.CONSENT_NEEDED)


class Reason(StrEnum):
    CREDENTIAL = "credential"
    SIGN_IN = "sign_in"
    IDLE = "idle"
    SHARE = "share"
    KEY = "key"  # an API key


@dataclass(frozen=True, slots=True)
class Forecast:
    """One reason why a connection will stop working. ``cause`` completes a sentence; ``action`` is a whole sentence."""

    at: datetime  # UTC; if it is in the past, this may happen at any moment
    reason: Reason
    cause: str
    action: str
    who: Who
    # Whether the date comes from Microsoft or a certificate; otherwise it was entered manually or estimated.
    certain: bool


@dataclass(frozen=True, slots=True)
class ForecastSummary:
    """All forecasts of a connection, the earliest first, and remarks on parts that do not expire."""

    forecasts: tuple[Forecast, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def next(self) -> Forecast | None:
        return self.forecasts[0] if self.forecasts else None


def next_expirations(
    connections: Iterable[Connection], *, now: datetime, reader: User | None = None
) -> dict[int, Forecast]:
    """The next expiration of each connection, by connection ID, for this reader. Takes two queries."""
    rows = list(connections)
    credentials = credentials_of({row.app_registration_id for row in rows})
    ends = access_ends(reader, rows) if reader else {}
    summaries = {
        row.pk: summarize(
            row, now=now, credentials=credentials[row.app_registration_id], access_ends_at=ends.get(row.pk)
        )
        for row in rows
    }
    return {pk: summary.next for pk, summary in summaries.items() if summary.next is not None}


def access_ends(reader: User, connections: Iterable[Connection]) -> dict[int, datetime]:
    """When the reader's shares of these connections end, by connection ID. Takes one query.

    Connections that the reader owns, or has a share of without an end, are missing.
    """
    shared = [row.pk for row in connections if row.owner_id != reader.pk]
    ends: dict[int, datetime | None] = {}
    shares = querysets.shares_with(reader).filter(connection__in=shared) if shared else Share.objects.none()
    for connection, until in shares.order_by().values_list("connection", "until"):
        known = ends.get(connection, until)
        ends[connection] = max(known, until) if known and until else None
    return {connection: until for connection, until in ends.items() if until is not None}


def summarize(
    connection: Connection,
    *,
    now: datetime,
    credentials: Iterable[AppCredential] | None = None,
    access_ends_at: datetime | None = None,
) -> ForecastSummary:
    """All forecasts; if it waits for a sign-in, only that of the reader's own access.

    ``credentials``: the app's live ones, if already loaded. ``access_ends_at``: when the reader's share ends.
    """
    forecasts = [_end_of_access(access_ends_at)] if access_ends_at else []
    if connection.status in (Status.PENDING, Status.RECONNECT_NEEDED):
        return ForecastSummary(tuple(forecasts))
    remarks: list[str] = []
    if (idle := _idle_limit(connection, now)) is not None:
        forecasts.append(idle)
    elif connection.is_delegated:
        remarks.append(
            "The portal renews access at least every hour, so Microsoft's 90-day inactivity limit doesn't apply."
        )
    else:
        remarks.append("App-only access doesn't depend on a person.")
    if connection.status == Status.ACTIVE and not connection.is_blocked_by_app:
        app_id = connection.app_registration_id
        lifetime = credential_lifetime(credentials_of([app_id])[app_id] if credentials is None else credentials)
        forecasts += [*_sign_in_limit(connection, now), *_credential_expiry(connection, lifetime, now)]
        if lifetime.lasting is not None:
            remarks.append(f"{connection.app_registration} has a federated credential, which never expires.")
        if lifetime.unknown is not None:
            remarks.append(f"No expiration date is recorded for a credential of {connection.app_registration}.")
    return ForecastSummary(tuple(sorted(forecasts, key=lambda forecast: forecast.at)), tuple(remarks))


def credentials_of(app_ids: Iterable[int]) -> dict[int, list[AppCredential]]:
    """Return live credentials by app registration, without encrypted columns, in the order in which they are tried."""
    live = AppCredential.objects.live().filter(app_registration_id__in=list(app_ids))
    by_app: dict[int, list[AppCredential]] = defaultdict(list)
    for credential in credential_checks.in_trial_order(live.defer("secret", "private_key", "certificate")):
        by_app[credential.app_registration_id].append(credential)
    return by_app


def is_usable(credential: AppCredential) -> bool:
    """Whether we expect Microsoft to accept the credential until it expires."""
    ended_at = credential.retired_at or credential.rejected_at or credential.unlisted_at
    return ended_at is None and not credential_checks.awaits_upload(credential)


def is_certain(credential: AppCredential) -> bool:
    """Whether the expiration date comes from Entra or the certificate. Otherwise, someone entered it."""
    return credential.expiry_read_at is not None or credential.kind == AppCredential.Kind.CERTIFICATE


@dataclass(frozen=True, slots=True)
class CredentialLifetime:
    """The usable credentials of an app registration, and when the last of them expires."""

    working: int  # number of usable credentials
    last: AppCredential | None = None  # the usable credential that expires last
    unknown: AppCredential | None = None  # a usable credential without an expiration date
    waiting: AppCredential | None = None  # a certificate that still has to be uploaded to Entra
    lasting: AppCredential | None = None  # a usable credential that never expires

    @property
    def until(self) -> datetime | None:
        """When the last usable credential expires, or None if no date is known or one never expires."""
        is_known = self.unknown is None and self.lasting is None
        return self.last.expires_at if self.last is not None and is_known else None


def credential_lifetime(credentials: Iterable[AppCredential]) -> CredentialLifetime:
    live = list(credentials)
    usable = [credential for credential in live if is_usable(credential)]
    dated = [(credential.expires_at, credential) for credential in usable if credential.expires_at is not None]
    return CredentialLifetime(
        len(usable),
        last=max(dated, key=lambda pair: pair[0])[1] if dated else None,
        unknown=next((row for row in usable if row.expires_at is None and not _never_expires(row)), None),
        lasting=next(filter(_never_expires, usable), None),
        waiting=next((credential for credential in live if _awaits_upload(credential)), None),
    )


def _never_expires(credential: AppCredential) -> bool:
    return credential.kind == AppCredential.Kind.FEDERATED


def _awaits_upload(credential: AppCredential) -> bool:
    return credential.kind == AppCredential.Kind.CERTIFICATE and credential_checks.awaits_upload(credential)


def successor(credential: AppCredential, live: Iterable[AppCredential]) -> AppCredential | None:
    """Return a newer, accepted credential that expires later, so that this one can be retired. Otherwise None."""
    if credential.retired_at is not None or credential.expires_at is None:
        return None
    for other in live:
        longer = _never_expires(other) or (other.expires_at is not None and other.expires_at > credential.expires_at)
        if longer and other.created_at > credential.created_at and other.verified_at and is_usable(other):
            return other
    return None


def _credential_expiry(connection: Connection, lifetime: CredentialLifetime, now: datetime) -> Iterable[Forecast]:
    name = connection.app_registration.name
    action = "An IT admin needs to add a new credential."
    if connection.app_registration.renews_credentials:
        action = f"The portal renews it if your policy allows automatic renewal. Otherwise: {action}"
    if lifetime.waiting is not None:
        action = "An IT admin needs to upload the prepared certificate to Entra, then test it here."
    if not lifetime.working:
        cause = f"the app registration {name} has no credential that Microsoft accepts."
        yield Forecast(now, Reason.CREDENTIAL, cause, action, Who.IT_ADMIN, certain=False)
    last, until = lifetime.last, lifetime.until
    if last is None or until is None:
        return
    if until <= now and connection.refreshed_at is not None and connection.refreshed_at > until:
        return  # Microsoft has accepted it since then, so the stored date is wrong
    kind = last.get_kind_display().lower()
    subject = f"the app registration's only {kind}" if lifetime.working == 1 else "the last working credential"
    certain = is_certain(last)
    cause = f"{subject} ({name}) expires{'' if certain else ', according to the date entered here'}."
    yield Forecast(until, Reason.CREDENTIAL, cause, action, Who.IT_ADMIN, certain)


def _sign_in_limit(connection: Connection, now: datetime) -> Iterable[Forecast]:
    """Forecast when Conditional Access requires a new sign-in, from the interval that AADSTS70043 reported.

    Source: Microsoft's identity-platform error codes.
    """
    if not connection.is_delegated or connection.sign_in_max_age is None or connection.connected_at is None:
        return
    at = connection.connected_at + timedelta(seconds=connection.sign_in_max_age)
    if at <= now and connection.refreshed_at is not None and connection.refreshed_at > at:
        return  # Microsoft has renewed it since then, so the policy no longer applies
    yield Forecast(
        at,
        Reason.SIGN_IN,
        f"a policy in {connection.tenant} requires a new sign-in every "
        f"{classifier.format_interval(connection.sign_in_max_age)}, as Microsoft last reported.",
        "The owner can sign in again before then to restart the period.",
        Who.OWNER,
        certain=False,
    )


def _end_of_access(at: datetime) -> Forecast:
    cause, action = "your access to this connection expires.", "If you still need it, ask the owner to extend it."
    return Forecast(at, Reason.SHARE, cause, action, Who.OWNER, certain=True)


def _idle_limit(connection: Connection, now: datetime) -> Forecast | None:
    """Forecast when the grant of a connection that is not refreshed expires."""
    if not connection.is_delegated or connection.refreshed_at is None:
        return None
    is_blocked = connection.is_blocked_by_app
    if connection.status not in PARKED and not is_blocked and connection.refreshed_at >= now - FRESH:
        return None
    who = Who.IT_ADMIN
    if connection.status == Status.DISABLED:
        action, who = "Enable it before then. After that, the owner needs to sign in again.", Who.OWNER
    elif is_blocked:
        action = "An IT admin needs to fix the app registration before then."
    elif connection.status == Status.ACTIVE:
        action = "An operator needs to find out why the portal doesn't refresh it."
    else:
        action = "Fix the problem before then. After that, the owner needs to sign in again."
        who = Who(connection.status_who or Who.IT_ADMIN)
    cause = "the portal can't renew access now, and Microsoft ends a sign-in after 90 days without use."
    return Forecast(connection.refreshed_at + IDLE_LIMIT, Reason.IDLE, cause, action, who, certain=True)
