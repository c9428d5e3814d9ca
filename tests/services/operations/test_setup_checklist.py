"""The setup checklist: what is done by itself, what is confirmed by hand, and who may dismiss it."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, SetupDecision, User
from connections.services.operations import checks, setup_checklist
from tests import factories
from tests.views.pages import assert_hides, assert_shows, text

pytestmark = pytest.mark.django_db
RUNNING = {"processes": checks.ok("1 beat, 1 web, 1 worker")}


def open_steps(results: dict[str, checks.Result] | None = None) -> list[str]:
    checklist = setup_checklist.read(RUNNING if results is None else results)
    return [step.key for step in checklist.steps if not step.is_done] if checklist else []


def confirm(step: str, actor: User) -> None:
    setup_checklist.confirm(step, actor=actor, now=timezone.now())


@pytest.fixture(autouse=True)
def _bare(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    settings.AUDIT_SEAL_FILE = settings.AUDIT_SEAL_WEBHOOK = ""


def test_steps_are_done_when_the_portal_sees_it_or_an_it_admin_confirms_it(alice: User, settings: Any) -> None:
    assert open_steps({}) == ["mail", "sign_in", "policy", "backup", "processes"]
    assert open_steps({"processes": checks.problem("not running: beat", "Start it.")})[-1] == "processes"
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    confirm("policy", alice)
    confirm("sign_in", alice)
    confirm("backup", alice)
    assert open_steps() == ["backup"], "the seals are still kept in the database only"
    settings.AUDIT_SEAL_FILE = "/var/lib/portal/seals"
    assert setup_checklist.read(RUNNING) is None


def test_confirming_is_audited_once_and_can_be_taken_back(alice: User) -> None:
    for _ in range(2):
        confirm("policy", alice)
    for _ in range(2):
        setup_checklist.reopen("policy", actor=alice, now=timezone.now())
    assert list(AuditEvent.objects.values_list("action", flat=True)) == ["setup.reopened", "setup.confirmed"]
    assert "policy" in open_steps()


def test_only_it_admins_confirm_and_only_what_cannot_be_seen(alice: User, bob: User, carol: User) -> None:
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            confirm("policy", person)
        with pytest.raises(NotAllowed):
            setup_checklist.reopen("policy", actor=person, now=timezone.now())
    with pytest.raises(InvalidInput):
        confirm("mail", alice)
    assert not SetupDecision.objects.exists()


def test_it_is_on_the_home_page_of_it_admins_until_it_is_dismissed(alice: User, bob: User) -> None:
    admin: Client = factories.signed_in(alice)
    page = text(admin.get("/"))
    assert_shows(
        page, "Setup checklist", "0 of 5 done", 'href="/docs/operating/#sign-in-with-microsoft"', "Review policy"
    )
    assert "Setup checklist" not in text(factories.signed_in(bob).get("/"))
    page = text(admin.post("/setup/checklist/confirm/", follow=True))
    assert_shows(page, "Setup checklist dismissed.", "Undo", "Show setup checklist")
    assert_hides(page, "0 of 5 done")
    assert "0 of 5 done" in text(admin.post("/setup/checklist/reopen/", follow=True))
