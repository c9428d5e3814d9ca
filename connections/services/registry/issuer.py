"""The portal as an OpenID issuer: its signing keys, the documents it publishes, and whether Microsoft can read them.

Microsoft caches the published keys for a while. So a key is published before it signs, and stays published after its
last use.
"""

import ipaddress
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max

from connections import audit
from connections.errors import UnreadableSecret
from connections.microsoft import clouds, federation
from connections.models import AppCredential, IssuerKey, User
from connections.models.audit import AuditAction

logger = logging.getLogger(__name__)

JWKS_PATH = "/.well-known/jwks.json"
ROTATE_AFTER = timedelta(days=90)
PUBLISH_BEFORE = timedelta(days=2)  # before its first use
KEEP_AFTER = timedelta(days=2)  # after its last use; Microsoft caches published keys for up to 24 hours
MOST_PUBLISHED = 10
_PRIVATE_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")


@dataclass(frozen=True, slots=True)
class Trust:
    """The values to enter in Entra for a federated credential. Microsoft compares all three exactly."""

    issuer: str
    subject: str
    audience: str


def issuer_url() -> str:
    """Return PORTAL_URL. It is always the issuer, whatever Host header a request has."""
    return str(settings.PORTAL_URL)


def unavailable_reason(environment: str = "") -> str:
    """Return why Microsoft can't read the portal's keys, or "" if it can. The sandbox can read them at any URL."""
    if environment == "sandbox":
        return ""
    parts = urlsplit(issuer_url())
    if parts.scheme != "https":
        return f"Microsoft reads the portal's keys over HTTPS, but PORTAL_URL is {issuer_url()}."
    if _is_private(parts.hostname or ""):
        return f"Microsoft reads the portal's keys from the internet, but PORTAL_URL is {issuer_url()}."
    return ""


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)


def signing_key(*, now: datetime) -> federation.SigningKey:
    """Return the key that signs now. Creates the first key when it is needed.

    Raises UnreadableSecret if no configured encryption key opens it.
    """
    rows = IssuerKey.objects.filter(use_after__lte=now).order_by("-number")
    row = rows.first()
    if row is None:
        _add_key(1, use_after=now, now=now, actor=None)
        row = rows.first()
    if row is None or row.private_key is None:
        raise UnreadableSecret
    return federation.SigningKey(row.key_id, row.private_key)


def rotate_due(*, now: datetime) -> None:
    """Publish the next key when the newest one is old, and delete keys that have not signed for a while."""
    newest = IssuerKey.objects.defer("private_key").order_by("-number").first()
    if newest is None:
        return
    if newest.use_after <= now - ROTATE_AFTER:
        _add_key(newest.number + 1, use_after=now + PUBLISH_BEFORE, now=now, actor=None)
    in_use = IssuerKey.objects.filter(use_after__lte=now - KEEP_AFTER).aggregate(Max("number"))["number__max"]
    # Keys older than this one were last used before it began to sign, more than KEEP_AFTER ago.
    for row in IssuerKey.objects.defer("private_key").filter(number__lt=in_use or 0):
        _remove_key(row, actor=None)


def replace_now(*, actor: User | None, now: datetime) -> None:
    """Replace all keys at once, because one may have leaked.

    For up to a day, until Microsoft reads the published keys again, it may refuse the portal's assertions.
    """
    with transaction.atomic():
        rows = list(IssuerKey.objects.defer("private_key").select_for_update())
        for row in rows:
            _remove_key(row, actor=actor)
        _add_key(max((row.number for row in rows), default=0) + 1, use_after=now, now=now, actor=actor)


def _add_key(number: int, *, use_after: datetime, now: datetime, actor: User | None) -> None:
    key = federation.generate_key()
    try:
        with transaction.atomic():
            row = IssuerKey.objects.create(
                number=number, key_id=key.key_id, private_key=key.private_key, created_at=now, use_after=use_after
            )
            changes = {"key_id": key.key_id, "use_after": use_after.isoformat()}
            audit.record(AuditAction.ISSUER_KEY_ADDED, row, actor=actor, changes=changes)
    except IntegrityError:
        logger.info("Another process has just added signing key %s.", number)


def _remove_key(row: IssuerKey, *, actor: User | None) -> None:
    with transaction.atomic():
        if IssuerKey.objects.filter(pk=row.pk).delete()[0]:
            audit.record(AuditAction.ISSUER_KEY_REMOVED, row, actor=actor, changes={"key_id": row.key_id})


def discovery_document() -> dict[str, Any]:
    return federation.discovery_document(issuer_url(), f"{issuer_url()}{JWKS_PATH}")


def published_keys() -> dict[str, Any]:
    """Return the JSON Web Key Set. Omits keys whose private part can't be decrypted in its own row."""
    rows = IssuerKey.objects.order_by("-number").values_list("private_key", flat=True)
    try:
        private_keys = list(rows[:MOST_PUBLISHED])
    except UnreadableSecret:
        private_keys = [_readable(pk) for pk in IssuerKey.objects.values_list("pk", flat=True)[:MOST_PUBLISHED]]
    return {"keys": [federation.public_jwk(private_key) for private_key in private_keys if private_key]}


def _readable(pk: int) -> str | None:
    try:
        row = IssuerKey.objects.get(pk=pk)
    except (UnreadableSecret, IssuerKey.DoesNotExist):
        return None
    return row.private_key


def trust_of(credential: AppCredential) -> Trust:
    """Return the values that Entra needs to trust the portal's assertions for this federated credential."""
    cloud = clouds.CLOUDS.get(credential.app_registration.tenant.environment)
    return Trust(issuer_url(), credential.subject, cloud.token_exchange_audience if cloud else "")
