"""Answers of the access history as a table to take away; that somebody took it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from connections import audit
from connections.access import permissions, roles
from connections.models import AccessPeriod, User
from connections.models.audit import AuditAction
from connections.services.sharing.history_queries import Access, AccessHistoryQuery, AccessPath

COLUMNS = (
    "person",
    "person_id",
    "connection",
    "connection_id",
    "level",
    "through",
    "team",
    "team_id",
    "from_utc",
    "to_utc",
    "given_by",
    "given_at_utc",
    "planned_end_utc",
    "ended_at_utc",
    "ended_by",
    "member_since_utc",
    "put_in_by",
    "left_at_utc",
    "taken_out_by",
)
Row = tuple[str, ...]


def export(question: AccessHistoryQuery, *, actor: User) -> list[Row]:
    """The answer with a row for each stretch of time and way, headings first. Raises NotAllowed."""
    roles.require(permissions.can_export_audit(actor), cause="Only auditors export.", action="Ask one of them.")
    rows = [row for found in question.answer() for row in _rows(found)]
    asked = f"at {_utc(question.window.start)}" if question.window.is_moment else f"on {question.window.start:%Y-%m-%d}"
    facts = {
        "question": f"{question.words} {asked} UTC",
        f"{question.about}_id": question.subject.pk,
        "rows": len(rows),
    }
    audit.record(AuditAction.AUDIT_EXPORTED, audit.TRAIL, actor=actor, changes=facts)
    return [COLUMNS, *rows]


def _rows(access: Access) -> Iterator[Row]:
    for way in access.ways:
        for start, end in way.stretches:
            yield (
                access.person_name,
                str(access.person_id),
                access.connection_name,
                str(access.connection_id),
                way.level,
                *_way(way),
                _utc(start),
                _utc(end),
                way.grant.started_by_name,
                _utc(way.grant.started_at),
                _utc(way.grant.until),
                _utc(way.grant.ended_at),
                way.grant.ended_by_name,
                *_membership(way.membership),
            )


def _way(way: AccessPath) -> Row:
    team_id = "" if way.grant.team_id is None else str(way.grant.team_id)
    return AccessPeriod.Kind(way.grant.kind).label, way.grant.team_name, team_id


def _membership(period: AccessPeriod | None) -> Row:
    if period is None:
        return ("", "", "", "")
    return _utc(period.started_at), period.started_by_name, _utc(period.ended_at), period.ended_by_name


def _utc(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(sep=" ").removesuffix("+00:00") if moment else ""
