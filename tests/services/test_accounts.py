"""People are admitted once, follow their directory, and every step is on record."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group

from connections.models import AuditEvent, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services import accounts
from tests import cast

pytestmark = pytest.mark.django_db

CLAIMS: dict[str, Any] = {
    "tid": cast.DIRECTORY_ID,
    "oid": cast.ADA_ID,
    "preferred_username": cast.ADA,
    "name": "Ada King Lovelace",
    "email": cast.ADA,
}


def roles(user: User) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))


def test_an_admitted_person_has_no_password_and_no_rights() -> None:
    user = accounts.admit(claims=CLAIMS)
    assert user.username == cast.ADA
    assert not user.has_usable_password()
    assert not user.is_staff
    assert not user.is_superuser
    assert roles(user) == []
    assert actions() == ["account.admitted"]


@pytest.mark.parametrize("taken", [cast.ADA, cast.ADA.upper()])
def test_an_account_of_that_name_is_left_alone(taken: str) -> None:
    local = User.objects.create_superuser(taken, "x@example.org", cast.PASSWORD)
    user = accounts.admit(claims=CLAIMS)
    assert user.pk != local.pk
    assert user.username == f"{cast.ADA} ({cast.ADA_ID[:8]})"
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
def test_odd_claims_make_an_ordinary_member(claims: dict[str, Any]) -> None:
    user = accounts.admit(claims=CLAIMS | claims)
    accounts.follow_directory(user, claims=CLAIMS | claims)
    user.refresh_from_db()
    assert user.username
    assert roles(user) == []


def test_following_twice_records_only_the_sign_in(settings: Any) -> None:
    user = accounts.admit(claims=CLAIMS)
    accounts.follow_directory(user, claims=CLAIMS | {"roles": ["ITAdmin"]})
    assert (user.first_name, user.last_name, user.email) == ("Ada", "King Lovelace", cast.ADA)
    assert actions()[1:] == ["account.updated", "account.roles_changed", "account.signed_in"]
    accounts.follow_directory(user, claims=CLAIMS | {"roles": ["ITAdmin"]})
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
def test_roles_are_those_of_the_directory(before: list[str], claims: dict[str, Any], after: list[str]) -> None:
    user = accounts.admit(claims=CLAIMS)
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in before])
    accounts.follow_directory(user, claims=CLAIMS | claims)
    assert roles(user) == after
    changed = AuditEvent.objects.filter(action="account.roles_changed").first()
    assert (changed is not None) is (sorted(before) != after)
    if changed is not None:
        assert changed.changes == {"roles": [sorted(before), after]}


def test_a_failed_sign_in_is_recorded_as_typed_and_cut() -> None:
    accounts.sign_in_failed("x" * 1000, reason="wrong_password")
    accounts.sign_in_failed("", reason="wrong_password")
    long, empty = AuditEvent.objects.order_by("pk")
    assert (len(long.actor_name), empty.actor_name) == (150, "(unknown)")
    assert {long.outcome, empty.outcome} == {"denied"}
    assert long.actor is None
    assert long.target_id == ""


def test_roles_of_a_local_account_are_set_once(alice: User, bob: User) -> None:
    accounts.set_roles(bob, admin=True, auditor=False, actor=alice)
    accounts.set_roles(bob, admin=True, auditor=False, actor=alice)
    assert roles(bob) == [IT_ADMINS]
    assert actions() == ["account.roles_changed"]
    accounts.set_roles(bob, admin=False, auditor=False, actor=alice)
    assert roles(bob) == []
