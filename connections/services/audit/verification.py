"""Verification runs: requested on a page or the console, carried out by one worker, and recorded in the trail."""

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
from connections.services.audit.verification_checks import Finding, Progress

LEASE = timedelta(minutes=2)  # longer than one step of the check can take
State = AuditVerification.State


def request_verification(*, actor: User, now: datetime) -> AuditVerification:
    """Queue a verification of the whole trail, or return one that has not finished yet. Raises NotAllowed."""
    roles.require(permissions.can_export_audit(actor), cause="Only auditors verify.", action="Ask one of them.")
    unfinished = AuditVerification.objects.filter(finished_at=None).first()
    return unfinished or _create(actor, now)


def run_due(now: Callable[[], datetime]) -> int:
    """Carry out queued verifications and return how many were finished. If a worker dies, another resumes its run."""
    finished = 0
    for run in AuditVerification.objects.filter(finished_at=None).order_by("pk"):
        if _claim(run, now()):
            _carry_out(run, now=now)
            finished += 1
    return finished


def verify(
    *,
    actor: User | None,
    now: Callable[[], datetime],
    since: int = 0,
    published: Sequence[tuple[int, str]] = (),
    on_progress: Callable[[AuditVerification], None] = lambda run: None,
) -> AuditVerification:
    """Verify at once, including against ``published`` seals (number, hash); returns the finished verification."""
    run = _create(actor, now())
    _claim(run, now())
    run.checked = since
    _carry_out(run, now=now, published=published, on_progress=on_progress)
    return run


def verify_read_only(*, since: int = 0, published: Sequence[tuple[int, str]] = ()) -> tuple[int, list[Finding]]:
    """Verify without writing anything, for example on a copy of the database; returns the row count and findings."""
    rows, findings = 0, _compare_with_records(published)
    for progress in _check(since):
        rows += progress.rows
        findings += progress.findings
    return rows, sorted(findings, key=lambda finding: finding.seal)


def latest() -> AuditVerification | None:
    return AuditVerification.objects.exclude(finished_at=None).first()


def _create(actor: User | None, now: datetime) -> AuditVerification:
    return AuditVerification.objects.create(asked_by=actor, asked_by_name=audit.recorded_name(actor), asked_at=now)


def _claim(run: AuditVerification, now: datetime) -> bool:
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    unfinished = AuditVerification.objects.filter(free, pk=run.pk, finished_at=None)
    claimed = bool(unfinished.update(claimed_until=now + LEASE, state=State.RUNNING))
    if claimed:
        run.refresh_from_db()
    return claimed


def _carry_out(
    run: AuditVerification,
    *,
    now: Callable[[], datetime],
    published: Sequence[tuple[int, str]] = (),
    on_progress: Callable[[AuditVerification], None] = lambda run: None,
) -> None:
    if not run.upto:
        newest = AuditSeal.objects.defer("marks").first()
        run.upto, run.head = (newest.number, newest.hash) if newest else (0, "")
        run.findings = [asdict(finding) for finding in _compare_with_records(published)]
    for progress in _check(run.checked):
        run.checked, run.upto = progress.seal, max(run.upto, progress.seal)
        run.rows += progress.rows
        run.findings += [asdict(finding) for finding in progress.findings]
        run.findings = run.findings[: verification_checks.MAX_FINDINGS]
        run.claimed_until = now() + LEASE
        run.save(update_fields=["upto", "head", "checked", "rows", "findings", "claimed_until"])
        on_progress(run)
    # The outcome is recorded in the trail, where later verifications look up which seal was the newest.
    run.findings.sort(key=lambda finding: int(finding["seal"]))
    run.unsealed = sealing.count_unsealed()
    run.state = State.BROKEN if run.findings else State.INTACT
    run.finished_at, run.claimed_until = now(), None
    facts = {"seal": run.upto, "hash": run.head, "rows": run.rows, "unsealed": run.unsealed, "result": run.state}
    if run.findings:
        facts |= {"first_broken_seal": run.findings[0]["seal"], "finding": run.findings[0]["what"]}
    with transaction.atomic():
        audit.record(
            AuditAction.AUDIT_VERIFIED,
            audit.TRAIL,
            actor=run.asked_by,
            actor_name=run.asked_by_name,
            changes=facts,
            outcome=AuditEvent.Outcome.FAILED if run.findings else AuditEvent.Outcome.DONE,
        )
        run.save()


def _check(since: int) -> Iterator[Progress]:
    """Check the seals. A value that the database cannot return is reported as a finding, not retried forever."""
    seal = since
    try:
        for progress in verification_checks.check_seals(since=since):
            seal = progress.seal
            yield progress
    except (DataError, ValueError, TypeError, AttributeError, OverflowError, OperationalError) as error:
        if isinstance(error, OperationalError) and "decode" not in str(error):
            raise  # the database is unavailable or busy; the next run resumes
        what = f"A value after seal {seal} cannot be read ({type(error).__name__}), so the check ends here."
        yield Progress(seal, 0, [Finding(seal + 1, "altered", what)])


def _compare_with_records(published: Sequence[tuple[int, str]]) -> list[Finding]:
    findings = verification_checks.compare_published(published, where="in what was published")
    events = AuditEvent.objects.filter(action=AuditAction.AUDIT_VERIFIED).values_list("changes", flat=True)
    noted = {
        (facts.get("seal"), facts.get("hash")) for facts in events.iterator(chunk_size=500) if isinstance(facts, dict)
    }
    verified = sorted((seal, known) for seal, known in noted if type(seal) is int and seal and isinstance(known, str))
    findings += verification_checks.compare_published(verified, where="in an earlier verification")
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    for place in SealPublication.objects.filter(upto__gt=newest):
        where = place.get_place_display()
        what = f"Seals up to {place.upto} were published ({where}), but here they end with {newest}."
        findings.append(Finding(newest + 1, "removed", what))
    return findings
