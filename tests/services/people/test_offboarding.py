"""Leavers turn up: by the portal, by what Microsoft answers for their own account, by the directory; and come back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.microsoft import account_status
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AuditEvent, Connection, Delivery, Incident, Tenant, User
from connections.services.connections import connections
from connections.services.people import accounts, directory_sync, offboarding, ownership_transfer
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
GRACE = "grace@contoso.example"


@pytest.fixture(autouse=True)
def signs_in_at_the_sandbox(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "environment": "sandbox"}


def of_the_directory(user: User, upn: str = factories.ADA, tid: str = factories.DIRECTORY_ID) -> User:
    """``user`` signs in to the portal as ``upn``."""
    UserSocialAuth.objects.create(user=user, provider="microsoft", uid=f"{tid}.{seed.fixed_id(upn)}")
    return user


def again(user: User) -> User:
    return User.objects.get(pk=user.pk)


def open_incidents() -> list[Incident]:
    return list(Incident.objects.filter(kind="leaver", closed_at=None))


# --- Marked and back ------------------------------------------------------------------------------


def test_a_leaver_who_owns_something_is_one_incident_for_the_it_admins(alice: User, bob: User) -> None:
    factories.make_connection(owner=bob)
    factories.make_connection(owner=bob, name="Second")
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Another reason.", now=NOW + timedelta(days=1))
    (incident,) = open_incidents()
    assert (incident.title, incident.who, incident.person) == (
        "Bob Member has left and owns connections",
        "it_admin",
        bob,
    )
    assert incident.affected.filter(healed_at=None).count() == 2
    assert list(Delivery.objects.values_list("email", flat=True)) == [alice.email]
    left = again(bob)
    assert (left.left_at, left.left_how, left.left_cause) == (NOW, "directory", "The account was deleted.")
    assert AuditEvent.objects.filter(action="account.left").count() == 1


def test_it_heals_when_the_last_connection_is_handed_over_or_removed(alice: User, bob: User, dave: User) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Second")
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    ownership_transfer.transfer(first, dave, keep_grant=True, actor=alice, now=NOW)
    assert len(open_incidents()) == 1
    connections.remove(second, actor=alice, now=NOW)
    assert open_incidents() == []
    assert again(bob).left_at == NOW


def test_disabling_a_connection_does_not_hide_that_its_owner_has_left(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    connections.disable(connection, actor=alice, now=NOW)
    assert len(open_incidents()) == 1


def test_whoever_signs_in_again_has_not_left(bob: User) -> None:
    factories.make_connection(owner=bob)
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Gone.", now=NOW)
    accounts.signed_in(again(bob), actor=bob, method="microsoft")
    assert (again(bob).left_at, again(bob).left_how, again(bob).left_cause) == (None, "", "")
    assert open_incidents() == []
    assert AuditEvent.objects.filter(action="account.back").count() == 1
    accounts.signed_in(again(bob), actor=bob, method="microsoft")
    assert AuditEvent.objects.filter(action="account.back").count() == 1


def test_a_leaver_who_owns_nothing_is_no_incident(bob: User) -> None:
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Gone.", now=NOW)
    assert open_incidents() == []


def test_who_left_before_there_were_incidents_gets_one_from_the_routine(bob: User) -> None:
    factories.make_connection(owner=bob)
    User.objects.filter(pk=bob.pk).update(left_at=NOW, left_how="disabled", left_cause="Long ago.", is_active=False)
    directory_sync.sync_due(now=NOW)
    directory_sync.sync_due(now=NOW)
    assert len(open_incidents()) == 1


# --- What Microsoft answers -----------------------------------------------------------------------


@pytest.mark.parametrize("change", ["disabled", "deleted"])
def test_the_sweep_notices_that_the_owners_own_account_is_gone(sandbox: Control, bob: User, change: str) -> None:
    of_the_directory(bob)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(owner=bob, refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
    sandbox.set_person(factories.ADA, **{change: True})
    scheduler.sweep(now=NOW)
    left = again(bob)
    assert left.left_how == "refused"
    assert "AADSTS500" in left.left_cause
    assert [incident.person for incident in open_incidents()] == [bob]


def test_a_service_account_that_is_gone_says_nothing_about_its_owner(sandbox: Control, bob: User) -> None:
    of_the_directory(bob, GRACE)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(owner=bob, refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    assert Connection.objects.get().status == "blocked"
    assert again(bob).left_at is None


def test_a_colleagues_connection_to_the_leavers_account_tells_it_as_well(sandbox: Control, bob: User) -> None:
    leo = of_the_directory(factories.make_person("leo"))
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(owner=bob, refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    assert again(leo).left_at is not None
    assert again(bob).left_at is None


@pytest.mark.parametrize(
    ("code", "certain", "counts"),
    [
        ("AADSTS50057", True, True),
        ("AADSTS50034", True, True),
        ("AADSTS500341", True, True),
        ("AADSTS50057", False, False),
        ("AADSTS50020", True, False),
        ("AADSTS50173", True, False),
        ("AADSTS50055", True, False),
        ("AADSTS500571", True, False),
    ],
)
def test_only_answers_that_prove_it_count(code: str, certain: bool, counts: bool) -> None:
    verdict = Verdict(Kind.POLICY, code, "", "", Who.IT_ADMIN, certain=certain)
    assert bool(account_status.cause(verdict)) is counts


# --- The directory --------------------------------------------------------------------------------


def reads_people(sandbox: Control) -> Tenant:
    """Contoso with an application that may read people."""
    app = factories.make_app_registration(
        name="Robots",
        client_id=factories.ROBOTS_CLIENT_ID,
        secret=factories.ROBOTS_CLIENT_SECRET,
        allows_delegated=False,
    )
    sandbox.set_app(factories.ROBOTS_CLIENT_ID, application=["Mail.Read", "User.Read.All"])
    sandbox.grant_consent(factories.ROBOTS_CLIENT_ID, roles=["Mail.Read", "User.Read.All"])
    return app.tenant


def test_the_directory_tells_who_is_disabled_deleted_and_back(sandbox: Control, bob: User, dave: User) -> None:
    tenant = reads_people(sandbox)
    of_the_directory(bob)
    of_the_directory(dave, GRACE)
    assert directory_sync.sync(tenant, now=NOW)
    assert (again(bob).left_at, again(dave).left_at) == (None, None)

    sandbox.set_person(factories.ADA, disabled=True)
    sandbox.set_person(GRACE, deleted=True)
    assert directory_sync.sync(tenant, now=NOW)
    assert again(bob).left_cause == "The account is disabled in the directory."
    assert again(dave).left_cause == "The account was deleted from the directory."

    sandbox.set_person(factories.ADA, disabled=False)
    directory_sync.sync(tenant, now=NOW)
    assert again(bob).left_at is None
    assert again(dave).left_at == NOW


def test_many_people_are_read_a_few_at_a_time(sandbox: Control) -> None:
    tenant = reads_people(sandbox)
    for number in range(20):
        upn = f"person{number}@contoso.example"
        made = sandbox.add_person(upn, f"Person {number}")
        user = factories.make_person(f"person{number}")
        UserSocialAuth.objects.create(user=user, provider="microsoft", uid=f"{factories.DIRECTORY_ID}.{made['id']}")
    sandbox.set_person("person17@contoso.example", disabled=True)
    assert directory_sync.sync(tenant, now=NOW)
    assert list(User.objects.filter(left_at__isnull=False).values_list("username", flat=True)) == ["person17"]


def test_without_the_permission_nothing_is_read_and_nobody_marked(sandbox: Control, bob: User) -> None:
    tenant = factories.make_app_registration(
        client_id=factories.ROBOTS_CLIENT_ID, secret=factories.ROBOTS_CLIENT_SECRET, allows_delegated=False
    ).tenant
    sandbox.set_app(factories.ROBOTS_CLIENT_ID, application=["Mail.Read"])
    sandbox.withdraw_consent(factories.ROBOTS_CLIENT_ID)
    sandbox.grant_consent(factories.ROBOTS_CLIENT_ID, roles=["Mail.Read"])
    of_the_directory(bob)
    sandbox.set_person(factories.ADA, disabled=True)
    assert directory_sync.sync(tenant, now=NOW) is False
    assert again(bob).left_at is None


@pytest.mark.parametrize("weather", ["throttle", "unavailable", "error", "broken_json"])
def test_a_bad_day_at_microsoft_marks_nobody_and_is_tried_again_soon(sandbox: Control, bob: User, weather: str) -> None:
    tenant = reads_people(sandbox)
    of_the_directory(bob)
    sandbox.weather(weather, "graph")
    assert directory_sync.sync_due(now=NOW) == 0
    assert again(bob).left_at is None
    tenant.refresh_from_db()
    assert tenant.people_read_after == NOW + directory_sync.AGAIN


def test_a_directory_is_looked_into_once_a_day(sandbox: Control, bob: User) -> None:
    reads_people(sandbox)
    of_the_directory(bob)
    assert [directory_sync.sync_due(now=NOW) for _ in range(2)] == [1, 0]
    assert directory_sync.sync_due(now=NOW + timedelta(hours=30)) == 1


def test_people_of_another_directory_and_disabled_ones_are_not_asked_about(sandbox: Control, bob: User) -> None:
    tenant = reads_people(sandbox)
    of_the_directory(bob, tid=seed.FABRIKAM)
    eve = of_the_directory(factories.make_person("eve", is_active=False), GRACE)
    sandbox.set_person(GRACE, deleted=True)
    directory_sync.sync(tenant, now=NOW)
    assert (again(bob).left_at, again(eve).left_at) == (None, None)
