"""Apply the callback and the checks of a consent link: update the link and its requests, and email people."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from connections import audit
from connections.models import AuditEvent, ConsentLink, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.consent import request_status
from connections.services.notifications import alerts

State = ConsentLink.State
# Times between the checks after a callback. Microsoft usually shows a grant within minutes, rarely after hours.
CHECKS = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 15, 30, 60, 120, 240, 480))
UNANSWERED_CHECK = timedelta(hours=1)  # how often tokens are checked while a link has had no callback
SETTLED_AFTER = timedelta(minutes=15)  # after this time, missing permissions make it a partial grant


def next_check(link: ConsentLink, now: datetime) -> datetime | None:
    """Return the time of the check after the one that is due, or None if that is the last one."""
    if link.state == State.OPEN:
        return now + UNANSWERED_CHECK
    return now + CHECKS[link.checks + 1] if link.checks + 1 < len(CHECKS) else None


def record_answer(link: ConsentLink, values: dict[str, Any], *, actor: User | None, now: datetime) -> bool:
    """Store the result of the callback to an open link. Returns whether the link was still open.

    ``actor`` is None if nobody is signed in. Then the event names the link, because anybody could have sent the
    callback.
    """
    with transaction.atomic():
        # If two browsers return with the same link, only one finds it open.
        if not ConsentLink.objects.filter(pk=link.pk, state=State.OPEN).update(**values):
            return False
        set_columns(link, values)
        is_reported = link.state == State.GRANTED
        audit.record(
            AuditAction(f"consent.{link.state}"),
            link.app_registration,
            actor=actor,
            actor_name="" if actor else f"Consent link made by {audit.recorded_name(link.requested_by)}"[:320],
            outcome=AuditEvent.Outcome.DONE if is_reported else AuditEvent.Outcome.FAILED,
            changes={
                "directory_id": link.directory_id,
                "code": link.code,
                "reported_directory_id": link.reported_tid,
                "missing": link.missing,
            },
        )
        request_status.link_answered(link, actor=actor, now=now)
        if is_reported:
            text = "An administrator's browser reported that consent was granted. The portal is checking it."
            _tell(link, "reported", "Consent reported", (text, link.cause, link.action), actor=actor, now=now)
        else:
            _tell(link, "failed", "Consent failed", (link.cause, link.action), tone="broken", actor=actor, now=now)
    return True


def note_missing(link: ConsentLink, granted: tuple[str, ...], missing: tuple[str, ...], *, now: datetime) -> None:
    """Store which permissions tokens lack.

    After SETTLED_AFTER, the grant is marked as partial and people are emailed.
    """
    cause = "Microsoft reported that consent was granted, but tokens contain no permissions yet."
    action = (
        "This can take a few minutes. If the problem persists, an IT admin needs to check the app registration's "
        "application permissions in Entra and grant consent again."
    )
    if granted:
        cause = f"Tokens contain {', '.join(granted)}, but not {', '.join(missing)} yet."
        action = (
            "This can take a few minutes. If the problem persists, an IT admin needs to add the missing permissions "
            "in Entra and grant consent again."
        )
    values = {"cause": cause, "action": action, "missing": " ".join(missing)}
    waiting = ConsentLink.objects.filter(pk=link.pk, state__in=(State.GRANTED, State.PARTIAL))
    is_settled = link.answered_at is not None and link.answered_at <= now - SETTLED_AFTER
    if link.state == State.GRANTED and granted and missing and is_settled:
        mark_partial(link, granted, missing, now=now)
    elif waiting.update(**values):
        set_columns(link, values)


def mark_partial(link: ConsentLink, granted: Iterable[str], missing: tuple[str, ...], *, now: datetime) -> None:
    names = ", ".join(missing)
    values = {
        "state": State.PARTIAL,
        "code": "partial_grant",
        "cause": f"Only some permissions were granted. Missing: {names}.",
        "action": "An IT admin needs to add the missing permissions in Entra, then send a new consent link.",
        "missing": " ".join(missing),
    }
    with transaction.atomic():
        if not ConsentLink.objects.filter(pk=link.pk, state=State.GRANTED).update(**values):
            return
        set_columns(link, values)
        changes = {
            "directory_id": link.directory_id,
            "permissions": " ".join(granted),
            "missing": link.missing,
        }
        audit.record(AuditAction.CONSENT_PARTIAL, link.app_registration, actor=None, changes=changes)
        request_status.link_incomplete(link, now=now)
        _tell(link, "partial", "Consent incomplete", (link.cause, link.action), tone="warning", actor=None, now=now)


def give_up(link: ConsentLink, *, now: datetime, problem: str = "") -> None:
    """Mark the consent as failed after the last check.

    If the portal could not check the consent, ``problem`` says why.
    """
    values = {
        "state": State.FAILED,
        "code": "not_found_in_tokens",
        "cause": problem or "Microsoft reported that consent was granted, but tokens contain none of the permissions.",
        "action": "Check the permissions of the enterprise application in Entra, then send a new consent link.",
    }
    with transaction.atomic():
        if not ConsentLink.objects.filter(pk=link.pk, state=State.GRANTED, check_after=None).update(**values):
            return
        set_columns(link, values)
        audit.record(
            AuditAction.CONSENT_FAILED,
            link.app_registration,
            actor=None,
            outcome=AuditEvent.Outcome.FAILED,
            changes={"directory_id": link.directory_id, "code": link.code},
        )
        request_status.link_incomplete(link, now=now)
        _tell(link, "lost", "Consent not found", (link.cause, link.action), tone="broken", actor=None, now=now)


def tell_verified(link: ConsentLink, *, actor: User | None, now: datetime) -> None:
    _tell(link, "verified", "Consent verified", (link.cause,), tone="ok", actor=actor, now=now)


def _tell(
    link: ConsentLink,
    occasion: str,
    subject: str,
    paragraphs: tuple[str, ...],
    *,
    actor: User | None,
    now: datetime,
    tone: str = "info",
) -> None:
    """Email the IT admin who created the link, unless they are the actor. Requesters get their own messages."""
    if link.requested_by is None or link.requested_by == actor:
        return
    message = alerts.Message(
        subject=f"{subject}: {link.app_registration}",
        paragraphs=tuple(filter(None, paragraphs)),
        path=f"/apps/{link.app_registration_id}/consent/",
        button="View consent status",
        why="You received this email because you created the consent link.",
        facts=(("App registration", str(link.app_registration)), ("Directory", link.directory_id)),
        tone=tone,
    )
    alerts.notify([link.requested_by], message, about=f"consent-link:{link.pk}:{occasion}", now=now)
