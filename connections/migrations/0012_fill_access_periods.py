"""What the tables still know about who could use what: owners, shares with their changes, members, disabled accounts."""

from collections import defaultdict
from datetime import datetime, timedelta

from django.db import migrations
from django.db.models import F
from django.utils import timezone

SLACK = timedelta(seconds=10)  # between a row's own time and that of its audit event
SHARING = ("connection.share_changed", "connection.unshared")


def fill(apps, schema_editor):
    period = apps.get_model("connections", "AccessPeriod")
    for rows in (_owners(apps), _shares(apps), _members(apps), _disabled(apps)):
        period.objects.bulk_create((period(**row) for row in rows), batch_size=500)


def _owners(apps):
    found = apps.get_model("connections", "Connection").objects.select_related("owner").order_by("pk")
    for row in found.only("name", "owner", "created_at").iterator():
        yield {
            "kind": "owner",
            "connection_id": row.pk,
            "connection_name": row.name,
            **_person(row.owner),
            "started_at": row.created_at,
            "started_by_id": row.owner_id,
            "started_by_name": _named(row.owner),
        }


def _shares(apps):
    events = _events_of_shares(apps)
    found = apps.get_model("connections", "Share").objects.select_related("person", "team", "created_by")
    found = found.annotate(connection_name=F("connection__name"))
    for share in found.order_by("created_at", "pk").iterator():
        whom = ("team", share.team_id) if share.team_id else ("person", share.person_id)
        key = (str(share.connection_id), *whom)
        yield from _periods(share, events[key])


def _events_of_shares(apps):
    """When, what, level and date before, who – by connection and with whom."""
    found = defaultdict(list)
    events = apps.get_model("connections", "AuditEvent").objects.filter(action__in=SHARING).order_by("pk")
    for event in events.iterator():
        facts = event.changes
        kind = "team" if str(facts.get("with", "")).startswith("team ") else "person"
        key = (event.target_id, kind, facts.get("with_id"))
        found[key].append((event.at, event.action, facts, event.actor_id, event.actor_name))
    return found


def _periods(share, events):
    """The share as one period, or as several if it was changed in between."""
    since, end = share.created_at, share.ended_at
    changes = [
        one for one in events if one[1] == "connection.share_changed" and since <= one[0] and _before(one[0], end)
    ]
    ends = [one for one in events if one[1] == "connection.unshared" and end and end <= one[0] <= end + SLACK]
    starts = [(share.created_at, share.created_by_id, _named(share.created_by))]
    starts += [(at, actor_id, actor_name) for at, _, _, actor_id, actor_name in changes]
    terms = [(one[2]["level"][0], _moment(one[2]["until"][0])) for one in changes] + [(share.level, share.until)]
    for number, ((started_at, by_id, by_name), (level, until)) in enumerate(zip(starts, terms, strict=True)):
        row = {
            "kind": "team" if share.team_id else "person",
            "connection_id": share.connection_id,
            "connection_name": share.connection_name,
            **(_person(share.person) if share.person else {}),
            **({"team_id": share.team_id, "team_name": share.team.name} if share.team else {}),
            "share_id": share.pk,
            "level": level,
            "until": until,
            "started_at": started_at,
            "started_by_id": by_id,
            "started_by_name": by_name,
        }
        if number < len(changes):
            ended_at, ended_by_id, ended_by_name = starts[number + 1]
        elif ends:
            ended_at, (_, _, _, ended_by_id, ended_by_name) = share.ended_at, ends[0]
        else:
            ended_at, ended_by_id, ended_by_name = share.ended_at, None, "Portal" if share.ended_at else ""
        yield {**row, "ended_at": ended_at, "ended_by_id": ended_by_id, "ended_by_name": ended_by_name}


def _before(moment, end):
    return end is None or moment < end


def _members(apps):
    for row in apps.get_model("connections", "TeamMember").objects.select_related("team", "user").iterator():
        yield {
            "kind": "member",
            "team_id": row.team_id,
            "team_name": row.team.name,
            **_person(row.user),
            "started_at": row.added_at,
        }


def _disabled(apps):
    """Since the audit trail says so; at the latest since now."""
    for user in apps.get_model("connections", "User").objects.filter(is_active=False).iterator():
        since = None
        events = apps.get_model("connections", "AuditEvent").objects.filter(
            target_type="User", target_id=str(user.pk), action__in=("account.added", "account.changed")
        )
        for event in events.order_by("pk"):
            since = None if event.changes.get("active", True) else since or event.at
        yield {"kind": "disabled", **_person(user), "started_at": since or timezone.now()}


def _person(user):
    return {"person_id": user.pk, "person_name": _named(user)}


def _named(user):
    if user is None:
        return ""
    sign_in_name = f" <{user.username}>"
    name = f"{user.first_name} {user.last_name}".strip() or user.username
    return name[: 320 - len(sign_in_name)] + sign_in_name


def _moment(text):
    return datetime.fromisoformat(text) if text else None


def empty(apps, schema_editor):
    apps.get_model("connections", "AccessPeriod").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0011_access_periods"),
    ]

    operations = [migrations.RunPython(fill, empty)]
