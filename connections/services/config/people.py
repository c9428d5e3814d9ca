"""What a configuration file wants of service accounts and teams."""

from __future__ import annotations

from functools import partial
from typing import Any

from connections.models import Team, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.config.schema import AccountEntry, Configuration, TeamEntry, WrongEntry
from connections.services.config.steps import (
    Plan,
    Step,
    StepContext,
    Verb,
    as_text,
    describe_new,
    differences,
    given_values,
    removals,
)
from connections.services.people import service_accounts
from connections.services.sharing import teams

IT_ADMIN, AUDITOR = "it_admin", "auditor"
ROLES = {IT_ADMIN: IT_ADMINS, AUDITOR: AUDITORS}  # as the file names them, and the groups


def plan_service_accounts(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove those the file does not name. Raises WrongEntry."""
    if wanted.service_accounts is None:
        return []
    left = {person.first_name: person for person in User.objects.filter(kind=User.Kind.SERVICE)}
    for entry in wanted.service_accounts:
        _account(plan, entry, left.pop(entry.name, None))
    return removals(
        "service account",
        left.values(),
        lambda one, doing: service_accounts.remove(one, actor=doing.actor, now=doing.now),
    )


def roles_of(account: User) -> list[str]:
    """The roles of an account, as the file names them."""
    groups = set(account.groups.values_list("name", flat=True))
    return [role for role, group in ROLES.items() if group in groups]


def _account(plan: Plan, entry: AccountEntry, existing: User | None) -> None:
    before: dict[str, Any] = {"purpose": "", "responsible": "", "roles": []}
    if existing is not None:
        responsible = existing.responsible.username if existing.responsible else ""
        before = {"purpose": existing.purpose, "responsible": responsible, "roles": roles_of(existing)}
    roles = None if entry.roles is None else [role for role in ROLES if role in entry.roles]
    after = before | given_values(purpose=entry.purpose, responsible=entry.responsible, roles=roles)
    changes = describe_new(after) if existing is None else differences(before, after)
    if existing is not None and entry.enabled is not None and entry.enabled != existing.is_active:
        changes += (("enabled", as_text(existing.is_active), as_text(entry.enabled)),)
    if existing is not None and not changes:
        return
    if not User.objects.filter(username=after["responsible"], kind=User.Kind.PERSON, is_active=True).exists():
        raise WrongEntry(
            f"Nobody who can sign in is responsible for the service account {entry.name}.",
            action="Name an active person's user name as responsible.",
            line=entry.line,
        )
    verb = Verb.CHANGE if existing else Verb.ADD
    plan.do(verb, "service account", entry.name, changes, entry.line, partial(_save, entry, existing, after))


def _save(entry: AccountEntry, existing: User | None, after: dict[str, Any], doing: StepContext) -> None:
    values: dict[str, Any] = {
        "purpose": after["purpose"],
        "responsible": User.objects.get(username=after["responsible"]),
        "admin": IT_ADMIN in after["roles"],
        "auditor": AUDITOR in after["roles"],
        "actor": doing.actor,
        "now": doing.now,
    }
    if existing is None:
        existing = service_accounts.create(name=entry.name, **values)
    else:
        service_accounts.change(existing, **values)
    if entry.enabled is not None:
        switch = service_accounts.enable if entry.enabled else service_accounts.disable
        switch(existing, actor=doing.actor, now=doing.now)


def plan_teams(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove what the file does not name. Raises WrongEntry."""
    if wanted.teams is None:
        return []
    left = {team.name: team for team in Team.objects.prefetch_related("members")}
    unnamed: list[Step] = []
    for entry in wanted.teams:
        unnamed += _team(plan, wanted, entry, left.pop(entry.name, None))
    remove = removals("team", left.values(), lambda one, doing: teams.remove(one, actor=doing.actor, now=doing.now))
    return [*unnamed, *remove]


def _team(plan: Plan, wanted: Configuration, entry: TeamEntry, existing: Team | None) -> list[Step]:
    group = entry.entra_group if entry.entra_group is not None else existing.entra_group if existing else ""
    if group and entry.members:
        raise WrongEntry(
            f"The members of the team {entry.name} come and go with its Entra group.",
            action="Leave the members out, or the group.",
            line=entry.line,
        )
    if existing is None:
        facts = describe_new({"entra_group": group})
        run = partial(_add_team, entry, group)
        plan.do(Verb.ADD, "team", entry.name, facts, entry.line, run)
    elif changes := differences({"entra_group": existing.entra_group}, {"entra_group": group}):
        plan.do(
            Verb.CHANGE,
            "team",
            entry.name,
            changes,
            entry.line,
            lambda doing: teams.change(existing, name=entry.name, entra_group=group, actor=doing.actor),
        )
    return _members(plan, wanted, entry, existing) if entry.members is not None and not group else []


def _add_team(entry: TeamEntry, group: str, doing: StepContext) -> None:
    teams.add(entry.name, entra_group=group, actor=doing.actor)


def _members(plan: Plan, wanted: Configuration, entry: TeamEntry, existing: Team | None) -> list[Step]:
    names = entry.members or ()
    inside = {member.username: member for member in existing.members.all()} if existing else {}
    known = set(User.objects.filter(username__in=names, is_active=True).values_list("username", flat=True))
    known |= {service_accounts.username_of(one.name) for one in wanted.service_accounts or ()}
    for name in names:
        if name not in known and name not in inside:
            raise WrongEntry(
                f"There is no active person with the user name “{name}”.",
                action="People join the portal by signing in; take the name out until then.",
                line=entry.line,
            )
        if name not in inside:
            run = partial(_join, entry.name, name)
            plan.do(Verb.ADD, "member", f"{name} of the team {entry.name}", (), entry.line, run)
    return [
        Step(
            Verb.REMOVE,
            "member",
            f"{name} of the team {entry.name}",
            line=entry.line,
            run=partial(_leave, entry.name, name),
        )
        for name in inside
        if name not in names
    ]


def _join(team: str, username: str, doing: StepContext) -> None:
    user = User.objects.get(username=username)
    teams.add_member(Team.objects.get(name=team), user, actor=doing.actor, now=doing.now)


def _leave(team: str, username: str, doing: StepContext) -> None:
    user = User.objects.get(username=username)
    teams.remove_member(Team.objects.get(name=team), user, actor=doing.actor, now=doing.now)
