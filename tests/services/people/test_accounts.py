"""Accounts are created once, updated from the directory, disabled and enabled, and every step is recorded."""

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from connections.access import roles as access_roles
from connections.errors import InUse, NotAllowed
from connections.models import AccessPeriod, AuditEvent, Team, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.people import accounts
from connections.services.sharing import teams
from tests import browser_sessions, factories
from tests.records import actions

NOW = timezone.now()
CLAIMS: dict[str, Any] = {
    "tid": factories.DIRECTORY_ID,
    "oid": factories.ADA_ID,
    "preferred_username": factories.ADA,
    "name": "Ada King Lovelace",
    "email": factories.ADA,
}


def roles(user: User) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def test_a_new_account_has_no_password_and_no_permissions() -> None:
    user = accounts.create_from_directory(claims=CLAIMS)
    assert user.username == factories.ADA
    assert (user.has_usable_password(), user.is_staff, user.is_superuser, roles(user)) == (False, False, False, [])
    assert actions() == ["account.admitted"]


@pytest.mark.parametrize("taken", [factories.ADA, factories.ADA.upper()])
def test_an_existing_account_of_the_same_name_is_not_touched(taken: str) -> None:
    local = User.objects.create_superuser(taken, "x@example.org", factories.PASSWORD)
    user = accounts.create_from_directory(claims=CLAIMS)
    assert user.pk != local.pk
    assert user.username == f"{factories.ADA} ({factories.ADA_ID[:8]})"
    assert not user.is_superuser


@pytest.mark.parametrize(
    "claims",
    [
        {"preferred_username": None},
        {"preferred_username": ""},
        {"preferred_username": "x" * 500},
        {"name": None},
        {"name": "n" * 500 + " " + "m" * 500},
        {"name": "  "},
        {"email": "e" * 400 + "@contoso.example"},
        {"roles": "ITAdmin"},
        {"roles": None, "groups": {"a": 1}},
        {"roles": [None, 7, ["ITAdmin"]]},
    ],
    ids=lambda claims: str(claims)[:40],
)
def test_odd_claims_create_an_ordinary_member(claims: dict[str, Any]) -> None:
    user = accounts.create_from_directory(claims=CLAIMS | claims)
    accounts.update_from_directory(user, claims=CLAIMS | claims)
    user.refresh_from_db()
    assert user.username
    assert roles(user) == []


def test_a_second_sign_in_without_changes_records_only_itself(settings: Any) -> None:
    user = accounts.create_from_directory(claims=CLAIMS)
    accounts.update_from_directory(user, claims=CLAIMS | {"roles": ["ITAdmin"]})
    assert (user.first_name, user.last_name, user.email) == ("Ada", "King Lovelace", factories.ADA)
    assert actions()[1:] == ["account.updated", "account.roles_changed", "account.signed_in"]
    accounts.update_from_directory(user, claims=CLAIMS | {"roles": ["ITAdmin"]})
    assert actions()[4:] == ["account.signed_in"]


@pytest.mark.parametrize(
    ("before", "claims", "after"),
    [
        ([], {"roles": ["ITAdmin"]}, [IT_ADMINS]),
        ([], {"groups": ["Auditor"]}, [AUDITORS]),
        ([], {"roles": ["ITAdmin", "Auditor"]}, [AUDITORS, IT_ADMINS]),
        ([IT_ADMINS], {}, []),
        ([IT_ADMINS], {"roles": []}, []),
        ([IT_ADMINS, AUDITORS], {"roles": ["Auditor"]}, [AUDITORS]),
        (["Fire brigade"], {"roles": ["ITAdmin"]}, ["Fire brigade", IT_ADMINS]),
        ([], {"roles": ["itadmin", "ITAdmin "]}, []),
    ],
    ids=str,
)
def test_roles_follow_the_directory(before: list[str], claims: dict[str, Any], after: list[str]) -> None:
    user = accounts.create_from_directory(claims=CLAIMS)
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in before])
    accounts.update_from_directory(user, claims=CLAIMS | claims)
    assert roles(user) == after
    changes = [event.changes for event in AuditEvent.objects.filter(action="account.roles_changed")]
    assert changes == ([{"roles": [sorted(before), after]}] if sorted(before) != after else [])


def test_a_failed_sign_in_is_recorded_with_the_typed_name_cut_to_length() -> None:
    accounts.sign_in_failed("x" * 1000, reason="wrong_password")
    accounts.sign_in_failed("", reason="account_disabled")
    long, empty = AuditEvent.objects.order_by("pk")
    assert (len(long.actor_name), empty.actor_name) == (150, "(unknown)")
    assert {long.outcome, empty.outcome} == {"denied"}
    assert long.actor is None
    assert long.target_id == ""


def test_setting_the_same_roles_twice_is_recorded_once(alice: User, bob: User) -> None:
    for _ in range(2):
        accounts.set_roles(bob, admin=True, auditor=False, actor=alice)
    assert roles(bob) == [IT_ADMINS]
    assert actions() == ["account.roles_changed"]
    accounts.set_roles(bob, admin=False, auditor=False, actor=alice)
    assert roles(bob) == []


LEFT_OUT: dict[str, Any] = {
    "_claim_names": {"groups": "src1"},
    "_claim_sources": {"src1": {"endpoint": "https://graph.windows.net/t/users/o/getMemberObjects"}},
}


@pytest.mark.parametrize(
    ("claims", "left_out"),
    [
        (LEFT_OUT, True),
        ({"hasgroups": True}, True),
        ({"hasgroups": "true"}, True),
        ({}, False),
        ({"groups": []}, False),
        ({"hasgroups": False}, False),
        ({"_claim_names": {"roles": "src1"}}, False),
        ({"_claim_names": ["groups"]}, False),
    ],
    ids=str,
)
def test_a_groups_overage_is_detected(claims: dict[str, Any], left_out: bool) -> None:
    assert accounts.has_groups_overage(claims) is left_out


