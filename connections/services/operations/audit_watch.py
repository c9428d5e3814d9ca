"""Verify the audit trail automatically, and raise an alarm if it is broken, not sealed or not verified.

An alarm is an incident that is emailed to all IT admins and auditors. But a person who broke the trail can write to the
database, and so can delete incidents and waiting emails. So each alarm is also written to the log and posted to
AUDIT_SEAL_WEBHOOK, and repeated with every verification until the trail is intact.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.conf import settings

from connections.models import AuditVerification, Connection, Incident
from connections.services.audit import (
    published,
    publishing,
    sealing,
    verification,
    verification_records,
    verification_schedule,
)
from connections.services.audit.findings import UNREADABLE_VALUE
from connections.services.incidents import store
from connections.services.operations import secret_columns

logger = structlog.get_logger(__name__)

BROKEN, NOT_SEALED, NOT_VERIFIED = "audit-trail:broken", "audit-trail:not-sealed", "audit-trail:not-verified"
IDENTITIES = "audit-trail:identities"
NOT_SEALED_FOR = timedelta(minutes=15)
NOT_VERIFIED_FOR = timedelta(days=1)
_WHAT_TO_DO = (
    "Keep a copy of the database as it is, compare it with the published seals and a backup, and find out who can write "
    "to the database. If a backup was restored, an operator must declare that with manage.py declare_restore."
)


def run(now: Callable[[], datetime]) -> list[AuditVerification]:
    """Carry out due and requested verifications, and check that sealing and verifying work.

    Returns those carried out.
    """
    finished, is_verified = [], False
    try:
        verification_schedule.queue_due(now())
        finished = verification.run_due(now)
        for verified in finished:
            _report(verified, now=now())
        is_verified = verification_records.has_recent(now(), since=now() - NOT_VERIFIED_FOR)
    except UNREADABLE_VALUE:
        logger.exception("the audit trail cannot be verified")
    _check_sealing(now())
    _check_identities(now())
    if is_verified:
        store.close(NOT_VERIFIED, now=now())
    else:
        _report_not_verified(now())
    return finished


def _report(run: AuditVerification, *, now: datetime) -> None:
    """Raise or end the alarm. A break is resolved when the whole chain is intact, not just its newest part."""
    if run.state == AuditVerification.State.INTACT:
        if run.since == 0:
            store.close(BROKEN, now=now)
        return
    first, more = run.findings[0], len(run.findings) - 1
    finding = f"Seal {first['seal']}: {first['what']}" + (f" And {more} more." if more else "")
    logger.error("the audit trail is broken", seal=first["seal"], finding=first["what"], findings=more + 1)
    facts = {"verification": run.pk, "seal": first["seal"], "finding": first["what"], "findings": more + 1}
    publishing.send_alarm("broken", facts, message_id=f"audit-broken-{run.pk}", now=now)
    _open(BROKEN, "The audit trail is broken", "audit_trail_broken", finding, _WHAT_TO_DO, now=now)


def _check_sealing(now: datetime) -> None:
    limit = max(NOT_SEALED_FOR, timedelta(seconds=20 * settings.AUDIT_INTERVAL))
    try:
        is_stalled = sealing.is_stalled(now, limit=limit)
    except UNREADABLE_VALUE:
        is_stalled = True  # the newest seal contains a value that cannot be read
    if not is_stalled:
        store.close(NOT_SEALED, now=now)
        return
    minutes = int(limit.total_seconds() // 60)
    cause = (
        f"Events have been waiting for a seal for more than {minutes} minutes. Until then only triggers protect them."
    )
    action = "Check that a worker and beat are running, and look for errors of the task seal_audit in the log."
    if missing := published.seals_missing_here():
        cause += f" Seals up to {missing[0]} were published, but the database ends with {missing[1]}."
        action = _WHAT_TO_DO
    logger.error("the audit trail is not sealed", minutes=minutes)
    _open(NOT_SEALED, "The audit trail is not sealed", "audit_trail_not_sealed", cause, action, now=now)


def _check_identities(now: datetime) -> None:
    """Check the triggers that protect the identities of rows from changes.

    If an identity can be changed, a secret that belongs to another row can be moved into that row and decrypted there.
    """
    tables = secret_columns.tables_without_trigger()
    if not tables:
        store.close(IDENTITIES, now=now)
        return
    logger.error("identities of rows with secrets can be changed", tables=tables)
    cause = f"The triggers are missing that keep the identities of rows in {', '.join(tables)}."
    action = "Run manage.py audit_guards, and find out who can change the database."
    _open(IDENTITIES, "Stored secrets can be moved", "identity_triggers_missing", cause, action, now=now)


def _report_not_verified(now: datetime) -> None:
    logger.error("the audit trail is not verified")
    cause = "No verification of the audit trail has finished for a day, or its records cannot be read."
    action = "Look for errors of the task watch_audit in the log, and run manage.py audit_verify."
    _open(NOT_VERIFIED, "The audit trail is not verified", "audit_trail_not_verified", cause, action, now=now)


def _open(key: str, title: str, code: str, cause: str, action: str, *, now: datetime) -> None:
    it_admin = Connection.Who.IT_ADMIN
    store.report(store.Cause(Incident.Kind.AUDIT_TRAIL, key, title, code, cause, action, it_admin), [], now=now)
