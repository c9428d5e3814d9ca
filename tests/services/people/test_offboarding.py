"""The portal learns who has left from Microsoft's responses about their own account and from the directory."""

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

NOW = timezone.now()
GRACE = "grace@contoso.example"


@pytest.fixture(autouse=True)
def signs_in_at_the_sandbox(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "environment": "sandbox"}


def link_to_directory(user: User, upn: str = factories.ADA, tid: str = factories.DIRECTORY_ID) -> User:
    """Link ``user`` to the directory account ``upn``, as if they had signed in with it."""
    UserSocialAuth.objects.create(user=user, provider="microsoft", uid=f"{tid}.{seed.fixed_id(upn)}")
    return user


def reload(user: User) -> User:
    return User.objects.get(pk=user.pk)


def delegated_connection(sandbox: Control, owner: User) -> Connection:
    """Create a connection of ``owner`` to Ada's account that is due for a refresh."""
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    return factories.make_connection(owner=owner, refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)


def open_incidents() -> list[Incident]:
    return list(Incident.objects.filter(kind="leaver", closed_at=None))


def test_a_departed_owner_is_one_incident_for_the_it_admins(alice: User, bob: User) -> None:
    factories.make_connection(owner=bob)
    factories.make_connection(owner=bob, name="Second")
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Another reason.", now=NOW + timedelta(days=1))
    (incident,) = open_incidents()
    assert incident.title == "Bob Member left and owns connections"
    assert (incident.who, incident.person) == ("it_admin", bob)
    assert incident.affected.filter(healed_at=None).count() == 2
    assert list(Delivery.objects.values_list("email", flat=True)) == [alice.email]
    left = reload(bob)
    assert (left.left_at, left.left_how, left.left_cause) == (NOW, "directory", "The account was deleted.")
    assert AuditEvent.objects.filter(action="account.left").count() == 1


def test_the_incident_is_resolved_with_the_last_connection(alice: User, bob: User, dave: User) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Second")
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    ownership_transfer.transfer(first, dave, keep_grant=True, actor=alice, now=NOW)
    assert len(open_incidents()) == 1
    connections.remove(second, actor=alice, now=NOW)
    assert open_incidents() == []
    assert reload(bob).left_at == NOW


def test_disabling_a_connection_does_not_resolve_the_incident(alice: User, bob: User, connection: Connection) -> None:
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    connections.disable(connection, actor=alice, now=NOW)
    assert len(open_incidents()) == 1


def test_a_person_who_signs_in_again_has_not_left(bob: User) -> None:
    factories.make_connection(owner=bob)
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Gone.", now=NOW)
    for _ in range(2):
        accounts.signed_in(reload(bob), actor=bob, method="microsoft")
        bob = reload(bob)
        assert (bob.left_at, bob.left_how, bob.left_cause) == (None, "", "")
    assert open_incidents() == []
    assert AuditEvent.objects.filter(action="account.back").count() == 1


def test_a_departed_person_without_connections_is_no_incident(bob: User) -> None:
    offboarding.mark_departed(bob, how=User.Left.REFUSED, cause="Gone.", now=NOW)
    assert open_incidents() == []


def test_the_periodic_check_opens_missing_incidents(bob: User) -> None:
    factories.make_connection(owner=bob)
    User.objects.filter(pk=bob.pk).update(left_at=NOW, left_how="disabled", left_cause="Long ago.", is_active=False)
    for _ in range(2):
        directory_sync.sync_due(now=NOW)
    assert len(open_incidents()) == 1


@pytest.mark.parametrize("change", ["disabled", "deleted"])
def test_a_refresh_shows_that_the_owners_own_account_is_gone(sandbox: Control, bob: User, change: str) -> None:
    link_to_directory(bob)
    delegated_connection(sandbox, bob)
    sandbox.set_person(factories.ADA, **{change: True})
    scheduler.sweep(now=NOW)
    left = reload(bob)
    assert left.left_how == "refused"
    assert "AADSTS500" in left.left_cause
    assert [incident.person for incident in open_incidents()] == [bob]


def test_an_account_of_somebody_else_that_is_gone_proves_nothing_about_the_owner(sandbox: Control, bob: User) -> None:
    link_to_directory(bob, GRACE)
    delegated_connection(sandbox, bob)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    assert Connection.objects.get().status == "blocked"
    assert reload(bob).left_at is None


