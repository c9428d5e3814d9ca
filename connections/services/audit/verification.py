"""Verification runs: scheduled or requested, carried out by one worker, and recorded in the trail."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from django.db import OperationalError, transaction
from django.db.models import Q

from connections import audit
from connections.access import permissions, roles
from connections.models import AuditEvent, AuditSeal, AuditVerification, SealPublication, User
from connections.models.audit import AuditAction
from connections.services.audit import (
    guards,
    published,
    restores,
    sealing,
    verification_checks,
    verification_records,
)
from connections.services.audit.findings import UNREADABLE_VALUE, Finding
from connections.services.audit.published import PublishedSeal
from connections.services.audit.verification_checks import Progress

LEASE = timedelta(minutes=2)  # longer than one step of the check can take
State = AuditVerification.State


def request_verification(*, actor: User, now: datetime) -> AuditVerification:
    """Queue a verification of the whole trail, or return one that has not finished yet. Raises NotAllowed."""
    roles.require(
        permissions.can_export_audit(actor), cause="Only auditors can verify the audit trail.", action="Ask an auditor."
    )
    unfinished = AuditVerification.objects.filter(finished_at=None, since=0).first()
    return unfinished or create(actor, now)


def run_due(now: Callable[[], datetime]) -> list[AuditVerification]:
    """Carry out queued verifications and return them. If a worker dies, another resumes its run."""
    finished = []
    for run in AuditVerification.objects.filter(finished_at=None).order_by("pk"):
        if _claim(run, now()):
            _carry_out(run, now=now)
            finished.append(run)
    return finished


def verify(
    *,
    actor: User | None,
    now: Callable[[], datetime],
    since: int = 0,
    known: Sequence[PublishedSeal] = (),
    on_progress: Callable[[AuditVerification], None] = lambda run: None,
) -> AuditVerification:
    """Verify at once, including against ``known`` seals; returns the finished verification."""
    run = create(actor, now(), since=since)
    _claim(run, now())
    _carry_out(run, now=now, known=known, on_progress=on_progress)
    return run


def verify_read_only(*, since: int = 0, known: Sequence[PublishedSeal] = ()) -> tuple[int, list[Finding]]:
    """Verify without writing anything, for example on a copy of the database; returns the row count and findings."""
    rows, findings = 0, _compare_with_records(known)
    for progress in _check(since):
        rows += progress.rows
        findings += progress.findings
    return rows, sorted(findings, key=lambda finding: finding.seal)


def create(actor: User | None, now: datetime, *, since: int = 0) -> AuditVerification:
    """Queue a verification of all seals after ``since``."""
    with transaction.atomic():
        run = AuditVerification.objects.create(
            asked_by=actor, asked_by_name=audit.recorded_name(actor), asked_at=now, since=since, checked=since
        )
        verification_records.sign(run)
        run.save(update_fields=["key_id", "mac"])
    return run


def _claim(run: AuditVerification, now: datetime) -> bool:
    # A lease longer than the portal ever sets was planted to prevent verification.
    free = Q(claimed_until=None) | Q(claimed_until__lte=now) | Q(claimed_until__gt=now + 2 * LEASE)
    unfinished = AuditVerification.objects.filter(free, pk=run.pk, finished_at=None)
    if not unfinished.update(claimed_until=now + LEASE):
        return False
    run.refresh_from_db()
    if not verification_records.is_signed(run):
        verification_records.discard_progress(run)
    run.state = State.RUNNING
    verification_records.sign(run)
    run.save()
    return True


def _carry_out(
    run: AuditVerification,
    *,
    now: Callable[[], datetime],
    known: Sequence[PublishedSeal] = (),
    on_progress: Callable[[AuditVerification], None] = lambda run: None,
) -> None:
    if not run.upto:
        run.findings = [asdict(finding) for finding in _begin(run, known)]
    for progress in _check(run.checked):
        run.checked, run.upto = progress.seal, max(run.upto, progress.seal)
        run.rows += progress.rows
        run.findings += [asdict(finding) for finding in progress.findings]
        run.findings = run.findings[: verification_checks.MAX_FINDINGS]
        run.claimed_until = now() + LEASE
        verification_records.sign(run)
        run.save()
        on_progress(run)
    run.findings.sort(key=lambda finding: int(finding["seal"]))
    run.unsealed = sealing.count_unsealed()
    run.state = State.BROKEN if run.findings else State.INTACT
    run.finished_at, run.claimed_until = now(), None
    verification_records.sign(run)
    with transaction.atomic():
        if run.findings or run.since == 0 or run.asked_by is not None:
            _record(run)
        run.save()


def _begin(run: AuditVerification, known: Sequence[PublishedSeal]) -> list[Finding]:
    """Record the newest seal, then compare the seals with published and verified ones, and check the triggers.

    Returns the findings.
    """
    newest = AuditSeal.objects.values_list("number", "hash").first()
    run.upto, run.head = newest or (0, "")
    try:
        run.notes = [str(restore) for restore in restores.declared()]
        return _compare_with_records(known) + _compare_with_file(run) + _missing_guards(run.upto)
    except UNREADABLE_VALUE as error:
        what = f"A value cannot be read ({type(error).__name__}), so nothing was compared with published seals."
        return [Finding(run.upto, "altered", what)]


def _record(run: AuditVerification) -> None:
    """Record the outcome in the trail, where later verifications look up which seal was the newest.

    A scheduled verification of only the newest seals is recorded only if it found something. Otherwise the
    verifications would add an event to the trail every hour.
    """
    facts = {"seal": run.upto, "hash": run.head, "rows": run.rows, "unsealed": run.unsealed, "result": run.state}
    if run.findings:
        facts |= {"first_broken_seal": run.findings[0]["seal"], "finding": run.findings[0]["what"]}
    audit.record(
        AuditAction.AUDIT_VERIFIED,
        audit.TRAIL,
        actor=run.asked_by,
        actor_name=run.asked_by_name,
        changes=facts,
        at=run.finished_at,
        outcome=AuditEvent.Outcome.FAILED if run.findings else AuditEvent.Outcome.DONE,
    )


def _check(since: int) -> Iterator[Progress]:
    """Check the seals. A value that the database cannot return is reported as a finding, not retried forever."""
    seal = since
    try:
        for progress in verification_checks.check_seals(since=since):
            seal = progress.seal
            yield progress
    except (*UNREADABLE_VALUE, OperationalError) as error:
        if isinstance(error, OperationalError) and "decode" not in str(error):
            raise  # the database is unavailable or busy; the next run resumes
        what = f"A value after seal {seal} can't be read ({type(error).__name__}), so verification stops here."
        yield Progress(seal, 0, [Finding(seal + 1, "altered", what)])


def _compare_with_records(known: Iterable[PublishedSeal]) -> list[Finding]:
    findings = published.compare(known, where="in what was published")
    events = AuditEvent.objects.filter(action=AuditAction.AUDIT_VERIFIED).values_list("changes", flat=True)
    noted = {
        (facts.get("seal"), facts.get("hash")) for facts in events.iterator(chunk_size=500) if isinstance(facts, dict)
    }
    noted |= {
        (run.upto, run.head)
        for run in AuditVerification.objects.exclude(finished_at=None).iterator(chunk_size=500)
        if run.head and verification_records.is_signed(run)
    }
    verified = [PublishedSeal(seal, head) for seal, head in noted if type(seal) is int and seal and type(head) is str]
    verified.sort(key=lambda seal: (seal.number, seal.hash))
    findings += published.compare(verified, where="in an earlier verification")
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    for publication in SealPublication.objects.filter(upto__gt=newest):
        where = publication.get_place_display()
        what = f"Seals up to {publication.upto} were published ({where}), but the last one here is {newest}."
        findings.append(Finding(newest + 1, "removed", what))
    return findings


def _compare_with_file(run: AuditVerification) -> list[Finding]:
    """Compare the seals with AUDIT_SEAL_FILE. Reads only the end of the file if only the newest seals are checked."""
    try:
        seals = published.read_configured(only_tail=run.since > 0)
        return published.compare(seals, where="in AUDIT_SEAL_FILE")
    except published.Unreadable as problem:
        run.notes.append(f"Not compared with all published seals. {problem}")
        return []


def _missing_guards(newest: int) -> list[Finding]:
    return [
        Finding(newest, "unguarded", f"The database does not protect {table}: its triggers are missing or disabled.")
        for table in guards.unguarded_tables()
    ]
