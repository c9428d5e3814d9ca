"""Verifying the audit trail: asked for by somebody, carried out by whoever claims it, and itself recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from django.db import DataError, OperationalError, transaction
from django.db.models import Q

from connections import audit
from connections.access import permissions, roles
from connections.models import AuditEvent, AuditSeal, AuditVerification, SealPublication, User
from connections.models.audit import AuditAction
from connections.services.audit import sealing, verification_checks

LEASE = timedelta(minutes=2)  # longer than a few seals can take
State = AuditVerification.State


def request_verification(*, actor: User, now: datetime) -> AuditVerification:
    """Put a verification of the whole trail on the list; one that is not finished yet is returned instead.

    Raises NotAllowed.
    """
    roles.require(permissions.can_export_audit(actor), cause="Only auditors verify.", action="Ask one of them.")
    waiting = AuditVerification.objects.filter(finished_at=None).first()
    return waiting or _asked(actor, now)


def run_due(now: Callable[[], datetime]) -> int:
    """Carry out what was asked for; returns how many verifications were finished.

    Each is claimed by one worker. If that dies, another goes on after the last few seals it had looked at.
    """
    done = 0
    for audit_verification in AuditVerification.objects.filter(finished_at=None).order_by("pk"):
        if _claim(audit_verification, now()):
            _carry_out(audit_verification, now=now)
            done += 1
    return done


def verify(
    *,
    actor: User | None,
    now: Callable[[], datetime],
    since: int = 0,
    published: Sequence[tuple[int, str]] = (),
    tell: Callable[[AuditVerification], None] = lambda run: None,
) -> AuditVerification:
    """Verify here and now, against published seals as well; returns the finished verification."""
    run = _asked(actor, now())
    _claim(run, now())
    run.checked = since
    _carry_out(run, now=now, published=published, tell=tell)
    return run


def verify_read_only(
    *, since: int = 0, published: Sequence[tuple[int, str]] = ()
) -> tuple[int, list[verification_checks.Finding]]:
    """Verify without writing anything, as on a copy of the database; returns how many rows were seen, and findings."""
    rows, findings = 0, list(_known_elsewhere(published))
    for progress in _checked(since):
        rows += progress.rows
        findings += progress.findings
    return rows, sorted(findings, key=lambda one: one.seal)


def _checked(since: int) -> Iterator[verification_checks.Progress]:
    """The check; what the database cannot even hand out is a finding, too, and not a reason to try for ever."""
    seal = since
    try:
        for progress in verification_checks.check_seals(since=since):
            seal = progress.seal
            yield progress
    except (DataError, ValueError, TypeError, AttributeError, OverflowError, OperationalError) as error:
        if isinstance(error, OperationalError) and "decode" not in str(error):
            raise  # the database is away or busy: tried again later
        what = f"A value after seal {seal} cannot be read ({type(error).__name__}), so the check ends here."
        yield verification_checks.Progress(seal, 0, [verification_checks.Finding(seal + 1, "altered", what)])


def latest() -> AuditVerification | None:
    """The last verification that was finished."""
    return AuditVerification.objects.exclude(finished_at=None).first()


def _asked(actor: User | None, now: datetime) -> AuditVerification:
    return AuditVerification.objects.create(asked_by=actor, asked_by_name=audit.recorded_name(actor), asked_at=now)


def _claim(run: AuditVerification, now: datetime) -> bool:
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    mine = AuditVerification.objects.filter(free, pk=run.pk, finished_at=None)
    claimed = bool(mine.update(claimed_until=now + LEASE, state=State.RUNNING))
    if claimed:
        run.refresh_from_db()
    return claimed


def _carry_out(
    run: AuditVerification,
    *,
    now: Callable[[], datetime],
    published: Sequence[tuple[int, str]] = (),
    tell: Callable[[AuditVerification], None] = lambda run: None,
) -> None:
    if not run.upto:
        newest = AuditSeal.objects.defer("marks").first()
        run.upto, run.head = (newest.number, newest.hash) if newest else (0, "")
        run.findings = [asdict(one) for one in _known_elsewhere(published)]
    for progress in _checked(run.checked):
        run.checked, run.upto = progress.seal, max(run.upto, progress.seal)
        run.rows += progress.rows
        run.findings += [asdict(finding) for finding in progress.findings]
        run.findings = run.findings[: verification_checks.MOST_FINDINGS]
        run.claimed_until = now() + LEASE
        run.save(update_fields=["upto", "head", "checked", "rows", "findings", "claimed_until"])
        tell(run)
    _finish(run, now=now())


def _finish(run: AuditVerification, *, now: datetime) -> None:
    """Write the outcome into the trail: later verifications know by it which seal was the newest."""
    run.findings.sort(key=lambda one: int(one["seal"]))
    run.unsealed = sealing.count_unsealed()
    run.state = State.BROKEN if run.findings else State.INTACT
    run.finished_at, run.claimed_until = now, None
    facts = {"seal": run.upto, "hash": run.head, "rows": run.rows, "unsealed": run.unsealed, "result": run.state}
    if run.findings:
        facts |= {"first_broken_seal": run.findings[0]["seal"], "finding": run.findings[0]["what"]}
    outcome = AuditEvent.Outcome.FAILED if run.findings else AuditEvent.Outcome.DONE
    with transaction.atomic():
        audit.record(
            AuditAction.AUDIT_VERIFIED,
            audit.TRAIL,
            actor=run.asked_by,
            actor_name=run.asked_by_name,
            changes=facts,
            outcome=outcome,
        )
        run.save()


def _known_elsewhere(published: Sequence[tuple[int, str]]) -> list[verification_checks.Finding]:
    """What published seals, earlier verifications and the notes about publishing say about the chain."""
    findings = verification_checks.compare_published(published, where="in what was published")
    events = AuditEvent.objects.filter(action=AuditAction.AUDIT_VERIFIED).values_list("changes", flat=True)
    noted = {
        (event.get("seal"), event.get("hash")) for event in events.iterator(chunk_size=500) if isinstance(event, dict)
    }
    seen = sorted((seal, known) for seal, known in noted if type(seal) is int and seal and isinstance(known, str))
    findings += verification_checks.compare_published(seen, where="in an earlier verification")
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    for place in SealPublication.objects.filter(upto__gt=newest):
        what = (
            f"Seals up to {place.upto} were published ({place.get_place_display()}), but here they end with {newest}."
        )
        findings.append(verification_checks.Finding(newest + 1, "removed", what))
    return findings
