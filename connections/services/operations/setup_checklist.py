"""The setup checklist on the home page of IT admins: what a new portal needs before others rely on it.

Most steps are done once the portal sees it. Three can also be confirmed by hand, because the portal can't see them or
because the organisation decides against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import InvalidInput
from connections.models import SetupDecision, User
from connections.models.audit import AuditAction
from connections.services.operations import network_checks
from connections.services.operations.checks import Result

Key = SetupDecision.Step


@dataclass(frozen=True, slots=True)
class Step:
    key: str
    title: str
    text: str
    is_done: bool
    doc: str  # a page of the documentation, with the section
    page: str = ""  # the URL name of the page where it's done; empty if that is outside the portal
    page_label: str = ""
    confirm_label: str = ""  # for steps that can be confirmed by hand


@dataclass(frozen=True, slots=True)
class Checklist:
    steps: tuple[Step, ...]
    is_dismissed: bool

    @property
    def done(self) -> int:
        return sum(step.is_done for step in self.steps)


def read(results: Mapping[str, Result]) -> Checklist | None:
    """Return the checklist, or None once it is complete. ``results`` are those of the doctor, by name."""
    decided = set(SetupDecision.objects.values_list("step", flat=True))
    steps = (_mail(), _sign_in(decided), _policy(decided), _backup(decided), _processes(results))
    checklist = Checklist(steps, is_dismissed=Key.CHECKLIST in decided)
    return None if checklist.done == len(checklist.steps) else checklist


def _mail() -> Step:
    return Step(
        "mail",
        "Email",
        "Set EMAIL_URL, so that people learn what they need to fix. Then send a test email.",
        network_checks.has_mail_server(),
        "alerts/#delivery",
        "account_alerts",
        "Notification settings",
    )


def _sign_in(decided: set[str]) -> Step:
    return Step(
        Key.SIGN_IN,
        "Sign-in with Microsoft",
        "Set LOGIN_MICROSOFT_*, so that people sign in with their work account, or decide to keep local accounts.",
        bool(settings.LOGIN_MICROSOFT["client_id"]) or Key.SIGN_IN in decided,
        "operating/#sign-in-with-microsoft",
        confirm_label="Keep local accounts",
    )


def _policy(decided: set[str]) -> Step:
    return Step(
        Key.POLICY,
        "Policy",
        "Review which permissions connections may have, and what needs approval.",
        Key.POLICY in decided,
        "policy/#rules",
        "policy",
        "Review policy",
        confirm_label="Mark as reviewed",
    )


def _backup(decided: set[str]) -> Step:
    publishes = bool(settings.AUDIT_SEAL_FILE or settings.AUDIT_SEAL_WEBHOOK)
    text = "Back up the database every day, and store the encryption keys elsewhere."
    if not publishes:
        text += " Set AUDIT_SEAL_FILE, so that the audit trail's seals are also kept outside the database."
    return Step(
        Key.BACKUP,
        "Backups and seals",
        text,
        publishes and Key.BACKUP in decided,
        "operating/#backup",
        "audit_seals",
        "View seals",
        # Without seals outside the database, the step stays open.
        confirm_label="" if Key.BACKUP in decided else "Backups are set up",
    )


def _processes(results: Mapping[str, Result]) -> Step:
    result = results.get("processes")
    return Step(
        "processes",
        "Worker and beat",
        f"Start web, worker and beat ({result.detail})." if result else "Start web, worker and beat.",
        result is not None and result.is_working,
        "operating/#what-runs",
    )


_CONFIRMED_BY_HAND = (Key.SIGN_IN, Key.POLICY, Key.BACKUP)


def confirm(step: str, *, actor: User, now: datetime) -> None:
    """Confirm a step by hand, or dismiss the list. Doing it twice is harmless. Raises NotAllowed or InvalidInput."""
    roles.require(permissions.can_complete_setup(actor), action="Ask an IT admin.")
    if step not in (*_CONFIRMED_BY_HAND, Key.CHECKLIST):
        raise InvalidInput("You can't confirm this step yourself.", action="Refresh the page.")
    with transaction.atomic():
        decision, is_new = SetupDecision.objects.get_or_create(
            step=step, defaults={"decided_by": actor, "decided_by_name": str(actor)[:320], "decided_at": now}
        )
        if is_new:
            action = AuditAction.SETUP_DISMISSED if step == Key.CHECKLIST else AuditAction.SETUP_CONFIRMED
            audit.record(action, decision, actor=actor, at=now)


def reopen(step: str, *, actor: User, now: datetime) -> None:
    """Take back what confirm() did. Doing it twice is harmless. Raises NotAllowed."""
    roles.require(permissions.can_complete_setup(actor), action="Ask an IT admin.")
    with transaction.atomic():
        decision = SetupDecision.objects.select_for_update().filter(step=step).first()
        if decision is not None:
            audit.record(AuditAction.SETUP_REOPENED, decision, actor=actor, at=now)
            decision.delete()
