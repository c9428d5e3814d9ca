"""Plan connection references; see organisation.py for what a ``plan_…`` function does.

Connections aren't in the file, because they depend on people's consent. So a reference names a connection that must
already exist. If it doesn't, the reference stays as it is, and the plan contains a note.
"""

from functools import partial

from connections.models import Connection, ConnectionReference, Team
from connections.models.connections import without_tokens
from connections.services.config import steps
from connections.services.config.schema import Configuration, ReferenceEntry, WrongEntry
from connections.services.config.steps import Plan, Step, StepContext
from connections.services.sharing import references


def plan_references(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.references is None:
        return []
    rows = ConnectionReference.objects.filter(connector="", removed_at=None).select_related("connection__owner", "team")
    unnamed = {reference.name: reference for reference in without_tokens(rows)}
    for entry in desired.references:
        existing = unnamed.pop(entry.name, None)
        connection = Connection.objects.filter(name=entry.connection, owner__username=entry.connection_owner).first()
        if connection is None:
            plan.notes.append(
                f"line {entry.line}: the reference {entry.name} is left as it is, because {entry.connection_owner} has "
                f"no connection {entry.connection}."
            )
        else:
            with plan.problems.noted():
                _plan_reference(plan, desired, entry, existing, connection)
    return steps.removals(
        "reference",
        unnamed.values(),
        lambda reference, context: references.remove(reference, actor=context.actor, now=context.now),
    )


def _plan_reference(
    plan: Plan,
    desired: Configuration,
    entry: ReferenceEntry,
    existing: ConnectionReference | None,
    connection: Connection,
) -> None:
    team = existing.team.name if existing and existing.team else ""
    description = existing.description if existing else ""
    before = {"connection": _named(existing.connection if existing else None), "team": team, "description": description}
    values = steps.given_values(team=entry.team, description=entry.description)
    after = {**before, **values, "connection": _named(connection)}
    if after["team"] and after["team"] not in {*_team_names(), *(row.name for row in desired.teams or ())}:
        raise WrongEntry(f"The team “{after['team']}” is neither in the file nor in the portal.", line=entry.line)
    run = partial(_save, entry.name, existing, connection, str(after["team"]), str(after["description"]))
    if existing is None:
        plan.add("reference", entry.name, after, entry.line, run)
    else:
        plan.change("reference", entry.name, steps.differences(before, after), entry.line, run)


def _team_names() -> set[str]:
    return set(Team.objects.values_list("name", flat=True))


def _named(connection: Connection | None) -> str:
    return f"{connection.name} of {connection.owner.username}" if connection is not None else ""


def _save(
    name: str,
    existing: ConnectionReference | None,
    connection: Connection,
    team_name: str,
    description: str,
    context: StepContext,
) -> None:
    team = Team.objects.get(name=team_name) if team_name else None
    if existing is None:
        references.create(name, connection, team=team, description=description, actor=context.actor, now=context.now)
        return
    references.point(existing, connection, actor=context.actor, now=context.now)
    references.change(existing, team=team, description=description, actor=context.actor)
