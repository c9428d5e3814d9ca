"""Sign-in links let a person without an account in this portal sign in at Microsoft for a connection.

A link allows nothing else, and its token is not stored. Every step checks again that the link's creator still has the
permission.
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
from connections.services.notifications import alerts
from connections.services.policy import approvals

LIFETIME = timedelta(minutes=30)
RETENTION = timedelta(days=1)  # after a link expires, so that its page can still say so
PRUNE_BATCH = 1000  # rows deleted at once


class LinkUnusable(PortalError):
    """The link is invalid, used or expired. ``cause`` tells its holder only what they may know."""

    code = "link_over"
    status = 410
    cause = "This link isn't valid."
    action = "Ask the sender for a new one."


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
        roles.require(_has_right(connection, actor), action="Only its owner can create a sign-in link.")
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
    """Return the link with this token, without changing the link. Raises LinkUnusable."""
    link = SignInLink.objects.select_related("made_by").filter(digest=_digest(token)).first()
    return _require_usable(link, now)


def bind_to_browser(token: str, *, browser: str, now: datetime) -> OpenedLink:
    """Bind the link to the first browser that opens it. Raises LinkUnusable in any other browser.

    ``browser`` is a secret in the browser's session.
    """
    opened = open_link(token, now=now)
    SignInLink.objects.filter(pk=opened.link.pk, browser_digest="").update(browser_digest=_digest(browser))
    opened.link.refresh_from_db(fields=["browser_digest"])
    _require_browser(opened.link, browser)
    return opened


def resume(pk: int, *, browser: str, now: datetime, is_later_step: bool = False) -> OpenedLink:
    """Return the link whose sign-in returns from Microsoft in this browser. Raises LinkUnusable.

    The first step of the sign-in uses the link up. ``is_later_step`` allows a step for another resource shortly
    afterwards.
    """
    link = SignInLink.objects.select_related("made_by").filter(pk=pk).first()
    if is_later_step and link is not None and link.used_at is not None and link.used_at > now - LIFETIME:
        link.used_at = None
        link.expires_at = max(link.expires_at, now + LIFETIME)
    opened = _require_usable(link, now)
    _require_browser(opened.link, browser)
    return opened


def mark_used(link: SignInLink, *, account: str, now: datetime) -> None:
    """Mark the link as used by ``account`` (a user name), and email its creator and the connection's owner.

    Call it in the sign-in's transaction. Raises LinkUnusable if the link was already used or revoked.
    """
    unused = SignInLink.objects.filter(pk=link.pk, used_at=None, ended_at=None)
    if not unused.update(used_at=now, account=account[:320]):
        raise _used()
    connection = Connection.objects.select_related("owner").get(pk=link.connection_id)
    message = alerts.Message(
        subject=f"Sign-in link used: {connection}",
        paragraphs=(
            f"{account} signed in with the link that {link.made_by} created.",
            "If you don't know this account, disable the connection and ask an IT admin.",
        ),
        path=f"/connections/{connection.pk}/",
        button="View connection",
        why="You received this email because you own this connection or created the link.",
        facts=(("Connection", connection.name), ("Account", account), ("Link created by", str(link.made_by))),
    )
    people = [link.made_by, *([connection.owner.contact] if connection.owner.contact else [])]
    alerts.notify(people, message, about=f"sign-in-link:{link.pk}:used", now=now, is_alarm=True)


def last_used(connection: Connection) -> SignInLink | None:
    """Return the link that was used last, or None. Links are deleted a day after they expire."""
    return SignInLink.objects.filter(connection=connection).exclude(used_at=None).select_related("made_by").first()


def actor_name(link: SignInLink) -> str:
    """Return the actor's name for audit events of a sign-in with this link. The person may be unknown."""
    return f"Sign-in link made by {audit.recorded_name(link.made_by)}"


def revoke_open(connection: Connection, *, now: datetime) -> None:
    """Revoke open links, for example because the sign-in would now request permissions that were not announced."""
    SignInLink.objects.filter(connection=connection, used_at=None, ended_at=None).update(ended_at=now)


def prune(*, now: datetime) -> int:
    """Delete links that expired more than a day ago. Returns how many were deleted."""
    old = SignInLink.objects.filter(expires_at__lte=now - RETENTION).order_by("expires_at")
    total = 0
    while pks := list(old.values_list("pk", flat=True)[:PRUNE_BATCH]):
        total += SignInLink.objects.filter(pk__in=pks).delete()[0]
    return total


def _require_usable(link: SignInLink | None, now: datetime) -> OpenedLink:
    if link is None:
        raise LinkUnusable
    if link.used_at is not None:
        raise _used()
    if link.ended_at is not None:
        raise LinkUnusable("This link was replaced by a newer one, or the requested permissions have changed.")
    if link.expires_at <= now:
        raise LinkUnusable("This link has expired. Links are valid for 30 minutes.")
    connection = Connection.objects.with_related().get(pk=link.connection_id)
    # Don't audit this as a denial, because the person signed in here may have nothing to do with the link.
    if not _has_right(connection, link.made_by) or _obstacle(connection) is not None:
        raise LinkUnusable("The sender of this link can no longer connect accounts here.")
    return OpenedLink(link, connection, link.made_by)


def _has_right(connection: Connection, creator: User) -> bool:
    return not creator.is_suspended and permissions.can_reconnect(creator, connection)


def _obstacle(connection: Connection) -> NotAllowed | None:
    """Return why no person can sign in for the connection, or None if someone can."""
    app = connection.app_registration
    if app.is_personal:  # the link would give the member's own application access to a stranger's mailbox
        cause = f"Only the person who added {app} can sign in with it."
        return NotAllowed(cause, action="Ask an IT admin to open it to everyone.")
    if not connection.is_delegated:
        return NotAllowed("App-only connections don't have a sign-in.", action="Use “Check now” instead.")
    if connection.status == Connection.Status.DISABLED:
        return NotAllowed("This connection is disabled.", action="Enable it first.")
    return None


def _require_browser(link: SignInLink, browser: str) -> None:
    if not browser or not hmac.compare_digest(link.browser_digest, _digest(browser)):
        raise LinkUnusable("This link was already opened in another browser.")


def _used() -> LinkUnusable:
    return LinkUnusable("This link was already used to sign in.", action="No action needed.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
