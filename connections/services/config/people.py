"""Plan people, service accounts and teams; see organisation.py for what a ``plan_…`` function does."""

from collections.abc import Callable
from functools import partial
from typing import Any

from connections.models import Team, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.config import steps
from connections.services.config.schema import AccountEntry, Configuration, PersonEntry, TeamEntry, WrongEntry
from connections.services.config.steps import Plan, Step, StepContext, Verb, as_text
from connections.services.people import accounts, service_accounts
from connections.services.sharing import teams

IT_ADMIN, AUDITOR = "it_admin", "auditor"
ROLES = {IT_ADMIN: IT_ADMINS, AUDITOR: AUDITORS}  # name in the file → group


def plan_people(plan: Plan, desired: Configuration) -> list[Step]:
    """Plan the people who don't have an account yet. Existing accounts don't change, and nobody is removed."""
    for entry in desired.people or ():
        with plan.problems.noted():
            _plan_person(plan, entry)
    return []


def _plan_person(plan: Plan, entry: PersonEntry) -> None:
    existing = User.objects.filter(username__iexact=entry.user_name).first()
    if existing is not None and (existing.username != entry.user_name or existing.is_service):
        text = f"The user name “{entry.user_name}” is taken by {existing.username}."
        raise WrongEntry(text, action="Write it in the same way.", line=entry.line)
    if existing is not None:
        return
    uid = f"{entry.directory}.{entry.object_id}" if entry.object_id else ""
    if uid and (other := accounts.with_microsoft_account(uid)):
        text = f"The Microsoft account of {entry.user_name} already signs in as {other.username}."
        raise WrongEntry(text, action="Use that user name.", line=entry.line)
    facts = {"name": entry.name, "email": entry.email, "sign_in": "Microsoft" if uid else "local password"}
    plan.add(
        "person",
        entry.user_name,
        facts,
        entry.line,
        lambda context: accounts.invite(
            entry.user_name, name=entry.name, email=entry.email, uid=uid, actor=context.actor, now=context.now
        ),
    )
    if not uid:
        plan.notes.append(f"line {entry.line}: set a password with manage.py changepassword {entry.user_name}.")


def _added_people(desired: Configuration) -> set[str]:
    return {entry.user_name for entry in desired.people or ()}


def plan_service_accounts(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.service_accounts is None:
        return []
    unnamed = {account.first_name: account for account in User.objects.filter(kind=User.Kind.SERVICE)}
    for entry in desired.service_accounts:
        with plan.problems.noted():
            _plan_account(plan, desired, entry, unnamed.pop(entry.name, None))
    return steps.removals(
        "service account",
        unnamed.values(),
        lambda account, context: service_accounts.remove(account, actor=context.actor, now=context.now),
    )


def roles_of(account: User) -> list[str]:
    """Return the account's roles, named as in the file."""
    groups = set(account.groups.values_list("name", flat=True))
    return [role for role, group in ROLES.items() if group in groups]


def _plan_account(plan: Plan, desired: Configuration, entry: AccountEntry, existing: User | None) -> None:
    before: dict[str, Any] = {"purpose": "", "responsible": "", "roles": []}
    if existing is not None:
        responsible = existing.responsible.username if existing.responsible else ""
        before = {"purpose": existing.purpose, "responsible": responsible, "roles": roles_of(existing)}
    roles = None if entry.roles is None else [role for role in ROLES if role in entry.roles]
    after = before | steps.given_values(purpose=entry.purpose, responsible=entry.responsible, roles=roles)
    changes = steps.differences(before, after)
    if existing is not None and entry.enabled is not None and entry.enabled != existing.is_active:
        changes += (("enabled", as_text(existing.is_active), as_text(entry.enabled)),)
    if existing is not None and not changes:
        return
    people = User.objects.filter(username=after["responsible"], kind=User.Kind.PERSON, is_active=True)
    if after["responsible"] not in _added_people(desired) and not people.exists():
        raise WrongEntry(
            f"The service account {entry.name} has no active person who is responsible for it.",
            action="Set responsible to the user name of an active person.",
            line=entry.line,
        )
    run = partial(_save_account, entry, existing, after)
    if existing is None:
        plan.add("service account", entry.name, after, entry.line, run)
    else:
        plan.change("service account", entry.name, changes, entry.line, run)


def _save_account(entry: AccountEntry, existing: User | None, after: dict[str, Any], context: StepContext) -> None:
    values: dict[str, Any] = {
        "purpose": after["purpose"],
        "responsible": User.objects.get(username=after["responsible"]),
        "admin": IT_ADMIN in after["roles"],
        "auditor": AUDITOR in after["roles"],
        "actor": context.actor,
        "now": context.now,
    }
    if existing is None:
        existing = service_accounts.create(name=entry.name, **values)
    else:
        service_accounts.change(existing, **values)
    if entry.enabled is not None:
        switch = service_accounts.enable if entry.enabled else service_accounts.disable
        switch(existing, actor=context.actor, now=context.now)


def plan_teams(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.teams is None:
        return []
    unnamed = {team.name: team for team in Team.objects.prefetch_related("members")}
    unnamed_members: list[Step] = []
    for entry in desired.teams:
        with plan.problems.noted():
            unnamed_members += _plan_team(plan, desired, entry, unnamed.pop(entry.name, None))
    return unnamed_members + steps.removals(
        "team", unnamed.values(), lambda team, context: teams.remove(team, actor=context.actor, now=context.now)
    )


def _plan_team(plan: Plan, desired: Configuration, entry: TeamEntry, existing: Team | None) -> list[Step]:
    group = entry.entra_group if entry.entra_group is not None else existing.entra_group if existing else ""
    if group and entry.members:
        raise WrongEntry(
            f"The members of the team {entry.name} are synchronised with its Entra group.",
            action="Remove either the members or the group.",
            line=entry.line,
        )
    if existing is None:
        plan.add(
            "team",
            entry.name,
            {"entra_group": group},
            entry.line,
            lambda context: teams.add(entry.name, entra_group=group, actor=context.actor),
        )
    else:
        plan.change(
            "team",
            entry.name,
            steps.differences({"entra_group": existing.entra_group}, {"entra_group": group}),
            entry.line,
            lambda context: teams.change(existing, name=entry.name, entra_group=group, actor=context.actor),
        )
    return _plan_members(plan, desired, entry, existing) if entry.members is not None and not group else []


def _plan_members(plan: Plan, desired: Configuration, entry: TeamEntry, existing: Team | None) -> list[Step]:
    names = entry.members or ()
    members = [member.username for member in existing.members.all()] if existing else []
    known = set(User.objects.filter(username__in=names, is_active=True).values_list("username", flat=True))
    known |= {service_accounts.username_of(account.name) for account in desired.service_accounts or ()}
    known |= {*members, *_added_people(desired)}
    for name in names:
        with plan.problems.noted():
            if name not in known:
                action = "Add them to the section people, or remove the name until they have signed in."
                raise WrongEntry(f"No active person has the user name “{name}”.", action=action, line=entry.line)
        if name not in members:
            run = partial(_save_member, teams.add_member, entry.name, name)
            plan.add("member", f"{name} of the team {entry.name}", {}, entry.line, run)
    leave = partial(_save_member, teams.remove_member, entry.name)
    return [
        Step(Verb.REMOVE, "member", f"{name} of the team {entry.name}", (), entry.line, partial(leave, name))
        for name in members
        if name not in names
    ]


def _save_member(change: Callable[..., None], team: str, username: str, context: StepContext) -> None:
    user = User.objects.get(username=username)
    change(Team.objects.get(name=team), user, actor=context.actor, now=context.now)
