"""API keys: shown once, looked up by prefix, compared by digest."""

import hashlib
import hmac
import ipaddress
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InUse, InvalidApiKey, InvalidInput
from connections.models import ApiKey, Connection, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.api_keys import token_requests
from connections.services.policy import four_eyes, self_access
from connections.uniqueness import atomic_or

KEY_PREFIX = "m365p"  # lets secret scanners recognise a leaked key; the checksum avoids false positives
_ALPHABET = string.ascii_letters + string.digits
_PREFIX_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 10, 32, 6
# Compared instead if the key does not exist, so that an unknown key takes as long to check as a wrong one.
_DUMMY_DIGEST = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
USE_RECORDED_EVERY = timedelta(minutes=1)  # a busy automation should not cause a write per call
MAX_OVERLAP = timedelta(days=30)


def issue(
    owner: User,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
    connections: Sequence[Connection] = (),
    networks: Sequence[str] = (),
    can_narrow: bool = False,
    actor: User,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Create a key limited to ``connections``, and return the key and its text.

    If ``connections`` is empty, the key can use every connection that its owner can use. Raises NotAllowed,
    InvalidInput, AlreadyExists, or SecondPersonNeeded if the owner is a service account that can use other people's
    connections.
    """
    roles.require(
        permissions.can_issue_key(actor, owner),
        cause="You can create only your own API keys. IT admins create those of service accounts.",
        action="Ask the owner or an IT admin.",
    )
    _check_owner(owner, scopes)
    _check_expiry(expires_at, now)
    text, prefix = generate_key()
    cause = f"You already have a key named “{name}”."
    with atomic_or(lambda: AlreadyExists(cause, action="Choose another name.", field="name")):
        change = self_access.of_key(owner, key=None, chosen=connections, actor=actor)
        four_eyes.require(change, actor=actor, now=now)
        key = ApiKey.objects.create(
            name=name,
            owner=owner,
            prefix=prefix,
            digest=digest(text),
            scopes=list(scopes),
            networks=[str(ipaddress.ip_network(network, strict=False)) for network in networks],
            only_chosen=bool(connections),
            can_narrow=can_narrow,
            expires_at=expires_at,
            created_at=now,
            issued_by=actor,
        )
        key.connections.set(connections)
        audit.record(AuditAction.API_KEY_ISSUED, key, actor=actor, changes=_facts(key, connections))
    return key, text


def _facts(key: ApiKey, connections: Sequence[Connection]) -> dict[str, object]:
    facts: dict[str, object] = {
        "prefix": key.prefix,
        "scopes": audit.join_values(key.scopes),
        "expires_at": _text(key.expires_at),
        "connections": audit.join_values(connections),
        "networks": audit.join_values(key.networks),
    }
    return facts | ({"can_narrow": True} if key.can_narrow else {})


def _check_owner(owner: User, scopes: Sequence[str]) -> None:
    if not scopes:
        raise InvalidInput("Choose at least one scope.", field="scopes")
    excess = [scope for scope in scopes if scope not in permissions.scopes_for(owner)]
    if excess:
        raise InvalidInput(f"Keys of {owner} can't have these scopes: {audit.join_values(excess)}.", field="scopes")
    if owner.is_suspended:
        raise InvalidInput(f"{owner} is disabled or has left, so no key of it would work.", action="Enable it first.")


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    max_days = settings.API_KEY_MAX_DAYS
    if expires_at is None:
        if max_days:
            action = f"Choose a date at most {max_days} days from today."
            raise InvalidInput("Enter an expiration date.", action=action, field="expires_at")
        return
    if expires_at <= now:
        raise InvalidInput("Choose a date in the future.", field="expires_at")
    # Add a day, because a key works until the end of its last day.
    if max_days and expires_at > now + timedelta(days=max_days + 1):
        raise InvalidInput(f"API keys can be valid for at most {max_days} days.", field="expires_at")


def rotate(
    key: ApiKey, *, overlap: timedelta, expires_at: datetime | None, actor: User, now: datetime
) -> tuple[ApiKey, str]:
    """Replace the key's secret, and return the key and its new text.

    The old secret stays valid for ``overlap``, unless the key has already expired. Raises NotAllowed, InvalidInput,
    SecondPersonNeeded as in ``issue``, or InUse if the key was rotated or revoked at the same moment.
    """
    allowed = permissions.can_issue_key(actor, key.owner)
    roles.require(allowed, action="Ask its owner, or an IT admin for a service account's key.")
    if key.revoked_at is not None:
        raise InvalidInput("This key is revoked.", action="Create a new one.")
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise InvalidInput(f"The old secret can stay valid for at most {MAX_OVERLAP.days} days.", field="overlap")
    _check_expiry(expires_at, now)
    text, prefix = generate_key()
    until = now + overlap if overlap and key.is_valid(now) else None
    values: dict[str, object] = {
        "prefix": prefix,
        "digest": digest(text),
        "expires_at": expires_at,
        "rotated_at": now,
        "rotated_by": actor,
        "warned_days": None,
        "last_used_at": None,
        "last_used_from": None,
        "previous_prefix": key.prefix if until else None,
        "previous_digest": key.digest if until else "",
        "previous_until": until,
        "previous_used_at": key.last_used_at if until else None,
    }
    with transaction.atomic():
        four_eyes.require(self_access.of_key(key.owner, key=key, actor=actor), actor=actor, now=now)
        if not ApiKey.objects.filter(pk=key.pk, prefix=key.prefix, revoked_at=None).update(**values):
            raise InUse("Someone else rotated or revoked this key.", action="Refresh the page.")
        facts = {
            "prefix": [key.prefix, prefix],
            "expires_at": [_text(key.expires_at), _text(expires_at)],
            "old_secret_until": _text(until),
        }
        audit.record(AuditAction.API_KEY_ROTATED, key, actor=actor, changes=facts)
    set_columns(key, values)
    return key, text


def revoke_previous(key: ApiKey, *, actor: User, now: datetime) -> None:
    """Revoke the secret from before the last rotation. Safe to repeat. Raises NotAllowed."""
    roles.require(permissions.can_revoke_key(actor, key), action="Ask its owner or an IT admin.")
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, previous_until__gt=now).update(
            previous_prefix=None, previous_digest="", previous_until=None
        ):
            facts = {"prefix": key.previous_prefix}
            audit.record(AuditAction.API_KEY_OLD_SECRET_ENDED, key, actor=actor, changes=facts)


def set_rate_limit(key: ApiKey, *, per_minute: int | None, actor: User, now: datetime) -> None:
    """Limit the calls per minute; None means the default for all keys, 0 no limit. Raises NotAllowed."""
    roles.require(permissions.can_limit_key(actor), action="Ask an IT admin.")
    changes = audit.changed_fields(key, {"rate_limit": per_minute})
    if not changes:
        return
    with transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(rate_limit=per_minute)
        audit.record(AuditAction.API_KEY_LIMITED, key, actor=actor, changes=changes)
    key.rate_limit = per_minute


def revoke(key: ApiKey, *, actor: User, now: datetime) -> None:
    """Revoke a key with both its secrets. Safe to repeat. Raises NotAllowed."""
    roles.require(permissions.can_revoke_key(actor, key), action="Ask its owner or an IT admin.")
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
            audit.record(AuditAction.API_KEY_REVOKED, key, actor=actor, changes={"prefix": key.prefix})


def _text(moment: datetime | None) -> str | None:
    return str(moment) if moment else None


def authenticate(text: str, *, address: str | None, now: datetime) -> ApiKey:
    """Return the key that a client sent, and record its use.

    Raises InvalidApiKey, with the same message for unknown, wrong, revoked and expired keys and for keys of people
    who have left or are disabled. Only a wrong network has its own message, because only the holder of a valid key sees it.
    """
    prefix = prefix_of(text)
    either = Q(prefix=prefix) | Q(previous_prefix=prefix)
    rows = ApiKey.objects.select_related("owner").filter(either).order_by()
    key = check(next(iter(rows[:1]), None) if prefix else None, text, address=address, now=now)
    note_use(key, text, address=address, now=now)
    return key


def check(key: ApiKey | None, text: str, *, address: str | None, now: datetime) -> ApiKey:
    """Check ``text`` against the key with its prefix (None: no such key), and return the key.

    Raises InvalidApiKey if the text is wrong, the key is not valid, or it may not be used from ``address``.
    """
    is_previous = key is not None and not _has_prefix(text, key.prefix)
    known = _DUMMY_DIGEST if key is None else key.previous_digest if is_previous else key.digest
    is_right = hmac.compare_digest(known, digest(text))
    if key is None or not is_right or not key.is_valid(now) or key.owner.is_suspended:
        raise InvalidApiKey
    if is_previous and not key.takes_previous(now):
        raise InvalidApiKey
    if key.networks and not _is_within(address, key.networks):
        raise InvalidApiKey(
            f"This API key isn't allowed from {address or 'this address'}.",
            action="Use it from an allowed network, or create another key.",
        )
    return key


def rate_limit_of(key: ApiKey) -> int:
    """Return the allowed calls per minute; 0 means no limit."""
    return key.rate_limit if key.rate_limit is not None else int(settings.API_RATE_LIMIT)


def note_use(key: ApiKey, text: str, *, address: str | None, now: datetime) -> None:
    """Record when and from where the key was used, at most once a minute."""
    is_previous = not _has_prefix(text, key.prefix)
    column = "previous_used_at" if is_previous else "last_used_at"
    before: datetime | None = getattr(key, column)
    if before is None or now - before >= USE_RECORDED_EVERY:
        values: dict[str, object] = {column: now} if is_previous else {column: now, "last_used_from": address}
        # Filter by prefix too: if the key was rotated in between, the column describes another secret.
        same = ApiKey.objects.filter(Q(**{column: None}) | Q(**{f"{column}__lt": now}), pk=key.pk, prefix=key.prefix)
        same.update(**values)


def record_token_request(
    key: ApiKey,
    connection: Connection,
    *,
    resource: str = "graph",
    reference: str = "",
    address: str | None,
    now: datetime,
) -> None:
    """Count a token that is about to be sent. ``reference`` names the connection reference in the request, if any."""
    owner = f"{key.owner} <{key.owner.username}>"
    request = token_requests.TokenRequest(
        key.pk, key.name, owner, connection.pk, connection.name, address, resource, reference
    )
    token_requests.record([request], now=now)


def generate_key() -> tuple[str, str]:
    prefix = _random(_PREFIX_LENGTH)
    body = f"{KEY_PREFIX}_{prefix}_{_random(_SECRET_LENGTH)}"
    return body + _checksum(body), prefix


def prefix_of(text: str) -> str:
    """Return the prefix of a key, without a database query, or "" if the key is malformed."""
    body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    parts = body.split("_")
    well_formed = len(parts) == 3 and parts[0] == KEY_PREFIX and len(parts[2]) == _SECRET_LENGTH
    return parts[1] if well_formed and text.isascii() and _checksum(body) == checksum else ""


def _has_prefix(text: str, prefix: str) -> bool:
    return text.startswith(f"{KEY_PREFIX}_{prefix}_")


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode("utf-8", "replace")), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, remainder = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[remainder]
    return letters


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def digest(text: str) -> str:
    """Return the SHA-256 of a key's text, in hex. No salt is needed, because the text has 190 random bits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _is_within(address: str | None, networks: Sequence[str]) -> bool:
    try:
        client = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    # A server that listens on IPv6 sees an IPv4 client as ::ffff:192.0.2.1.
    client = getattr(client, "ipv4_mapped", None) or client
    return any(client in ipaddress.ip_network(network) for network in networks)
