"""Limits for guessing passwords: per name, per address (for IPv6 per /64), per name and address, and overall.

An attempt is counted before the password is checked, so that simultaneous attempts cannot exceed a limit. Other people
cannot lock the owner out: a browser or an address from which the owner signed in before has its own limit (OWASP:
device cookies).
"""

import ipaddress
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils.crypto import salted_hmac

from connections import audit
from connections.errors import PortalError
from connections.models import AuditEvent, SignInLimit, User
from connections.models.audit import AuditAction

Kind = SignInLimit.Kind

WINDOW = timedelta(minutes=15)  # the period in which attempts are counted, and the length of a pause
KNOWN_FOR = timedelta(days=90)  # an address is known for this long after a sign-in
MOST_STARTS = 300  # sign-ins started from one address in a window; a whole office may arrive at nine
MOST_OF_ALL_STARTS = 20_000  # sign-ins started from all addresses in a window; their sessions are deleted after an hour
# Multiples of LOGIN_FAILURE_LIMIT.
_TIMES = {Kind.PAIR: 1, Kind.DEVICE: 1, Kind.SECOND_FACTOR: 1, Kind.ADDRESS: 2, Kind.NAME: 4, Kind.OVERALL: 20}
# Buckets of one name in one place. Their failures are recorded; other buckets only record pauses.
_SINGLE = (Kind.PAIR, Kind.DEVICE, Kind.SECOND_FACTOR)
_CLOSED_TOGETHER, _SILENT_TOGETHER = 1000, 10_000


