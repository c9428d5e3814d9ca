"""Sign-in links: the owner of a mailbox, who needs no account here, gives a connection its grant.

Whoever holds a link can do one thing with it: sign in at Microsoft for this connection. All that is decided is decided
with the rights of the person who made it, and looked at again at every step.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import NotAllowed, PortalError
from connections.models import Connection, SignInLink, User
from connections.models.audit import AuditAction
from connections.services.policy import approvals

LIFETIME = timedelta(minutes=30)
RETENTION = timedelta(days=1)  # after its end, so that its page can still say why it is over
PRUNE_BATCH = 1000  # rows one tick removes


class LinkUnusable(PortalError):
    """The link cannot be used (any more); ``cause`` says why as far as its holder may know."""

    code = "link_over"
    status = 410
    cause = "This link is not valid."
    action = "Ask whoever sent it for a new one."


@dataclass(frozen=True, slots=True)
class OpenedLink:
    """A link that its holder may go on with, as its page shows it."""

    link: SignInLink
    connection: Connection
    made_by: User


def create(connection: Connection, *, actor: User, now: datetime) -> tuple[SignInLink, str]:
    """Make a link and return it with its token, which is nowhere kept. An earlier one of the connection is over.

    Raises NotAllowed, PolicyForbids, or ApprovalNeeded.
    """
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
        connection.refresh_from_db(fields=["owner"])
        _require_right(connection, actor)
        approvals.require_grant(connection, ())
        revoke_open(connection, now=now)
        link = SignInLink.objects.create(
            connection=connection, digest=_digest(token), made_by=actor, created_at=now, expires_at=now + LIFETIME
        )
        facts = {"link": link.pk, "expires_at": str(link.expires_at)}
        audit.record(AuditAction.CONNECTION_SIGN_IN_LINK_MADE, connection, actor=actor, at=now, changes=facts)
    return link, token


def open_link(token: str, *, now: datetime) -> OpenedLink:
    """What the page of a link shows. Looking changes nothing. Raises LinkOver."""
    return _usable(SignInLink.objects.filter(digest=_digest(token)), now)


def bind_to_browser(token: str, *, browser: str, now: datetime) -> OpenedLink:
    """Bind the link to the browser that goes on with it; again in the same browser is fine. Raises LinkOver.

    ``browser`` is a secret that only this browser's session holds.
    """
    opened = open_link(token, now=now)
    mine = _digest(browser)
    SignInLink.objects.filter(pk=opened.link.pk, browser_digest="").update(browser_digest=mine)
    opened.link.refresh_from_db(fields=["browser_digest"])
    _require_browser(opened.link, browser)
    return opened


def resume(pk: int, *, browser: str, now: datetime) -> OpenedLink:
    """The link whose sign-in comes back from Microsoft in this browser. Raises LinkOver."""
    opened = _usable(SignInLink.objects.filter(pk=pk), now)
    _require_browser(opened.link, browser)
    return opened


def mark_used(link: SignInLink, *, now: datetime) -> None:
    """End the link with the sign-in that succeeds, inside its transaction. Raises LinkOver if it was used before."""
    if not SignInLink.objects.filter(pk=link.pk, used_at=None, ended_at=None).update(used_at=now):
        raise _used()


def actor_name(link: SignInLink) -> str:
    """How a sign-in by this link stands in the audit trail in place of a person."""
    return f"Sign-in link made by {audit.recorded_name(link.made_by)}"


def revoke_open(connection: Connection, *, now: datetime) -> None:
    """End what links there are: their holders were told of something else than is asked for now."""
    SignInLink.objects.filter(connection=connection, used_at=None, ended_at=None).update(ended_at=now)


def prune(*, now: datetime) -> int:
    """Remove links that ended more than a day ago; returns how many rows went."""
    old = SignInLink.objects.filter(expires_at__lte=now - RETENTION).order_by("expires_at")
    gone, _ = SignInLink.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:PRUNE_BATCH])).delete()
    return gone


# --- Parts ----------------------------------------------------------------------------------------


def _usable(found: object, now: datetime) -> OpenedLink:
    links = found.select_related("made_by")  # type: ignore[attr-defined]
    link: SignInLink | None = links.first()
    if link is None:
        raise LinkUnusable
    if link.used_at is not None:
        raise _used()
    if link.ended_at is not None:
        raise LinkUnusable(
            "A newer link has been made, or something else is asked for now, so this one no longer works."
        )
    if link.expires_at <= now:
        raise LinkUnusable("This link is too old: it worked for 30 minutes.")
    connection = Connection.objects.select_related("app_registration__tenant", "owner").get(pk=link.connection_id)
    # Nothing is denied to whoever looks: they may be signed in here as somebody who has no part in it.
    if not _has_right(connection, link.made_by) or _unfit(connection) is not None:
        raise LinkUnusable("Whoever sent this link may no longer connect mailboxes here.")
    return OpenedLink(link, connection, link.made_by)


def _require_right(connection: Connection, maker: User) -> None:
    roles.require(_has_right(connection, maker), action="Only its owner can let somebody sign in.")
    unfit = _unfit(connection)
    if unfit is not None:
        raise unfit


def _has_right(connection: Connection, maker: User) -> bool:
    return maker.is_active and permissions.can_reconnect(maker, connection)


def _unfit(connection: Connection) -> NotAllowed | None:
    """Why nobody can sign in for it, whoever asks; None if somebody can."""
    if not connection.is_delegated:
        return NotAllowed("An app-only connection has no person who could sign in.", action="Use “Check now” instead.")
    if connection.status == Connection.Status.DISABLED:
        return NotAllowed("This connection is disabled.", action="Enable it first.")
    return None


def _require_browser(link: SignInLink, browser: str) -> None:
    if not browser or not hmac.compare_digest(link.browser_digest, _digest(browser)):
        raise LinkUnusable("This link was already opened in another browser.")


def _used() -> LinkUnusable:
    return LinkUnusable(
        "This link has been used: somebody has signed in with it.", action="Nothing more needs to be done."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
