"""An owner leaves, the portal notices, an IT admin transfers ownership, and the new owner connects another account."""

from typing import Any

import pytest
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.models import AuditEvent, Connection, Incident, User
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person
from tests.views.pages import text

GRACE = "grace@contoso.example"


@pytest.fixture(autouse=True)
def _the_portals_sign_in_is_the_sandbox(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "environment": "sandbox"}


def bobs_own(sandbox: Control, bob: User) -> Connection:
    """Return an active connection to bob's own account, ada@contoso.example."""
    UserSocialAuth.objects.create(user=bob, provider="microsoft", uid=f"{factories.DIRECTORY_ID}.{factories.ADA_ID}")
    return factories.make_granted_connection(sandbox, owner=bob, refresh_after=timezone.now())


def test_a_leaver_is_noticed_and_replaced(person: Meet, alice: User, bob: User, dave: User, sandbox: Control) -> None:
    connection = bobs_own(sandbox, bob)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=timezone.now())

    admin = person(alice)
    assert "Bob Member left and owns connections" in admin.get("/").content.decode()
    page = admin.get(f"/connections/{connection.pk}/hand-over/").content.decode()
    assert "The previous sign-in has expired" in page
    sent = {"everything_to": "dave", "grant": "keep", f"take_{connection.pk}": "on"}
    assert admin.post(f"/people/{bob.pk}/hand-over/", **sent).status_code == 302
    assert not Incident.objects.filter(kind="leaver", closed_at=None).exists()
    assert not Incident.objects.filter(kind="policy", closed_at=None).exists(), "the old account is nobody's trouble"

    member = person(dave)
    assert "Sign in for Invoices" in member.get("/").content.decode()
    begun = member.post(f"/connections/{connection.pk}/sign-in/")
    assert "login_hint" not in begun["Location"]
    member.connect(begun, GRACE)

    after = Connection.objects.get()
    assert (after.pk, after.owner, after.account_username) == (connection.pk, dave, GRACE)
    assert (after.status, after.account_oid) == ("active", seed.fixed_id(GRACE))
    done = AuditEvent.objects.get(action="connection.hand_over_completed")
    assert done.changes["account"] == [factories.ADA, GRACE]
    assert not Incident.objects.filter(closed_at=None).exists()
    assert "Sign in for Invoices" not in member.get("/").content.decode()
    assert scheduler.check_now(after, actor=dave, now=timezone.now()).status == "active"


def test_until_the_new_owner_has_signed_in_the_old_grant_is_refreshed(
    person: Meet, alice: User, bob: User, dave: User, sandbox: Control
) -> None:
    connection = bobs_own(sandbox, bob)
    person(alice).post(f"/connections/{connection.pk}/hand-over/", seen_owner=bob.pk, new_owner="dave", grant="keep")
    scheduler.sweep(now=timezone.now())
    after = Connection.objects.get()
    assert (after.owner, after.status, after.account_username) == (dave, "active", factories.ADA)
    assert after.token_version > connection.token_version
    assert Incident.objects.get(kind="hand_over").is_open


def test_a_cancelled_sign_in_leaves_the_old_grant_and_the_task(
    person: Meet, alice: User, bob: User, dave: User, sandbox: Control
) -> None:
    connection = bobs_own(sandbox, bob)
    person(alice).post(f"/connections/{connection.pk}/hand-over/", seen_owner=bob.pk, new_owner="dave", grant="keep")
    member = person(dave)
    member.follow_to_microsoft(member.post(f"/connections/{connection.pk}/sign-in/"))
    member.microsoft.submit("cancel", why="sign-in")
    member.return_to_portal()
    after = Connection.objects.get()
    assert (after.status, after.account_username) == ("active", factories.ADA)
    assert Incident.objects.get(kind="hand_over").is_open


def test_a_sign_in_in_progress_fails_after_another_transfer(
    person: Meet, alice: User, bob: User, dave: User, sandbox: Control
) -> None:
    connection = bobs_own(sandbox, bob)
    path = f"/connections/{connection.pk}/hand-over/"
    admin, member = person(alice), person(dave)
    admin.post(path, seen_owner=bob.pk, new_owner="dave", grant="cut")
    member.follow_to_microsoft(member.post(f"/connections/{connection.pk}/sign-in/"))
    member.consent(GRACE)
    admin.post(path, seen_owner=dave.pk, new_owner="alice", grant="cut")
    member.return_to_portal()
    after = Connection.objects.get()
    assert (after.owner, after.status, after.account_username) == (alice, "reconnect_needed", factories.ADA)
    assert after.refresh_token is None


def test_too_many_groups_for_the_token_are_explained(sandbox: Control, settings: Any) -> None:
    from django.test import Client

    from connections.models.accounts import IT_ADMINS
    from tests.flows.test_sign_in import forget_microsoft, sign_in
    from tests.sandbox.conftest import Browser

    group = seed.fixed_id("group of administrators")
    settings.LOGIN_MICROSOFT = factories.MICROSOFT_SIGN_IN | {"admins": [group], "auditors": []}
    forget_microsoft()
    somebody = Person(Client(), Browser(sandbox.base_url))
    sandbox.assign(seed.SIGN_IN_APP, factories.ADA, roles=[], groups=[group])
    sign_in(somebody, factories.ADA)
    many = [group, *(seed.fixed_id(f"group {number}") for number in range(200))]
    sandbox.assign(seed.SIGN_IN_APP, factories.ADA, roles=[], groups=many)
    somebody.get("/")
    somebody.portal.post("/sign-out/")
    sign_in(somebody, factories.ADA)

    ada = User.objects.get(username=factories.ADA)
    assert [group.name for group in ada.groups.all()] == [IT_ADMINS], "the role came from the group and stays"
    assert "include your groups in the sign-in" in text(somebody.get("/"))
    assert "Groups assigned to the application" in text(somebody.get("/account/"))
