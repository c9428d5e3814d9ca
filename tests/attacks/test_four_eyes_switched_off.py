"""An IT admin switches the rule of the second IT admin off, uses the gap, and switches it on again."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections.models import AppRegistration, AuditEvent, ChangeRequest, Delivery, Policy, User
from connections.services.connections import change_requests
from connections.services.governance import policy
from connections.services.people import accounts
from connections.services.policy import four_eyes
from connections.services.policy import rules as policy_rules
from connections.services.policy.four_eyes import SecondPersonNeeded
from connections.services.policy.rules import Effect, Rules
from connections.services.registry import app_registrations
from tests import factories, full_dataset
from tests.views.pages import SignIn

NOW = timezone.now()
ON = Rules(app_only_second_admin=True, capabilities={"mail.send": Effect.APPROVAL})
OFF = replace(ON, app_only_second_admin=False)


@pytest.fixture
def rule_on(alice: User) -> None:
    policy.change(None, ON, actor=alice, now=NOW)


def rules_now() -> Rules:
    return policy.stored_policy().rules


@pytest.mark.usefixtures("rule_on")
def test_the_attack_of_the_issue(alice: User, dana: User, signed_in: SignIn) -> None:
    admin = signed_in(alice)
    response = admin.post("/policy/", full_dataset.policy_form(**{"capability-mail.send": "approval"}))
    change = ChangeRequest.objects.get()
    assert (response.status_code, response["Location"]) == (302, f"/change-requests/{change.pk}/")
    assert rules_now() == ON
    assert admin.post(f"/change-requests/{change.pk}/approve/").status_code == 403
    assert admin.post(f"/change-requests/{change.pk}/carry-out/").status_code == 302
    assert rules_now() == ON
    subjects = [row.payload["message"]["subject"] for row in Delivery.objects.filter(email=dana.email)]
    assert subjects == ["Approval requested: Loosening the policy of the organisation"]


@pytest.mark.usefixtures("rule_on")
def test_with_a_second_it_admin_it_works_is_announced_and_what_was_made_is_named(
    alice: User, bob: User, carol: User, dana: User, signed_in: SignIn
) -> None:
    with pytest.raises(SecondPersonNeeded) as needed:
        policy.change(None, OFF, actor=alice, now=NOW)
    change = four_eyes.ask(needed.value.change, actor=alice, now=NOW)
    four_eyes.approve(change, actor=dana, now=NOW)
    change_requests.carry_out(change, actor=alice, now=NOW)
    assert rules_now() == OFF
    messages = Delivery.objects.filter(payload__message__subject="Alice Admin loosened the policy")
    assert set(messages.values_list("email", flat=True)) == {alice.email, carol.email, dana.email}
    robot = factories.make_app_only_connection(created_at=NOW + timedelta(seconds=1))
    assert robot.name in signed_in(carol).get("/policy/").content.decode()
    policy.change(None, ON, actor=alice, now=NOW + timedelta(seconds=3))
    event = AuditEvent.objects.get(action="policy.tightened")
    assert event.changes["connections"] == f"{robot.name} ({robot.pk})"
    assert event.changes["rules"] == "app_only_second_admin"
    assert "Created since the policy was loosened" not in signed_in(carol).get("/policy/").content.decode()


@pytest.mark.usefixtures("rule_on")
def test_tightening_applies_at_once(alice: User) -> None:
    policy.change(None, replace(ON, share_app_only=False, longest_share_days=30), actor=alice, now=NOW)
    assert rules_now().share_app_only is False


def test_without_the_rule_one_admin_can_loosen_and_the_auditors_are_told(alice: User, carol: User) -> None:
    policy.change(None, Rules(share_app_only=False), actor=alice, now=NOW)
    policy.change(None, Rules(), actor=alice, now=NOW)
    assert Delivery.objects.filter(email=carol.email).count() == 1


@pytest.mark.usefixtures("rule_on")
def test_the_last_admin_standing_is_no_exception(alice: User, dana: User) -> None:
    accounts.disable_person(dana, actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(None, OFF, actor=alice, now=NOW)
    root = factories.make_person("root", is_superuser=True)  # an operator's break-glass account can decide
    with pytest.raises(SecondPersonNeeded) as needed:
        policy.change(None, OFF, actor=alice, now=NOW)
    four_eyes.approve(four_eyes.ask(needed.value.change, actor=alice, now=NOW), actor=root, now=NOW)
    policy.change(None, OFF, actor=alice, now=NOW)


@pytest.mark.usefixtures("rule_on")
def test_a_configuration_file_is_no_way_round(alice: User, tmp_path: Any) -> None:
    file = tmp_path / "portal.yaml"
    file.write_text("version: 1\npolicy:\n  organisation:\n    app_only_second_admin: false\n")
    with pytest.raises(CommandError, match="needs approval"):
        call_command("apply_config", str(file), "--as", "alice", "--yes")
    assert rules_now() == ON


@pytest.mark.usefixtures("rule_on")
def test_rules_of_an_app_registration_are_protected_too(alice: User, app: AppRegistration) -> None:
    policy.change(app, Rules(share_with_people=False), actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(app, Rules(), actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):  # removing it would remove its rules
        app_registrations.remove(app, actor=alice)
    assert AppRegistration.objects.exists()


def test_a_rule_of_one_app_registration_protects_the_organisations_rules(alice: User, app: AppRegistration) -> None:
    policy.change(app, Rules(app_only_second_admin=True), actor=alice, now=NOW)
    policy.change(None, Rules(share_app_only=False), actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(None, Rules(), actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(app, Rules(), actor=alice, now=NOW)
    assert Policy.objects.count() == 2


@pytest.mark.usefixtures("rule_on")
def test_other_rules_than_the_approved_ones_need_another_approval(alice: User, dana: User) -> None:
    with pytest.raises(SecondPersonNeeded) as needed:
        policy.change(None, OFF, actor=alice, now=NOW)
    four_eyes.approve(four_eyes.ask(needed.value.change, actor=alice, now=NOW), actor=dana, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(None, Rules(), actor=alice, now=NOW)
    policy.change(None, OFF, actor=alice, now=NOW)
    policy.change(None, ON, actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        policy.change(None, OFF, actor=alice, now=NOW)


@pytest.mark.parametrize(
    ("before", "after", "looser"),
    [
        (Rules(), Rules(), ()),
        (Rules(tenants=("a",)), Rules(), ("tenants",)),
        (Rules(tenants=("a",)), Rules(tenants=("a", "b")), ("tenants",)),
        (Rules(tenants=("a", "b")), Rules(tenants=("b",)), ()),
        (Rules(), Rules(tenants=()), ()),
        (Rules(longest_share_days=9), Rules(longest_share_days=10), ("longest_share_days",)),
        (Rules(longest_share_days=9), Rules(), ("longest_share_days",)),
        (Rules(), Rules(longest_share_days=9), ()),
        (Rules(personal_accounts=False), Rules(), ("personal_accounts",)),
        (ON, OFF, ("app_only_second_admin",)),
        (OFF, ON, ()),
        (Rules(), Rules(member_apps=True), ("member_apps",)),
        (Rules(member_apps=True), Rules(), ()),
        (Rules(capabilities={"mail.send": Effect.FORBIDDEN}), Rules(capabilities={"mail.send": Effect.APPROVAL}),
         ("capabilities",)),
        (Rules(permissions={"Mail.*": Effect.FORBIDDEN}),
         Rules(permissions={"Mail.*": Effect.FORBIDDEN, "Mail.Read": Effect.ALLOWED}), ("permissions",)),
        (Rules(permissions={"Mail.Send": Effect.FORBIDDEN}), Rules(permissions={"Mail.*": Effect.FORBIDDEN}), ()),
        (Rules(permissions={"Mail.*": Effect.FORBIDDEN}), Rules(permissions={"*": Effect.FORBIDDEN}), ()),
        (Rules(permissions={"*": Effect.FORBIDDEN}), Rules(permissions={"Mail.*": Effect.FORBIDDEN}), ("permissions",)),
    ],
)  # fmt: skip
def test_each_rule_knows_what_is_looser(before: Rules, after: Rules, looser: tuple[str, ...]) -> None:
    assert policy_rules.loosened(before, after) == looser


@pytest.mark.parametrize("seed", range(40))
def test_permission_rules_are_looser_exactly_if_some_permission_is(seed: int) -> None:
    chance = random.Random(seed)
    patterns = ["*", "Mail.*", "Mail.Read.*", "Mail.Read", "Mail.Read.Shared", "Files.*", "Files.Read"]
    names = ["Mail.Read", "Mail.Read.Shared", "Mail.Read.Other", "Mail.Send", "Files.Read", "Files.Write", "User.Read"]

    def rules() -> Rules:
        chosen = chance.sample(patterns, chance.randint(0, 4))
        return Rules(permissions={name: chance.choice(list(Effect)) for name in chosen})

    order = list(Effect)
    before, after = rules(), rules()
    is_looser = any(
        order.index(after.of_permission(name)[0]) < order.index(before.of_permission(name)[0]) for name in names
    )
    assert bool(policy_rules.loosened(before, after)) is is_looser