def test_a_refresh_of_a_colleagues_connection_shows_that_the_account_is_gone(sandbox: Control, bob: User) -> None:
    leo = link_to_directory(factories.make_person("leo"))
    delegated_connection(sandbox, bob)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    assert reload(leo).left_at is not None
    assert reload(bob).left_at is None


@pytest.mark.parametrize(
    ("code", "certain", "is_gone"),
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
def test_only_certain_answers_about_the_account_prove_that_it_is_gone(code: str, certain: bool, is_gone: bool) -> None:
    verdict = Verdict(Kind.POLICY, code, "", "", Who.IT_ADMIN, certain=certain)
    assert bool(account_status.cause(verdict)) is is_gone


def tenant_with_roles(sandbox: Control, *roles: str) -> Tenant:
    """Return Contoso with an app that has these roles. With User.Read.All it can read people."""
    app = factories.make_app_registration(
        client_id=factories.ROBOTS_CLIENT_ID, secret=factories.ROBOTS_CLIENT_SECRET, allows_delegated=False
    )
    sandbox.set_app(factories.ROBOTS_CLIENT_ID, application=list(roles))
    sandbox.withdraw_consent(factories.ROBOTS_CLIENT_ID)
    sandbox.grant_consent(factories.ROBOTS_CLIENT_ID, roles=list(roles))
    return app.tenant


def test_the_directory_shows_who_is_disabled_deleted_and_back(sandbox: Control, bob: User, dave: User) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    link_to_directory(bob)
    link_to_directory(dave, GRACE)
    assert directory_sync.sync(tenant, now=NOW)
    assert (reload(bob).left_at, reload(dave).left_at) == (None, None)

    sandbox.set_person(factories.ADA, disabled=True)
    sandbox.set_person(GRACE, deleted=True)
    assert directory_sync.sync(tenant, now=NOW)
    assert reload(bob).left_cause == "The account is disabled in the directory."
    assert reload(dave).left_cause == "The account was deleted from the directory."

    sandbox.set_person(factories.ADA, disabled=False)
    directory_sync.sync(tenant, now=NOW)
    assert reload(bob).left_at is None
    assert reload(dave).left_at == NOW


def test_many_people_are_read_in_batches(sandbox: Control) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    for number in range(20):
        upn = f"person{number}@contoso.example"
        oid = sandbox.add_person(upn, f"Person {number}")["id"]
        user = factories.make_person(f"person{number}")
        UserSocialAuth.objects.create(user=user, provider="microsoft", uid=f"{factories.DIRECTORY_ID}.{oid}")
    sandbox.set_person("person17@contoso.example", disabled=True)
    assert directory_sync.sync(tenant, now=NOW)
    assert list(User.objects.filter(left_at__isnull=False).values_list("username", flat=True)) == ["person17"]


def test_without_the_permission_nobody_is_marked(sandbox: Control, bob: User) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read")
    link_to_directory(bob)
    sandbox.set_person(factories.ADA, disabled=True)
    assert directory_sync.sync(tenant, now=NOW) is False
    assert reload(bob).left_at is None


@pytest.mark.parametrize("weather", ["throttle", "unavailable", "error", "broken_json"])
def test_an_outage_marks_nobody_and_is_retried_soon(sandbox: Control, bob: User, weather: str) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    link_to_directory(bob)
    sandbox.weather(weather, "graph")
    assert directory_sync.sync_due(now=NOW) == 0
    assert reload(bob).left_at is None
    tenant.refresh_from_db()
    assert tenant.people_read_after == NOW + directory_sync.AGAIN


def test_a_directory_is_read_once_a_day(sandbox: Control, bob: User) -> None:
    tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    link_to_directory(bob)
    assert [directory_sync.sync_due(now=NOW) for _ in range(2)] == [1, 0]
    assert directory_sync.sync_due(now=NOW + timedelta(hours=30)) == 1


def test_people_of_another_directory_and_disabled_people_are_not_looked_up(sandbox: Control, bob: User) -> None:
    tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    link_to_directory(bob, tid=seed.FABRIKAM)
    eve = link_to_directory(factories.make_person("eve", is_active=False), GRACE)
    sandbox.set_person(GRACE, deleted=True)
    directory_sync.sync(tenant, now=NOW)
    assert (reload(bob).left_at, reload(eve).left_at) == (None, None)
