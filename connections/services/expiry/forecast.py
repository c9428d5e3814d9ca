"""When and why a connection would next break by itself, and who can prevent it. Reads only; secrets stay sealed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from connections.models import AppCredential, Connection
from connections.services.registry import credential_checks

Status = Connection.Status
Who = Connection.Who

# A refresh token dies after so long without use (Microsoft: identity-platform/refresh-tokens).
IDLE_LIMIT = timedelta(days=90)
# Refreshed within this time: whatever the status says, the limit above moves on with every refresh.
FRESH = timedelta(days=1)
# Nothing renews the grants of these, although they are still good.
PARKED = (Status.DISABLED, Status.BLOCKED, Status.CONSENT_NEEDED)


class Reason(StrEnum):
    """What ends."""

    CREDENTIAL = "credential"
    SIGN_IN = "sign_in"
    IDLE = "idle"
    SHARE = "share"  # of nobody's connection, but of somebody's right to use it
    KEY = "key"  # an API key


@dataclass(frozen=True, slots=True)
class Forecast:
    """One way in which a connection would end by itself. ``cause`` continues a sentence, ``action`` is one."""

    at: datetime  # UTC
    reason: Reason
    cause: str
    action: str
    who: Who
    # Whether Microsoft or a certificate says so; otherwise it was typed by somebody, or concluded.
    certain: bool

    def is_due(self, now: datetime) -> bool:
        """Whether its time is over, so that it can happen at any moment."""
        return self.at <= now


@dataclass(frozen=True, slots=True)
class ForecastSummary:
    """All that would end a connection, the earliest first, and what keeps it going."""

    forecasts: tuple[Forecast, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def next(self) -> Forecast | None:
        """What comes first."""
        return self.forecasts[0] if self.forecasts else None


def next_expiration(connection: Connection, *, now: datetime) -> Forecast | None:
    """When and why the connection would next break by itself; None if nothing is in sight. One query."""
    return summarize(connection, now=now).next


def next_expirations(connections: Iterable[Connection], *, now: datetime) -> dict[int, Forecast]:
    """The same for a list, by connection id; one query for all."""
    listed = list(connections)
    known = credentials_of({connection.app_registration_id for connection in listed})
    found = {
        connection.pk: summarize(connection, now=now, credentials=known[connection.app_registration_id]).next
        for connection in listed
    }
    return {pk: forecast for pk, forecast in found.items() if forecast is not None}


def summarize(
    connection: Connection, *, now: datetime, credentials: Iterable[AppCredential] | None = None
) -> ForecastSummary:
    """Everything that would end the connection. ``credentials``: those of its app registration, if known already.

    A connection that waits for a sign-in has ended already, so nothing is foretold of it.
    """
    if connection.status in (Status.PENDING, Status.RECONNECT_NEEDED):
        return ForecastSummary()
    forecasts: list[Forecast] = []
    remarks: list[str] = []
    if _is_parked(connection, now):
        forecasts += _idle(connection)
    elif connection.is_delegated:
        remarks.append(
            "The portal renews its grant at least every hour, so Microsoft's limit of 90 days without use never "
            "comes closer."
        )
    else:
        remarks.append("No person has signed in, so there is no sign-in that could run out.")
    if connection.status == Status.ACTIVE and not connection.is_blocked_by_app:
        forecasts += _sign_in(connection, now)
        app_id = connection.app_registration_id
        last = credential_lifetime(credentials_of([app_id])[app_id] if credentials is None else credentials)
        forecasts += _credential(connection, last, now)
        if last.unknown is not None:
            remarks.append(
                f"Nobody has entered when a credential of {connection.app_registration} expires, so its end is not "
                "foretold."
            )
    return ForecastSummary(tuple(sorted(forecasts, key=lambda one: one.at)), tuple(remarks))


# --- Credentials of the app registration ----------------------------------------------------------


def credentials_of(app_ids: Iterable[int]) -> dict[int, list[AppCredential]]:
    """Live credentials by app registration, in the order they are tried; the encrypted columns stay in the database."""
    live = AppCredential.objects.live().filter(app_registration_id__in=list(app_ids))
    found: dict[int, list[AppCredential]] = defaultdict(list)
    for credential in live.defer("secret", "private_key", "certificate"):
        found[credential.app_registration_id].append(credential)
    return defaultdict(
        list, {app_id: credential_checks.in_trial_order(credentials) for app_id, credentials in found.items()}
    )


def is_usable(credential: AppCredential) -> bool:
    """Whether Microsoft would accept it as far as the portal knows, its expiry aside."""
    out = credential.retired_at or credential.rejected_at or credential.unlisted_at
    return out is None and not credential_checks.awaits_upload(credential)


def is_certain(credential: AppCredential) -> bool:
    """Whether Entra or the certificate itself says when it expires; otherwise somebody typed the date."""
    return credential.expiry_read_at is not None or credential.kind == AppCredential.Kind.CERTIFICATE


@dataclass(frozen=True, slots=True)
class CredentialLifetime:
    """How long an app registration's credentials last together; they stand in for each other."""

    working: int
    last: AppCredential | None = None  # the working one that ends last
    unknown: AppCredential | None = None  # a working one whose end nobody knows
    waiting: AppCredential | None = None  # a certificate that only has to be uploaded to Entra

    @property
    def until(self) -> datetime | None:
        """When the last one expires; None if that is not known."""
        return self.last.expires_at if self.last is not None and self.unknown is None else None


