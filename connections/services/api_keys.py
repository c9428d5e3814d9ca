"""API keys: issued once in clear, found by prefix, compared by digest, revoked at once."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from connections import access, audit
from connections.errors import AlreadyExists, InvalidInput, KeyRefused
from connections.models import ApiKey, Connection, TokenFetch, User

MARK = "m365p"  # lets secret scanners recognise a leaked key; the checksum spares them false alarms
_ALPHABET = string.ascii_letters + string.digits
_PREFIX_LENGTH, _SECRET_LENGTH, _CHECK_LENGTH = 10, 32, 6
# Compared with when no key is found, so that an unknown key takes as long as a wrong one.
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
NOTE_USE_EVERY = timedelta(minutes=1)


def issue(
    owner: User,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
    connections: Sequence[Connection] = (),
    networks: Sequence[str] = (),
    actor: User,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its text, which is nowhere kept. Raises NotAllowed, InvalidInput, AlreadyExists."""
    access.require(actor.pk == owner.pk, cause="Keys are made by the people they belong to.")
    if not scopes:
        raise InvalidInput("Choose at least one thing the key may be used for.", field="scopes")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("The end must be in the future.", field="expires_at")
    text, prefix = new_key()
    try:
        with transaction.atomic():
            made = ApiKey.objects.create(
                name=name,
                owner=owner,
                prefix=prefix,
                digest=digest(text),
                scopes=list(scopes),
                networks=[str(ipaddress.ip_network(network, strict=False)) for network in networks],
                only_chosen=bool(connections),
                expires_at=expires_at,
                created_at=now,
            )
            made.connections.set(connections)
            facts = {
                "prefix": prefix,
                "scopes": audit.listed(scopes),
                "expires_at": str(expires_at) if expires_at else None,
                "connections": audit.listed(connections),
                "networks": audit.listed(made.networks),
            }
            audit.record("api_key.issued", made, actor=actor, changes=facts)
    except IntegrityError as taken:
        raise AlreadyExists(
            f"You already have a key called “{name}”.", action="Choose another name.", field="name"
        ) from taken
    return made, text


def revoke(key: ApiKey, *, actor: User, now: datetime) -> None:
    """Make a key worthless at once. Doing it twice is harmless. Raises NotAllowed."""
    access.require(access.can_revoke_key(actor, key), action="Ask its owner or an IT admin.")
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
            audit.record("api_key.revoked", key, actor=actor, changes={"prefix": key.prefix})


# --- Using a key ----------------------------------------------------------------------------------


def authenticate(text: str, *, address: str | None, now: datetime) -> ApiKey:
    """The key behind what a client sent.

    Raises KeyRefused, always with the same words for unknown, wrong, revoked and expired keys, and for keys of
    people who have left; a foreign network is told, because only the holder of the right key learns it.
    """
    prefix = _prefix_of(text)
    found = ApiKey.objects.select_related("owner").filter(prefix=prefix).first() if prefix else None
    right = hmac.compare_digest(found.digest if found else _NOBODY, digest(text))
    if found is None or not right or not found.is_valid(now) or not found.owner.is_active:
        raise KeyRefused
    if found.networks and not _is_within(address, found.networks):
        raise KeyRefused(
            f"This API key may not be used from {address or 'this address'}.",
            action="Use it from the networks it is for, or issue another one.",
        )
    _note_use(found, address, now)
    return found


def limit_of(key: ApiKey) -> int:
    """How often the key may be used in a minute; 0: as often as it likes."""
    return key.rate_limit if key.rate_limit is not None else int(settings.API_RATE_LIMIT)


def _note_use(key: ApiKey, address: str | None, now: datetime) -> None:
    """At most once a minute: a busy automation must not cost a write for every call."""
    if key.last_used_at is None or now - key.last_used_at >= NOTE_USE_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now)
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now, last_used_from=address)


def note_fetch(key: ApiKey, connection: Connection, *, address: str | None, now: datetime) -> None:
    """Count a token that was handed out, one row per key, connection and minute."""
    minute = now.replace(second=0, microsecond=0)
    # A sealed row never changes; a fetch that is noted too late for its minute gets a row of its own.
    this = TokenFetch.objects.filter(key=key, connection=connection, minute=minute, seal=None)
    while not this.update(count=F("count") + 1):
        try:
            with transaction.atomic():
                TokenFetch.objects.create(
                    key=key,
                    key_ref=key.pk,
                    key_name=key.name,
                    owner_name=f"{key.owner} <{key.owner.username}>"[:320],
                    connection=connection,
                    connection_ref=connection.pk,
                    connection_name=connection.name,
                    minute=minute,
                    address=address,
                )
        except IntegrityError:
            continue  # somebody else was first in this minute
        return


# --- The text of a key ----------------------------------------------------------------------------


def new_key() -> tuple[str, str]:
    """The text of a new key, and the prefix it is found by."""
    prefix = _random(_PREFIX_LENGTH)
    body = f"{MARK}_{prefix}_{_random(_SECRET_LENGTH)}"
    return body + _checksum(body), prefix


def _prefix_of(text: str) -> str:
    """The prefix of a well-formed key, "" for anything else; a typing mistake never reaches the database."""
    body, check = text[:-_CHECK_LENGTH], text[-_CHECK_LENGTH:]
    parts = body.split("_")
    well_formed = len(parts) == 3 and parts[0] == MARK and len(parts[2]) == _SECRET_LENGTH
    return parts[1] if well_formed and text.isascii() and _checksum(body) == check else ""


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode("utf-8", "replace")), ""
    for _ in range(_CHECK_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[rest]
    return letters


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def digest(text: str) -> str:
    """What is stored of a key; its text has too many random bits to be guessed from it."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _is_within(address: str | None, networks: Sequence[str]) -> bool:
    try:
        here = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return any(here in ipaddress.ip_network(network) for network in networks)
