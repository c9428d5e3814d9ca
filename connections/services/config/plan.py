"""Plan and apply a configuration file: compare, check with Microsoft, then change everything or nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import Conflict, MicrosoftRefused, MicrosoftUnavailable, PortalError
from connections.models import User
from connections.models.audit import AuditAction
from connections.services.config import organisation, people, references, registry
from connections.services.config.schema import Configuration, Problems, WrongEntry
from connections.services.config.steps import Plan, Step, StepContext, Verb
from connections.services.notifications import channels
from connections.services.registry import app_registrations, credentials
from connections.services.registry import tenants as tenant_services

# Each section comes after those it depends on.
_SECTIONS: tuple[Callable[[Plan, Configuration], list[Step]], ...] = (
    registry.plan_tenants,
    registry.plan_app_registrations,
    organisation.plan_mailboxes,
    people.plan_people,
    people.plan_service_accounts,
    people.plan_teams,
    references.plan_references,
    organisation.plan_channels,
    organisation.plan_policy,
)


def plan(desired: Configuration, *, prune: bool = False) -> Plan:
    """Plan how to make the portal match the file. With ``prune``, also remove what the file does not contain.

    Raises WrongEntry, or WrongEntries for several problems.
    """
    planned = Plan()
    unnamed: list[Step] = []
    for section in _SECTIONS:
        with planned.problems.noted():
            # Later sections depend on earlier ones, so their objects are removed first.
            unnamed = [*section(planned, desired), *unnamed]
    planned.problems.raise_all()
    if prune:
        planned.steps += unnamed
    else:
        planned.kept = [f"{step.noun} {step.name}" for step in unnamed]
    return planned


def apply(
    desired: Configuration, seen: Plan, *, actor: User, now: datetime, prune: bool = False, allow_untried: bool = False
) -> None:
    """Apply the whole plan, or nothing if a step fails.

    Before the transaction, we look up the directories at Microsoft and test the new secrets there. With
    ``allow_untried``, secrets are stored even if Microsoft cannot be reached or requires consent first.

    Raises NotAllowed, WrongEntry with the line that failed, or Conflict if the portal has changed since the plan was
    ``seen``.
    """
    roles.require(
        permissions.can_manage_registry(actor),
        cause="Only IT admins can apply a configuration.",
        action="Ask an IT admin.",
    )
    context = _ask_outside(seen, StepContext(actor, now), allow_untried=allow_untried)
    with transaction.atomic():
        current = plan(desired, prune=prune)
        if current.steps != seen.steps:
            raise Conflict(
                "The portal has changed since this was planned. Nothing was changed.", action="Review the plan again."
            )
        for step in current.steps:
            with _at(step.line, step):
                step.run(context)
        if current.steps:
            counts = Counter(step.verb for step in current.steps)
            facts = {verb.value: counts[verb] for verb in Verb if counts[verb]}
            audit.record(AuditAction.CONFIGURATION_APPLIED, actor, actor=actor, changes=facts)


def _ask_outside(seen: Plan, context: StepContext, *, allow_untried: bool) -> StepContext:
    """Look up directories and hosts, and test secrets. Raises WrongEntry, or WrongEntries."""
    problems = Problems()
    directories = {}
    for entry in seen.lookups:
        with problems.noted(), _at(entry.line):
            try:
                directories[entry.directory] = tenant_services.look_up_directory(entry.environment, entry.directory_id)
            except MicrosoftUnavailable:
                # As on the tenant's page, the tenant is registered anyway and its directory is looked up later.
                directories[entry.directory] = ""
    for channel in seen.targets:
        with problems.noted(), _at(channel.line):
            channels.host_of(channel.url)
    accepted = {}
    for trial in seen.trials:
        with problems.noted(), _at(trial.line):
            try:
                accepted[trial.line] = credentials.is_accepted(
                    trial.app_registration, trial.secret, allow_untried=allow_untried
                )
            except MicrosoftRefused as error:
                if not (allow_untried and app_registrations.can_be_saved_untested(error)):
                    raise
                accepted[trial.line] = False
    problems.raise_all()
    return replace(context, directories=directories, accepted=accepted)


@contextmanager
def _at(line: int, step: Step | None = None) -> Iterator[None]:
    """Add the file's line number to errors raised in the block."""
    try:
        yield
    except WrongEntry:
        raise
    except PortalError as error:
        about = f"{step.noun} {step.name}: " if step is not None else ""
        raise WrongEntry(f"{about}{error.cause}", action=error.action, line=line) from error
