"""What Microsoft says of an account makes all its connections due, once."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.models import Connection, Incident, Tenant, User
from connections.services.people import directory_sync, microsoft_accounts
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories
from tests.services.people.test_offboarding import link_to_directory, tenant_with_roles

pytestmark = pytest.mark.django_db

NOW = timezone.now() + timedelta(minutes=30)
EARLIER = NOW - timedelta(minutes=10)
GRACE = "grace@contoso.example"


def connected(sandbox: Control, name: str, upn: str = factories.ADA, **overrides: Any) -> Connection:
    """Return an active connection that got its token ten minutes ago and is due in forty."""
    grant = sandbox.issue_grant(factories.CLIENT_ID, upn, ["Mail.Read", "offline_access"])
    values = {"connected_at": EARLIER, "refresh_token": grant["refresh_tokens"][0]}
    return factories.make_connection(name=name, **(values | overrides))


def make_due(connection: Connection, at: Any = NOW) -> None:
    Connection.objects.filter(pk=connection.pk).update(refresh_after=at)


def due(at: Any = NOW) -> set[str]:
    kept_alive = Connection.objects.filter(status__in=Connection.KEPT_ALIVE)
    return set(kept_alive.filter(refresh_after__lte=at).values_list("name", flat=True))


@pytest.mark.parametrize("change", ["revoked", "disabled", "deleted", "password_expired"])
def test_all_connections_of_the_account_are_asked_about_at_once(sandbox: Control, change: str) -> None:
    first, *_ = (connected(sandbox, f"Ada {number}") for number in range(4))
    grace = connected(sandbox, "Grace", GRACE, account_oid="0" * 8, account_username=GRACE)
    make_due(first)
    if change == "revoked":
        sandbox.revoke_sessions(factories.ADA)
    else:
        sandbox.set_person(factories.ADA, **{change: True})

    assert scheduler.sweep(now=NOW, limit=1).flagged == 4
    assert not Connection.objects.filter(account_oid=factories.ADA_ID, status="active").exists()
    assert Connection.objects.get(pk=grace.pk).status == "active"
    assert Incident.objects.filter(closed_at=None).count() == 1


@pytest.mark.parametrize("change", ["ca_blocked", "mfa_required"])
def test_what_is_not_true_of_the_account_leaves_its_other_connections_alone(sandbox: Control, change: str) -> None:
    first, _ = connected(sandbox, "One"), connected(sandbox, "Two")
    make_due(first)
    sandbox.set_person(factories.ADA, **{change: True})
    scheduler.sweep(now=NOW)
    assert "Two" not in due()


def test_other_directories_and_environments_are_left_alone(sandbox: Control) -> None:
    here = connected(sandbox, "Here").app_registration
    other = factories.make_app_registration(
        name="China", client_id="0" * 36, tenant=factories.make_tenant(name="China", environment="china")
    )
    connected(sandbox, "Other environment", app_registration=other)
    connected(sandbox, "Other directory", app_registration=here, account_tid="1" * 36)
    first = connected(sandbox, "First", app_registration=here)
    assert microsoft_accounts.check_siblings(first.pk, now=NOW) == 1
    assert due() == {"Here"}


def test_checks_do_not_cause_each_other_again_and_again(sandbox: Control) -> None:
    old = [connected(sandbox, f"Old {number}") for number in range(3)]
    make_due(old[0])
    sandbox.revoke_sessions(factories.ADA)
    for name in ("New 1", "New 2"):
        connected(sandbox, name)  # signed in again after that, so Microsoft accepts them
    sandbox.clear_calls()

    scheduler.sweep(now=NOW, limit=1)  # one at a time, as if many workers shared the work
    assert set(Connection.objects.filter(status="active").values_list("name", flat=True)) == {"New 1", "New 2"}
    assert sandbox.calls(limit=0)["by_endpoint"]["token"] == 5
    assert due() == set()


def test_a_later_verdict_is_news_again(sandbox: Control) -> None:
    first, second = connected(sandbox, "First"), connected(sandbox, "Second")
    flagged = {"status": "blocked", "status_code": "AADSTS50057", "status_since": NOW - timedelta(hours=3)}
    Connection.objects.filter(pk=second.pk).update(**flagged)
    third = connected(sandbox, "Third")
    assert microsoft_accounts.check_siblings(first.pk, now=NOW) == 1
    assert due() >= {"Third"}
    Connection.objects.filter(pk=second.pk).update(status_since=NOW)
    make_due(third, NOW + timedelta(minutes=40))
    assert microsoft_accounts.check_siblings(first.pk, now=NOW) == 0


def test_a_refusal_that_is_repeated_makes_nothing_due(sandbox: Control) -> None:
    first = connected(sandbox, "First")
    make_due(first)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    connected(sandbox, "Second")
    scheduler.check_now(first, actor=first.owner, now=NOW + timedelta(minutes=1))
    assert "Second" not in due(NOW + timedelta(minutes=2))


def test_many_connections_of_an_account_are_spread_over_a_minute(sandbox: Control) -> None:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])["refresh_tokens"][
        0
    ]
    for number in range(60):
        factories.make_connection(name=f"Inbox {number}", connected_at=EARLIER, refresh_token=grant)
    first = Connection.objects.order_by("pk")[0]
    assert microsoft_accounts.check_siblings(first.pk, now=NOW) == 59
    assert len(due()) < 20
    assert len(due(NOW + timedelta(minutes=1))) == 59


def test_the_directory_knows_it_first(sandbox: Control, bob: User) -> None:
    tenant: Tenant = tenant_with_roles(sandbox, "Mail.Read", "User.Read.All")
    link_to_directory(bob)
    connected(sandbox, "Invoices")
    directory_sync.sync(tenant, now=NOW)
    assert due() == set()
    sandbox.set_person(factories.ADA, disabled=True)
    directory_sync.sync(tenant, now=NOW)
    assert due() == {"Invoices"}


def test_a_revocation_during_a_sign_in_elsewhere_keeps_the_fresh_grant(sandbox: Control) -> None:
    first, second = connected(sandbox, "First"), connected(sandbox, "Second")
    Connection.objects.filter(pk=second.pk).update(refreshed_at=NOW)
    microsoft_accounts.check_siblings(first.pk, now=NOW)
    assert due() == set(), "Microsoft has accepted the account for it just now"
