"""Roles and teams from Entra are confirmed in the background, and guests are let in only on purpose."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.access import roles
from connections.errors import NotAllowed
from connections.microsoft import guests
from connections.models import AuditEvent, Team, Tenant, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.people import accounts, directory_sync
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.people.test_offboarding import tenant_with_roles

NOW = timezone.now()
OLD = NOW - timedelta(hours=30)
GROUP, TEAM_GROUP = seed.fixed_id("administrators"), seed.fixed_id("finance")
READ_GROUPS = ("Mail.Read", "User.Read.All", "GroupMember.Read.All")
TENANT = "0" * 8 + "-0000-4000-8000-" + "1" * 12
HOME = "0" * 8 + "-0000-4000-8000-" + "2" * 12


@pytest.fixture(autouse=True)
def signs_in_at_the_sandbox(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {
        **settings.LOGIN_MICROSOFT,
        "environment": "sandbox",
        "tenant": seed.CONTOSO,
        "client_id": seed.SIGN_IN_APP,
        "admins": ["ITAdmin", GROUP],
    }


@pytest.fixture
def ada(db: None) -> User:
    """An IT admin by group, an auditor by app role, and in a team by group, all confirmed 30 hours ago."""
    Team.objects.create(name="Finance", entra_group=TEAM_GROUP)
    claims = {"oid": factories.ADA_ID, "preferred_username": "ada", "roles": ["Auditor"], "groups": [GROUP, TEAM_GROUP]}
    ada = accounts.create_from_directory(claims=claims)
    accounts.update_from_directory(ada, claims=claims)
    UserSocialAuth.objects.create(user=ada, provider="microsoft", uid=f"{seed.CONTOSO}.{factories.ADA_ID}")
    User.objects.filter(pk=ada.pk).update(roles_read_at=OLD, groups_read_at=OLD)
    return ada


def assign(sandbox: Control, *, roles: list[str], groups: list[str]) -> None:
    sandbox.assign(seed.SIGN_IN_APP, factories.ADA, roles=roles, groups=groups)


def read(ada: User, tenant: Tenant) -> tuple[set[str], set[str], datetime | None, datetime | None]:
    assert directory_sync.sync(tenant, now=NOW)
    current = User.objects.get(pk=ada.pk)
    held = set(current.groups.values_list("name", flat=True))
    return held, set(current.teams.values_list("name", flat=True)), current.roles_read_at, current.groups_read_at


def test_a_successful_reading_renews_what_is_still_true(sandbox: Control, ada: User) -> None:
    tenant = tenant_with_roles(sandbox, *READ_GROUPS, "Directory.Read.All")
    assign(sandbox, roles=["Auditor"], groups=[GROUP, TEAM_GROUP])
    assert not roles.person(User.objects.get(pk=ada.pk)).oversees
    assert read(ada, tenant) == ({IT_ADMINS, AUDITORS}, {"Finance"}, NOW, NOW)
    assert roles.person(User.objects.get(pk=ada.pk)).is_admin


@pytest.mark.parametrize(
    ("kept_roles", "kept_groups", "expected"),
    [
        (["Auditor"], [TEAM_GROUP], ({AUDITORS}, {"Finance"})),
        ([], [GROUP], ({IT_ADMINS}, set())),
        ([], [], (set(), set())),
    ],
)
def test_what_was_taken_away_in_entra_is_removed_at_once(
    sandbox: Control, ada: User, kept_roles: list[str], kept_groups: list[str], expected: tuple[set[str], set[str]]
) -> None:
    tenant = tenant_with_roles(sandbox, *READ_GROUPS, "Directory.Read.All")
    assign(sandbox, roles=kept_roles, groups=kept_groups)
    assert read(ada, tenant)[:2] == expected
    if expected[0] != {IT_ADMINS, AUDITORS}:
        assert AuditEvent.objects.filter(action="account.roles_changed", actor=None).count() == 2


def test_without_the_right_to_read_app_roles_they_keep_their_age(sandbox: Control, ada: User) -> None:
    tenant = tenant_with_roles(sandbox, *READ_GROUPS)
    assign(sandbox, roles=[], groups=[TEAM_GROUP])
    assert read(ada, tenant) == ({AUDITORS}, {"Finance"}, OLD, NOW)


def test_without_the_right_to_read_groups_nothing_is_renewed(sandbox: Control, ada: User) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    assign(sandbox, roles=["Auditor"], groups=[GROUP, TEAM_GROUP])
    assert read(ada, tenant) == ({IT_ADMINS, AUDITORS}, {"Finance"}, OLD, OLD)


def test_local_people_are_not_asked_about(sandbox: Control, alice: User) -> None:
    UserSocialAuth.objects.create(user=alice, provider="microsoft", uid=f"{seed.FABRIKAM}.{factories.ADA_ID}")
    assert directory_sync.sync(tenant_with_roles(sandbox, *READ_GROUPS), now=NOW) is False
    assert roles.person(User.objects.get(pk=alice.pk)).is_admin


def test_the_directory_is_read_before_authority_ends(sandbox: Control, ada: User) -> None:
    tenant = tenant_with_roles(sandbox, *READ_GROUPS)
    directory_sync.sync(tenant, now=NOW)
    tenant.refresh_from_db()
    assert tenant.people_read_after is not None
    assert tenant.people_read_after < NOW + timedelta(hours=7)


def claims(**more: Any) -> dict[str, Any]:
    return {"tid": TENANT, "oid": "a" * 36, "preferred_username": "eve@example.org", **more}


GUESTS: list[dict[str, Any]] = [
    {"idp": f"https://sts.windows.net/{HOME}/"},
    {"idp": "live.com"},
    {"acct": 1},
    {"acct": "1"},
    {"preferred_username": "eve_fabrikam.com#EXT#@contoso.onmicrosoft.com"},
]


@pytest.mark.parametrize("more", GUESTS)
def test_guests_are_refused_by_default(settings: Any, db: None, more: dict[str, Any]) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    assert guests.is_guest(claims(**more))
    with pytest.raises(NotAllowed, match="a guest account"):
        accounts.require_admitted(claims(**more))
    assert AuditEvent.objects.get().changes == {"reason": "guest_not_allowed"}


@pytest.mark.parametrize("more", [{}, {"acct": 0}, {"idp": f"https://sts.windows.net/{TENANT}/"}])
def test_accounts_of_the_sign_in_tenant_are_admitted(settings: Any, more: dict[str, Any]) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    accounts.require_admitted(claims(**more))


@pytest.mark.parametrize("more", GUESTS)
def test_a_guest_is_admitted_by_object_id_or_all_are(settings: Any, more: dict[str, Any]) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    for allowed in (["a" * 36], ["*"]):
        settings.LOGIN_MICROSOFT_GUESTS = allowed
        accounts.require_admitted(claims(**more))


def test_a_directory_admits_its_own_accounts_only(settings: Any, db: None) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    settings.LOGIN_MICROSOFT_DIRECTORIES = [HOME]
    accounts.require_admitted(claims(**GUESTS[0]))
    for other in (GUESTS[1], GUESTS[4], {"idp": f"https://sts.windows.net/{TENANT[:-1]}3/"}):
        with pytest.raises(NotAllowed):
            accounts.require_admitted(claims(**other))


def test_an_account_of_another_directory_is_refused(settings: Any, db: None) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    with pytest.raises(NotAllowed, match="another organisation"):
        accounts.require_admitted(claims(tid=HOME))
    settings.LOGIN_MICROSOFT_DIRECTORIES = [HOME]
    accounts.require_admitted(claims(tid=HOME))


def test_names_admit_nobody(settings: Any, db: None) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": TENANT}
    settings.LOGIN_MICROSOFT_GUESTS = ["eve@example.org"]
    with pytest.raises(NotAllowed):
        accounts.require_admitted(claims(acct=1))