def test_a_groups_overage_removes_no_role_and_no_team(alice: User) -> None:
    team = teams.add("Finance", entra_group="g-finance", actor=alice)
    by_hand = teams.add("Choir", actor=alice)
    user = accounts.create_from_directory(claims=CLAIMS)
    teams.add_member(by_hand, user, actor=alice)
    accounts.update_from_directory(user, claims=CLAIMS | {"groups": ["Auditor", "g-finance"]})
    for _ in range(2):
        accounts.update_from_directory(user, claims=CLAIMS | LEFT_OUT)
    user.refresh_from_db()
    assert roles(user) == [AUDITORS]
    assert set(Team.objects.filter(members=user)) == {team, by_hand}
    assert user.groups_left_out_at is not None
    (event,) = AuditEvent.objects.filter(action="account.groups_left_out")
    assert event.changes == {"roles_kept": AUDITORS, "teams_kept": "Choir, Finance"}

    accounts.update_from_directory(user, claims=CLAIMS | {"groups": []})
    assert not roles(user)
    assert not User.objects.exclude(groups_left_out_at=None).exists()
    assert list(Team.objects.filter(members=user)) == [by_hand]


def test_an_app_role_can_be_removed_during_a_groups_overage() -> None:
    user = accounts.create_from_directory(claims=CLAIMS)
    accounts.update_from_directory(user, claims=CLAIMS | {"roles": ["ITAdmin"], "groups": ["Auditor"]})
    assert roles(user) == [AUDITORS, IT_ADMINS]
    accounts.update_from_directory(user, claims=CLAIMS | LEFT_OUT)
    assert roles(user) == [AUDITORS]


def test_a_role_of_unknown_origin_is_kept_during_a_groups_overage() -> None:
    user = accounts.create_from_directory(claims=CLAIMS)
    user.groups.add(Group.objects.get_or_create(name=IT_ADMINS)[0])
    accounts.update_from_directory(user, claims=CLAIMS | LEFT_OUT)
    assert roles(user) == [IT_ADMINS]


def test_disabling_ends_all_sessions_until_the_person_signs_in_again(alice: User, bob: User) -> None:
    browser = Client()
    browser_sessions.sign_in(browser, bob)
    assert browser.get("/").status_code == 200
    for _ in range(2):
        accounts.disable_person(bob, actor=alice, now=NOW)
    assert browser.get("/").status_code == 302
    refused = Client().post("/sign-in/", {"username": "bob", "password": factories.PASSWORD})
    assert refused.status_code == 422
    left = User.objects.get(pk=bob.pk)
    assert (left.is_active, left.left_at, left.left_how) == (False, NOW, "disabled")
    assert AccessPeriod.objects.filter(kind="disabled", person_id=bob.pk, ended_at=None).count() == 1

    for _ in range(2):
        accounts.enable_person(bob, actor=alice, now=NOW)
    assert browser.get("/").status_code == 302, "a session from before has ended for good"
    back = User.objects.get(pk=bob.pk)
    assert (back.is_active, back.left_at) == (True, None)
    assert not AccessPeriod.objects.filter(kind="disabled", ended_at=None).exists()
    recorded = [action.removeprefix("account.") for action in actions() if "sign_in" not in action]
    assert recorded == ["disabled", "left", "enabled", "back"]


def test_a_session_that_began_at_microsoft_ends_as_well(alice: User, bob: User) -> None:
    browser = Client()
    browser_sessions.sign_in(browser, bob, backend=browser_sessions.MICROSOFT)
    assert browser.get("/").status_code == 200
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert browser.get("/").status_code == 302
    User.objects.filter(pk=bob.pk).update(is_active=True)
    assert browser.get("/").status_code == 200


def test_nobody_disables_themselves_or_without_permission_or_an_operator(alice: User, bob: User, carol: User) -> None:
    with pytest.raises(NotAllowed, match="your own account"):
        accounts.disable_person(alice, actor=alice, now=NOW)
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            accounts.disable_person(bob, actor=person, now=NOW)
        with pytest.raises(NotAllowed):
            accounts.enable_person(bob, actor=person, now=NOW)
    root = User.objects.create_superuser("root", "root@example.org", factories.PASSWORD)
    with pytest.raises(NotAllowed, match="operator"):
        accounts.disable_person(root, actor=alice, now=NOW)
    accounts.disable_person(alice, actor=root, now=NOW)
    assert User.objects.filter(is_active=False).count() == 1


def test_two_it_admins_cannot_disable_each_other(alice: User) -> None:
    amy = factories.make_person("amy")
    accounts.set_roles(amy, admin=True, auditor=False, actor=alice)
    accounts.disable_person(amy, actor=alice, now=NOW)
    stale = User.objects.get(pk=amy.pk)
    stale.is_active = True
    with pytest.raises(NotAllowed):
        accounts.disable_person(alice, actor=stale, now=NOW)
    assert User.objects.get(pk=alice.pk).is_active


def test_the_last_it_admin_cannot_be_disabled(alice: User) -> None:
    """This holds even if the actor is another IT admin who loses the role at the same moment."""
    amy = factories.make_person("amy")
    accounts.set_roles(amy, admin=True, auditor=False, actor=alice)
    amy = User.objects.get(pk=amy.pk)
    assert access_roles.person(amy).is_admin
    amy.groups.clear()
    with pytest.raises(InUse, match="last IT admin"):
        accounts.disable_person(alice, actor=amy, now=NOW)