class TooManyAttempts(PortalError):
    code = "too_many_attempts"
    status = 429
    cause = "There were too many failed sign-ins, so further ones are refused for now."
    action = "Try again later."

    def __init__(self, until: datetime) -> None:
        super().__init__()
        self.until = until


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was counted. It ends with ``succeed`` or ``fail``."""

    name: str
    buckets: tuple[tuple[str, str, str], ...]  # kind, key and label, in the order in which they are locked


def begin(name: str, *, address: str | None, device: str, now: datetime) -> Attempt:
    """Count an attempt to sign in. ``device`` is the id of a browser known for this name, or "".

    Raises TooManyAttempts, and then only the number of refused attempts has changed.
    """
    network = network_of(address)
    pair = (Kind.PAIR, key_of(name, network), name)
    if device:
        buckets: tuple[tuple[str, str, str], ...] = ((Kind.DEVICE, key_of(device), name),)
    elif SignInLimit.objects.filter(kind=Kind.KNOWN_ADDRESS, key=pair[1], ends_at__gt=now).exists():
        buckets = ((Kind.ADDRESS, key_of(network), network), pair)
    else:
        address_bucket, name_bucket = (Kind.ADDRESS, key_of(network), network), (Kind.NAME, key_of(name), name)
        buckets = ((Kind.OVERALL, "", ""), address_bucket, name_bucket, pair)
    attempt = Attempt(name, buckets)
    _count(attempt.buckets, now)
    return attempt


def begin_second_factor(person: User, *, now: datetime) -> Attempt:
    """Count an attempt with a second factor. Raises TooManyAttempts."""
    attempt = Attempt(person.username, ((Kind.SECOND_FACTOR, str(person.pk), person.username),))
    _count(attempt.buckets, now)
    return attempt


def begin_at_microsoft(*, address: str | None, now: datetime) -> None:
    """Count the start of a sign-in at Microsoft, because each start stores a session. Raises TooManyAttempts."""
    network = network_of(address)
    _count(((Kind.ALL_STARTS, "", ""), (Kind.START, key_of(network), network)), now)


def fail(attempt: Attempt, *, reason: str, now: datetime) -> datetime | None:
    """Record the failure. Returns the end of the pause if further attempts are refused, otherwise None.

    The first failure of a window gets an audit event. The others become one event when the window is over.
    """
    until = None
    with transaction.atomic():
        for kind, key, _ in attempt.buckets:
            row = SignInLimit.objects.select_for_update().filter(kind=kind, key=key).first()
            if row is None:
                continue
            if kind in _SINGLE and not row.is_recorded:
                record_failure(attempt.name, reason=reason)
                row.is_recorded = True
                row.save(update_fields=["is_recorded"])
            if row.count >= limit_of(kind) and row.paused_at is None:
                row.paused_at, row.ends_at = now, now + WINDOW
                row.save(update_fields=["paused_at", "ends_at"])
                changes = {"reason": "locked_out", "limit": row.get_kind_display(), "failures": row.count}
                _record(row.label or "(everybody)", changes)
            if row.paused_at is not None:
                until = max(until or row.ends_at, row.ends_at)
    return until


def succeed(attempt: Attempt) -> None:
    """Take the attempt out of the counts, and close the window of this name and place."""
    with transaction.atomic():
        for kind, key, _ in attempt.buckets:
            row = SignInLimit.objects.select_for_update().filter(kind=kind, key=key).first()
            if row is None:
                continue
            row.count = max(0, row.count - 1)
            if kind in _SINGLE:
                _close(row)
            else:
                row.save(update_fields=["count"])


def remember_address(name: str, *, address: str | None, now: datetime) -> None:
    """Remember the address from which the name has signed in."""
    key = key_of(name, network_of(address))
    values = {"ends_at": now + KNOWN_FOR}
    SignInLimit.objects.update_or_create(kind=Kind.KNOWN_ADDRESS, key=key, defaults=values)


def refused_elsewhere(name: str, *, reason: str, address: str | None, now: datetime) -> None:
    """Record a sign-in that was refused before any password was checked. Repeats from one address become one event."""
    network = network_of(address)
    with transaction.atomic():
        row = _open_row(Kind.REFUSED, key_of(network, reason), network, now)
        if not row.is_recorded:
            record_failure(name, reason=reason)
        row.count, row.is_recorded = row.count + 1, True
        row.save(update_fields=["count", "is_recorded"])


def close_windows(*, now: datetime) -> int:
    """Turn the counts of past windows into audit events, and delete the rows. Returns the number of deleted rows.

    Safe to run concurrently.
    """
    # Most rows need no event.
    silent = SignInLimit.objects.filter(ends_at__lte=now, refused=0).exclude(kind__in=(*_SINGLE, Kind.REFUSED))
    with transaction.atomic():
        # Skip locked rows, because waiting for a row that a sign-in has locked could end in a deadlock.
        free = list(silent.select_for_update(skip_locked=True).values_list("pk", flat=True)[:_SILENT_TOGETHER])
        closed, _ = SignInLimit.objects.filter(pk__in=free).delete()
    pks = SignInLimit.objects.filter(ends_at__lte=now).order_by("ends_at").values_list("pk", flat=True)
    for pk in list(pks[:_CLOSED_TOGETHER]):
        with transaction.atomic():
            rows = SignInLimit.objects.select_for_update(skip_locked=True).filter(pk=pk, ends_at__lte=now)
            if (row := rows.first()) is not None:
                _close(row)
                closed += 1
    return closed


def record_failure(name: str, *, reason: str) -> None:
    """Record a failed sign-in with the name that was entered."""
    _record(name, {"reason": reason})


def limit_of(kind: str) -> int:
    if kind in (Kind.START, Kind.ALL_STARTS):
        return MOST_STARTS if kind == Kind.START else MOST_OF_ALL_STARTS
    return _TIMES[Kind(kind)] * int(settings.LOGIN_FAILURE_LIMIT)


def network_of(address: str | None) -> str:
    """Return the network that counts as one address.

    For IPv6 this is the /64, because one customer gets a whole /64.
    """
    if not address:
        return "unknown"
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def key_of(*parts: str) -> str:
    """Return the keyed digest of a name (ignoring case) or an address."""
    # Django's UsernameField normalises names in the same way, so all spellings of one person's name count as one.
    text = "\n".join(unicodedata.normalize("NFKC", part).strip().casefold() for part in parts)
    return str(salted_hmac("sign-in-limit", text, algorithm="sha256").hexdigest())


def _count(buckets: Sequence[tuple[str, str, str]], now: datetime) -> None:
    """Count in every bucket, or in none if one of them is full. A refused attempt creates no row."""
    until = None
    with transaction.atomic():
        rows: list[SignInLimit] = []
        for kind, key, label in buckets:
            row = _open_row(kind, key, label, now)
            if row.count >= limit_of(kind):
                row.refused += 1
                row.save(update_fields=["refused"])
                until = row.ends_at
                SignInLimit.objects.filter(pk__in=[empty.pk for empty in rows if not empty.count]).delete()
                break
            rows.append(row)
        else:
            for row in rows:
                row.count += 1
                row.save(update_fields=["count"])
    if until is not None:
        raise TooManyAttempts(until)


def _open_row(kind: str, key: str, label: str, now: datetime) -> SignInLimit:
    """Return the row of the current window, locked."""
    values = {"label": label[:200], "ends_at": now + WINDOW}
    row, _ = SignInLimit.objects.select_for_update().get_or_create(kind=kind, key=key, defaults=values)
    if row.ends_at <= now:
        _close(row)
        row = SignInLimit.objects.create(kind=kind, key=key, **values)
    return row


def _close(row: SignInLimit) -> None:
    """Delete the row, after recording the failures that are not in an event yet."""
    row.delete()
    is_single = row.kind in _SINGLE or row.kind == Kind.REFUSED
    repeated = row.count - row.is_recorded if is_single and row.paused_at is None else 0
    if repeated > 0 or row.refused:
        changes: dict[str, object] = {"reason": "repeated", "limit": row.get_kind_display(), "failures": repeated}
        _record(row.label or "(everybody)", changes | {"refused": row.refused})


def _record(name: str, changes: dict[str, object]) -> None:
    target = User(username=name[:150] or "(unknown)")
    denied = AuditEvent.Outcome.DENIED
    action = AuditAction.ACCOUNT_SIGN_IN_FAILED
    audit.record(action, target, actor=None, actor_name=target.username, changes=changes, outcome=denied)
