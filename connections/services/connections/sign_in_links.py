"""Sign-in links let a person without an account in this portal sign in at Microsoft for a connection.

A link allows nothing else, and its token is not stored. Every step checks again that its creator has the permission.
"""

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
RETENTION = timedelta(days=1)  # after a link expires, so that its page can still say so
PRUNE_BATCH = 1000  # rows per run


class LinkUnusable(PortalError):
    """The link is invalid, used or expired; ``cause`` tells its holder no more than they may know."""

    code = "link_over"
    status = 410
    cause = "This link is not valid."
    action = "Ask whoever sent it for a new one."


@dataclass(frozen=True, slots=True)
class OpenedLink:
    link: SignInLink
    connection: Connection
    made_by: User


def create(connection: Connection, *, actor: User, now: datetime) -> tuple[SignInLink, str]:
    """Return a new link and its token, revoking earlier links. Raises NotAllowed, PolicyForbids or ApprovalNeeded."""
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
        connection.refresh_from_db(fields=["owner"])
        roles.require(_has_right(connection, actor), action="Only its owner can let somebody sign in.")
        obstacle = _obstacle(connection)
        if obstacle is not None:
            raise obstacle
        approvals.require_grant(connection, ())
        revoke_open(connection, now=now)
        link = SignInLink.objects.create(
            connection=connection, digest=_digest(token), made_by=actor, created_at=now, expires_at=now + LIFETIME
        )
        changes = {"link": link.pk, "expires_at": str(link.expires_at)}
        audit.record(AuditAction.CONNECTION_SIGN_IN_LINK_MADE, connection, actor=actor, at=now, changes=changes)
    return link, token


def open_link(token: str, *, now: datetime) -> OpenedLink:
    """Return the link with this token, without changing it. Raises LinkUnusable."""
    link = SignInLink.objects.select_related("made_by").filter(digest=_digest(token)).first()
    return _require_usable(link, now)


def bind_to_browser(token: str, *, browser: str, now: datetime) -> OpenedLink:
    """Bind the link to the first ``browser`` (a session's secret) that opens it. Raises LinkUnusable in any other."""
    opened = open_link(token, now=now)
    SignInLink.objects.filter(pk=opened.link.pk, browser_digest="").update(browser_digest=_digest(browser))
    opened.link.refresh_from_db(fields=["browser_digest"])
    _require_browser(opened.link, browser)
    return opened


def resume(pk: int, *, browser: str, now: datetime) -> OpenedLink:
    """Return the link whose sign-in returns from Microsoft in this browser. Raises LinkUnusable."""
    opened = _require_usable(SignInLink.objects.select_related("made_by").filter(pk=pk).first(), now)
    _require_browser(opened.link, browser)
    return opened


def mark_used(link: SignInLink, *, now: datetime) -> None:
    """Mark the link as used, in the sign-in's transaction. Raises LinkUnusable if it was already used or revoked."""
    if not SignInLink.objects.filter(pk=link.pk, used_at=None, ended_at=None).update(used_at=now):
        raise _used()


def actor_name(link: SignInLink) -> str:
    """Return the actor's name for audit events of a sign-in by this link, because the person may be unknown."""
    return f"Sign-in link made by {audit.recorded_name(link.made_by)}"


def revoke_open(connection: Connection, *, now: datetime) -> None:
    """Revoke open links, for example because the sign-in would now request permissions that were not announced."""
    SignInLink.objects.filter(connection=connection, used_at=None, ended_at=None).update(ended_at=now)


def prune(*, now: datetime) -> int:
    """Delete links that expired more than a day ago, and return how many."""
    old = SignInLink.objects.filter(expires_at__lte=now - RETENTION).order_by("expires_at")
    deleted, _ = SignInLink.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:PRUNE_BATCH])).delete()
    return deleted


def _require_usable(link: SignInLink | None, now: datetime) -> OpenedLink:
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
    # Not audited as denied, because the reader may be signed in as somebody unrelated to the link.
    if not _has_right(connection, link.made_by) or _obstacle(connection) is not None:
        raise LinkUnusable("Whoever sent this link may no longer connect mailboxes here.")
    return OpenedLink(link, connection, link.made_by)


def _has_right(connection: Connection, creator: User) -> bool:
    return creator.is_active and permissions.can_reconnect(creator, connection)


def _obstacle(connection: Connection) -> NotAllowed | None:
    """Return why no person can sign in for the connection, or None if somebody can."""
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