def credential_lifetime(credentials: Iterable[AppCredential]) -> CredentialLifetime:
    """Sum up the live credentials of one app registration."""
    listed = list(credentials)
    working = [credential for credential in listed if is_usable(credential)]
    dated = [(credential.expires_at, credential) for credential in working if credential.expires_at is not None]
    return CredentialLifetime(
        len(working),
        last=max(dated, key=lambda one: one[0])[1] if dated else None,
        unknown=next((credential for credential in working if credential.expires_at is None), None),
        waiting=next((credential for credential in listed if credential_checks.awaits_upload(credential)), None),
    )


def successor(credential: AppCredential, live: Iterable[AppCredential]) -> AppCredential | None:
    """A newer credential that Microsoft has accepted and that lasts longer: this one can be retired."""
    if credential.retired_at is not None or credential.expires_at is None:
        return None
    for other in live:
        longer = other.expires_at is not None and other.expires_at > credential.expires_at
        if longer and other.created_at > credential.created_at and other.verified_at and is_usable(other):
            return other
    return None


def _credential(connection: Connection, last: CredentialLifetime, now: datetime) -> Iterable[Forecast]:
    name = connection.app_registration.name
    action = "An IT admin must add a new one."
    if last.waiting is not None:
        action = "An IT admin must upload the certificate that is ready to Entra and press “I uploaded it”."
    if not last.working:
        yield Forecast(
            now,
            Reason.CREDENTIAL,
            f"the app registration {name} has no credential left that Microsoft would accept.",
            action,
            Who.IT_ADMIN,
            certain=False,
        )
    if last.last is None or last.until is None:
        return
    if last.until <= now and connection.refreshed_at is not None and connection.refreshed_at > last.until:
        return  # Microsoft has accepted it since: the date on record is wrong
    kind = last.last.get_kind_display().lower()
    what = f"the app registration's only {kind}" if last.working == 1 else "the last credential that works"
    certain = is_certain(last.last)
    known = "" if certain else ", by the date that was entered here"
    cause = f"{what} ({name}) expires{known}."
    yield Forecast(last.until, Reason.CREDENTIAL, cause, action, Who.IT_ADMIN, certain)


# --- The sign-in itself ---------------------------------------------------------------------------


def _sign_in(connection: Connection, now: datetime) -> Iterable[Forecast]:
    """Conditional Access' sign-in frequency, as AADSTS70043 told it (Microsoft: identity-platform error codes)."""
    if not connection.is_delegated or connection.sign_in_max_age is None or connection.connected_at is None:
        return
    at = connection.connected_at + timedelta(seconds=connection.sign_in_max_age)
    if at <= now and connection.refreshed_at is not None and connection.refreshed_at > at:
        return  # Microsoft has renewed it since, so the policy is gone
    yield Forecast(
        at,
        Reason.SIGN_IN,
        f"a policy of {connection.app_registration.tenant} asks for a new sign-in every "
        f"{_span(connection.sign_in_max_age)}; Microsoft said so when it last refused this connection.",
        "Its owner can sign in again before then: the time starts anew.",
        Who.OWNER,
        certain=False,
    )


def _is_parked(connection: Connection, now: datetime) -> bool:
    if not connection.is_delegated or connection.refreshed_at is None:
        return False
    stopped = connection.status in PARKED or connection.is_blocked_by_app
    return stopped or connection.refreshed_at < now - FRESH


def _idle(connection: Connection) -> Iterable[Forecast]:
    if connection.refreshed_at is None:
        return
    if connection.status == Status.DISABLED:
        action, who = "Enable it before then; afterwards its owner must sign in again.", Who.OWNER
    elif connection.is_blocked_by_app:
        action, who = "An IT admin must mend the app registration before then.", Who.IT_ADMIN
    elif connection.status == Status.ACTIVE:
        action, who = "An operator must find out why the portal does not refresh it.", Who.IT_ADMIN
    else:
        action = "What stops it must be mended before then; afterwards its owner must sign in again."
        who = Who(connection.status_who or Who.IT_ADMIN)
    yield Forecast(
        connection.refreshed_at + IDLE_LIMIT,
        Reason.IDLE,
        "nothing renews its grant just now, and Microsoft forgets a grant that was not used for 90 days.",
        action,
        who,
        certain=True,
    )


def _span(seconds: int) -> str:
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return word if count == 1 else f"{count} {word}s"
    return f"{seconds} seconds"
