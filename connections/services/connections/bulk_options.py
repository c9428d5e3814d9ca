"""The options of a bulk action, as objects and in the form in which they are stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from connections import audit
from connections.models import BulkAction, Share, Team, User

Action = BulkAction.Action
MOST_RECIPIENTS = 20
WITH_OPTIONS = frozenset((Action.SHARE, Action.TRANSFER, Action.TAG, Action.UNTAG))


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an action. Options that the action does not use keep their defaults."""

    people: tuple[User, ...] = ()
    teams: tuple[Team, ...] = ()
    level: str = Share.Level.USE
    until: datetime | None = None
    owner: User | None = None
    keep_grant: bool = False
    tags: tuple[str, ...] = ()

    @property
    def recipients(self) -> tuple[User | Team, ...]:
        return (*self.teams, *self.people)

    def stored(self) -> dict[str, Any]:
        return {
            "people": [person.pk for person in self.people],
            "teams": [team.pk for team in self.teams],
            "level": str(self.level),
            "until": self.until.isoformat() if self.until else None,
            "owner": self.owner.pk if self.owner else None,
            "keep_grant": self.keep_grant,
            "tags": list(self.tags),
        }

    def recorded(self) -> dict[str, Any]:
        """Return the options that are set, for the audit trail."""
        facts: dict[str, Any] = {
            "with": audit.join_values(
                [*(f"team {team}" for team in self.teams), *map(audit.recorded_name, self.people)]
            ),
            "level": str(self.level) if self.recipients else "",
            "until": str(self.until) if self.until else "",
            "new_owner": audit.recorded_name(self.owner) if self.owner else "",
            "tags": audit.join_values(self.tags),
        }
        return {name: value for name, value in facts.items() if value}


def load(bulk_action: BulkAction) -> Options:
    """Return the stored options with their people and teams from the database, except those that no longer exist."""
    stored = bulk_action.options
    if not stored:
        return Options()
    until = stored["until"]
    return Options(
        people=tuple(User.objects.filter(pk__in=stored["people"]).order_by("pk")),
        teams=tuple(Team.objects.filter(pk__in=stored["teams"]).order_by("pk")),
        level=stored["level"],
        until=datetime.fromisoformat(until) if until else None,
        owner=User.objects.filter(pk=stored["owner"]).first() if stored["owner"] else None,
        keep_grant=stored["keep_grant"],
        tags=tuple(stored["tags"]),
    )
