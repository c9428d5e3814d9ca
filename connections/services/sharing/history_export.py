from datetime import UTC, datetime

from connections import audit
from connections.access import permissions, roles
from connections.models import AccessPeriod, User
from connections.models.audit import AuditAction
from connections.services.sharing.history_queries import Access, AccessHistoryQuery, AccessPath, Interval

COLUMNS = (
    "person", "person_id", "connection", "connection_id", "level", "through", "team", "team_id",
    "from_utc", "to_utc", "given_by", "given_at_utc", "planned_end_utc", "ended_at_utc", "ended_by",
    "member_since_utc", "added_by", "left_at_utc", "removed_by",
)  # fmt: skip
Row = tuple[str, ...]


def export(question: AccessHistoryQuery, *, actor: User) -> list[Row]:
    """Return a header and one row per path and interval, and record the export. Raises NotAllowed."""
    roles.require(
        permissions.can_export_audit(actor),
        cause="Only auditors can export the access history.",
        action="Ask an auditor.",
    )
    rows = [
        _row(access, path, stretch)
        for access in question.answer()
        for path in access.paths
        for stretch in path.stretches
    ]
    start = question.window.start
    when = f"at {_utc(start)}" if question.window.is_moment else f"on {start:%Y-%m-%d}"
    facts = {"question": f"{question.words} {when} UTC", f"{question.about}_id": question.subject.pk, "rows": len(rows)}
    audit.record(AuditAction.AUDIT_EXPORTED, audit.TRAIL, actor=actor, changes=facts)
    return [COLUMNS, *rows]


def _row(access: Access, path: AccessPath, stretch: Interval) -> Row:
    grant, member = path.grant, path.membership
    about = (access.person_name, str(access.person_id), access.connection_name, str(access.connection_id), path.level)
    team_id = "" if grant.team_id is None else str(grant.team_id)
    through = (AccessPeriod.Kind(grant.kind).label, grant.team_name, team_id, _utc(stretch[0]), _utc(stretch[1]))
    granted = (grant.started_by_name, _utc(grant.started_at), _utc(grant.until))
    ended = (_utc(grant.ended_at), grant.ended_by_name)
    membership = ("", "", "", "")
    if member:
        begun = (_utc(member.started_at), member.started_by_name)
        membership = (*begun, _utc(member.ended_at), member.ended_by_name)
    return (*about, *through, *granted, *ended, *membership)


def _utc(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(sep=" ").removesuffix("+00:00") if moment else ""
