"""Service accounts: never signed in as, managed by IT admins, and worth what is shared with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.backends import ModelBackend
from django.db import IntegrityError, transaction
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.access import querysets
from connections.errors import AlreadyExists, InUse, InvalidApiKey, InvalidInput, NotAllowed
from connections.models import ApiKey, AuditEvent, Share, User
from connections.services.api_keys import api_keys
from connections.services.people import service_accounts
from connections.services.sharing import shares
from tests import factories
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def create(actor: User, **overrides: Any) -> User:
    values: dict[str, Any] = {"name": "Invoice robots", "purpose": "Reads mail.", "admin": False, "auditor": False}
    values |= {"responsible": actor, "actor": actor, "now": NOW}
    return service_accounts.create(**(values | overrides))


def key_of(account: User, actor: User, **overrides: Any) -> tuple[ApiKey, str]:
    values: dict[str, Any] = {"name": "Robot", "scopes": ["token:read"], "expires_at": NOW + timedelta(days=9)}
    return api_keys.issue(account, actor=actor, now=NOW, **(values | overrides))


def robot(text: str) -> Client:
    return PortalClient(headers={"Authorization": f"Bearer {text}"})


def test_it_cannot_sign_in_whatever_is_tried(alice: User, client: Client) -> None:
    made = create(alice)
    assert not made.has_usable_password()
    for password in ("", "!", made.password):
        assert ModelBackend().authenticate(None, username=made.username, password=password) is None
        client.post("/sign-in/", {"username": made.username, "password": password})
        assert "_auth_user_id" not in client.session
    made.set_password("correct horse battery staple")
    for change in ({"password": made.password}, {"is_superuser": True}, {"is_staff": True}):
        with pytest.raises(IntegrityError), transaction.atomic():
            User.objects.filter(pk=made.pk).update(**change)


def test_only_it_admins_make_change_and_remove_them(alice: User, bob: User, carol: User) -> None:
    made = create(alice, responsible=bob)
    for actor in (bob, carol):
        with pytest.raises(NotAllowed):
            create(actor, name="Mine")
        with pytest.raises(NotAllowed):
            service_accounts.change(made, purpose="", responsible=bob, admin=True, auditor=False, actor=actor, now=NOW)
        with pytest.raises(NotAllowed):
            service_accounts.disable(made, actor=actor, now=NOW)
        with pytest.raises(NotAllowed):
            service_accounts.remove(made, actor=actor, now=NOW)
        with pytest.raises(NotAllowed):
            key_of(made, actor)


def test_a_service_account_makes_no_keys_for_itself_even_as_an_it_admin_of_another(alice: User) -> None:
    """Its key acts for it; making keys for service accounts takes an IT admin, which it may be, but never for people."""
    made = create(alice, admin=True)
    with pytest.raises(NotAllowed):
        key_of(alice, made)


def test_two_of_one_name_are_refused(alice: User) -> None:
    create(alice)
    for name in ("Invoice robots", "invoice  ROBOTS!"):
        with pytest.raises(AlreadyExists):
            create(alice, name=name)


def test_somebody_must_be_responsible(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    bob.refresh_from_db()
    for responsible in (bob, create(alice)):
        with pytest.raises(InvalidInput):
            create(alice, name="Other", responsible=responsible)


def test_it_fetches_tokens_of_what_is_shared_with_it_until_it_is_disabled(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    made = create(alice)
    _, text = key_of(made, alice)
    path = f"/api/v1/connections/{connection.pk}/token"
    assert robot(text).get(path).status_code == 404
    shares.share(connection, person=made, level="use", until=None, actor=bob, now=NOW)
    assert robot(text).get(path).status_code == 200
    for _ in range(2):
        service_accounts.disable(made, actor=alice, now=NOW)
    assert robot(text).get(path).status_code == 401
    service_accounts.enable(made, actor=alice, now=NOW)
    assert robot(text).get(path).status_code == 200
    assert AuditEvent.objects.filter(action="service_account.disabled").count() == 1


def test_its_roles_are_given_on_purpose_and_bound_its_scopes(alice: User) -> None:
    made = create(alice)
    with pytest.raises(InvalidInput):
        key_of(made, alice, scopes=["admin:read"])
    service_accounts.change(made, purpose="Portal", responsible=alice, admin=True, auditor=True, actor=alice, now=NOW)
    made = User.objects.get(pk=made.pk)
    assert key_of(made, alice, scopes=["admin:read", "audit:read"])[0].scopes == ["admin:read", "audit:read"]
    assert made not in querysets.it_admins()
    assert AuditEvent.objects.get(action="account.roles_changed").target_id == str(made.pk)


def test_it_is_offered_for_sharing_but_is_no_person(alice: User, bob: User, signed_in: Callable[..., Client]) -> None:
    made = create(alice)
    connection = factories.make_connection(owner=bob)
    page = signed_in(bob).get(f"/connections/{connection.pk}/shares/add/").content.decode()
    assert "Invoice robots (service account)" in page
    assert made not in querysets.people()
    assert made not in querysets.possible_owners()
    assert signed_in(alice).get(f"/people/{made.pk}/").status_code == 404
    assert "Invoice robots" not in signed_in(alice).get("/people/").content.decode()


def test_removing_it_ends_its_keys_and_shares_and_keeps_the_trail(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    made = create(alice)
    key, text = key_of(made, alice)
    Share.objects.create(connection=connection, person=made, created_by=bob)
    robot(text).get(f"/api/v1/connections/{connection.pk}/token")
    pk = made.pk
    service_accounts.remove(made, actor=alice, now=NOW)
    with pytest.raises(InvalidApiKey):
        api_keys.authenticate(text, address=None, now=NOW)
    assert not ApiKey.objects.filter(pk=key.pk).exists()
    assert connection.fetches.get().key_name == "Robot"
    assert AuditEvent.objects.filter(target_type="User", target_id=str(pk)).exists()


def test_it_is_not_removed_while_it_owns_connections(alice: User) -> None:
    made = create(alice)
    factories.make_connection(owner=made)
    with pytest.raises(InUse):
        service_accounts.remove(made, actor=alice, now=NOW)


def test_a_person_is_not_removed_by_that_road(alice: User, bob: User) -> None:
    with pytest.raises(NotAllowed):
        service_accounts.remove(bob, actor=alice, now=NOW)
    service_accounts.disable(bob, actor=alice, now=NOW)
    bob.refresh_from_db()
    assert bob.is_active


def test_the_responsible_person_sees_it_and_may_stop_its_keys(
    alice: User, bob: User, dave: User, signed_in: Callable[..., Client]
) -> None:
    made = create(alice, responsible=bob)
    key, _ = key_of(made, alice)
    assert signed_in(bob).get(f"/service-accounts/{made.pk}/").status_code == 200
    assert signed_in(dave).get(f"/service-accounts/{made.pk}/").status_code == 404
    assert signed_in(bob).get(f"/api-keys/{key.pk}/rotate/").status_code == 403
    assert signed_in(bob).post(f"/api-keys/{key.pk}/revoke/").status_code == 302
    assert ApiKey.objects.get().revoked_at is not None


def test_its_page_lists_what_it_may_use_without_reading_a_token(
    alice: User, bob: User, signed_in: Callable[..., Client]
) -> None:
    made = create(alice)
    for name in ("Invoices", "Orders"):
        Share.objects.create(connection=factories.make_connection(owner=bob, name=name), person=made, created_by=bob)
    factories.make_connection(owner=made, name="Own")
    with CaptureQueriesContext(database) as queries:
        page = signed_in(alice).get(f"/service-accounts/{made.pk}/").content.decode()
    assert all(name in page for name in ("Invoices", "Orders", "Own"))
    assert not [query for query in queries.captured_queries if "access_token" in query["sql"]]


def test_the_list_costs_the_same_however_long_it_is(
    alice: User, signed_in: Callable[..., Client], django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        account = create(alice, name=f"Robot {number}")
        key_of(account, alice)
    client = signed_in(alice)
    client.get("/service-accounts/")
    with django_assert_max_num_queries(9):
        page = client.get("/service-accounts/").content.decode()
    assert page.count("Robot ") >= 20
