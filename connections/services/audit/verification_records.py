"""Signed verifications.

Someone who can only write to the database can invent neither a verification nor its progress.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q

from connections import audit
from connections.models import AuditVerification
from connections.services.audit import seal_format, seal_keys

_SIGNED = (
    "pk", "since", "state", "asked_by_name", "upto", "head", "checked", "rows", "unsealed", "findings", "notes",
)  # fmt: skip
_RECENT = 500  # rows to search for the latest signed verifications
_SKEW = timedelta(minutes=10)  # greatest difference between the clocks of two workers
State = AuditVerification.State


def sign(run: AuditVerification) -> None:
    """Sign the row as it is about to be saved. It must have a primary key."""
    run.key_id, run.mac = seal_keys.sign(seal_keys.VERIFICATION, _signed_text(run))


def is_signed(run: AuditVerification) -> bool:
    """Whether the portal saved this row as it is, with the current key.

    After a rotation, a new verification is needed.
    """
    is_current = run.key_id == seal_keys.configured()[0].id
    text = _signed_text(run)
    return is_current and seal_keys.is_signed(seal_keys.VERIFICATION, text, key_id=run.key_id, mac=run.mac)


def _signed_text(run: AuditVerification) -> str:
    facts: dict[str, Any] = {name: getattr(run, name) for name in _SIGNED}
    for name in ("asked_at", "finished_at"):
        value = getattr(run, name)
        facts[name] = value.astimezone(UTC).isoformat(timespec="microseconds") if value else None
    return seal_format.compact_json(facts)


def discard_progress(run: AuditVerification) -> None:
    """Reset a verification that the portal did not sign.

    It then checks the whole chain again, and names nobody as the requester.
    """
    run.since = run.checked = run.upto = run.rows = 0
    run.head, run.findings, run.notes = "", [], []
    run.asked_by, run.asked_by_name = None, audit.recorded_name(None)


def has_recent(now: datetime, *, since: datetime) -> bool:
    """Whether a verification has finished since ``since``, or one that was queued since then is unfinished."""
    is_recent = Q(finished_at__gt=since, finished_at__lte=now + _SKEW) | Q(
        finished_at=None, asked_at__gt=since, asked_at__lte=now + _SKEW
    )
    return any(is_signed(run) for run in AuditVerification.objects.filter(is_recent)[:_RECENT])


def newest(now: datetime) -> AuditVerification | None:
    """Return the newest finished verification that the portal has signed, for pages."""
    finished = AuditVerification.objects.filter(finished_at__lte=now + _SKEW).order_by("-finished_at")
    return next((run for run in finished[:20] if is_signed(run)), None)


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest finished verifications that the portal has signed."""

    any: AuditVerification | None = None
    intact: AuditVerification | None = None
    whole_intact: AuditVerification | None = None
    # None if ``whole_intact`` is newer: a break is resolved once the whole chain was found intact.
    broken: AuditVerification | None = None


def latest(now: datetime) -> Latest:
    """Find the latest verifications among the newest rows. Ignores rows that are dated in the future."""
    by_name: dict[str, AuditVerification] = {}
    finished = AuditVerification.objects.filter(finished_at__lte=now + _SKEW)
    for run in finished.order_by("-finished_at")[:_RECENT]:
        if not is_signed(run):
            continue
        by_name.setdefault("any", run)
        by_name.setdefault("intact" if run.state == State.INTACT else "broken", run)
        if run.state == State.INTACT and run.since == 0:
            by_name["whole_intact"] = run
            break
    return Latest(**by_name)
