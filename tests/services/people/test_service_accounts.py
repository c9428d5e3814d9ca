"""Service accounts never sign in, are managed by IT admins, and can use what is shared with them."""

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
from connections.models import ApiKey, AuditEvent, Connection, Share, User
from connections.services.api_keys import api_keys
from connections.services.people import service_accounts
from connections.services.sharing import shares
from tests import factories
from tests.asgi_client import PortalClient

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


def test_a_service_account_cannot_sign_in(alice: User, client: Client) -> None:
    account = create(alice)
    assert not account.has_usable_password()
    for password in ("", "!", account.password):
        assert ModelBackend().authenticate(None, username=account.username, password=password) is None
        client.post("/sign-in/", {"username": account.username, "password": password})
        assert "_auth_user_id" not in client.session
    account.set_password("correct horse battery staple")
    for change in ({"password": account.password}, {"is_superuser": True}, {"is_staff": True}):
        with pytest.raises(IntegrityError), transaction.atomic():
            User.objects.filter(pk=account.pk).update(**change)


def test_only_it_admins_manage_service_accounts(alice: User, bob: User, carol: User) -> None:
    account = create(alice, responsible=bob)
    values: dict[str, Any] = {"purpose": "", "responsible": bob, "admin": True, "auditor": False, "now": NOW}
    acts: list[Callable[[User], object]] = [
        lambda actor: create(actor, name="Mine"),
        lambda actor: service_accounts.change(account, actor=actor, **values),
        lambda actor: service_accounts.disable(account, actor=actor, now=NOW),
        lambda actor: service_accounts.remove(account, actor=actor, now=NOW),
        lambda actor: key_of(account, actor),
    ]
    for actor in (bob, carol):
        for act in acts:
            with pytest.raises(NotAllowed):
                act(actor)
    with pytest.raises(NotAllowed):
        key_of(alice, create(alice, name="Other", admin=True))


def test_a_second_service_account_of_the_same_name_is_refused(alice: User) -> None:
    create(alice)
    for name in ("Invoice robots", "invoice  ROBOTS!"):
        with pytest.raises(AlreadyExists):
            create(alice, name=name)


def test_the_responsible_person_must_be_able_to_sign_in(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    bob.refresh_from_db()
    for responsible in (bob, create(alice)):
        with pytest.raises(InvalidInput):
            create(alice, name="Other", responsible=responsible)


def test_it_gets_tokens_of_shared_connections_until_it_is_disabled(
    alice: User, bob: User, connection: Connection
) -> None:
    account = create(alice)
    _, text = key_of(account, alice)
    path = f"/api/v1/connections/{connection.pk}/token"
    assert robot(text).get(path).status_code == 404
    shares.share(connection, person=account, level="use", until=None, actor=bob, now=NOW)
    assert robot(text).get(path).status_code == 200
    for _ in range(2):
        service_accounts.disable(account, actor=alice, now=NOW)
    assert robot(text).get(path).status_code == 401
    service_accounts.enable(account, actor=alice, now=NOW)
    assert robot(text).get(path).status_code == 200
    assert AuditEvent.objects.filter(action="service_account.disabled").count() == 1


def test_its_roles_limit_the_scopes_of_its_keys(alice: User) -> None:
    account = create(alice)
    with pytest.raises(InvalidInput):
        key_of(account, alice, scopes=["admin:read"])
    service_accounts.change(
        account, purpose="Portal", responsible=alice, admin=True, auditor=True, actor=alice, now=NOW
    )
    account = User.objects.get(pk=account.pk)
    assert key_of(account, alice, scopes=["admin:read", "audit:read"])[0].scopes == ["admin:read", "audit:read"]
    assert account not in querysets.it_admins()
    assert AuditEvent.objects.get(action="account.roles_changed").target_id == str(account.pk)


def test_it_can_be_shared_with_but_is_not_a_person(alice: User, bob: User, signed_in: Callable[..., Client]) -> None:
    account = create(alice)
    connection = factories.make_connection(owner=bob)
    sharing = signed_in(bob)
    assert "Invoice robots (service account)" in sharing.get("/suggestions/recipients/?q=invoice").content.decode()
    sharing.post(
        f"/connections/{connection.pk}/shares/add/", {"whom": "Invoice robots", "level": "use", "understood": "on"}
    )
    assert connection.shares.get().person == account
    assert account not in querysets.people()
    assert account not in querysets.possible_owners()
    assert signed_in(alice).get(f"/people/{account.pk}/").status_code == 404
    assert "Invoice robots" not in signed_in(alice).get("/people/").content.decode()


def test_removing_it_deletes_its_keys_and_shares_and_keeps_the_audit_events(
    alice: User, bob: User, connection: Connection
) -> None:
    account = create(alice)
    key, text = key_of(account, alice)
    Share.objects.create(connection=connection, person=account, created_by=bob)
    robot(text).get(f"/api/v1/connections/{connection.pk}/token")
    pk = account.pk
    service_accounts.remove(account, actor=alice, now=NOW)
    with pytest.raises(InvalidApiKey):
        api_keys.authenticate(text, address=None, now=NOW)
    assert not ApiKey.objects.filter(pk=key.pk).exists()
    assert connection.fetches.get().key_name == "Robot"
    assert AuditEvent.objects.filter(target_type="User", target_id=str(pk)).exists()


def test_neither_an_owner_nor_a_person_is_removed_or_disabled_here(alice: User, bob: User) -> None:
    account = create(alice)
    factories.make_connection(owner=account)
    with pytest.raises(InUse):
        service_accounts.remove(account, actor=alice, now=NOW)
    with pytest.raises(NotAllowed):
        service_accounts.remove(bob, actor=alice, now=NOW)
    service_accounts.disable(bob, actor=alice, now=NOW)
    bob.refresh_from_db()
    assert bob.is_active


def test_responsible_people_revoke_keys(alice: User, bob: User, dave: User, signed_in: Callable[..., Client]) -> None:
    account = create(alice, responsible=bob)
    key, _ = key_of(account, alice)
    assert signed_in(bob).get(f"/service-accounts/{account.pk}/").status_code == 200
    assert signed_in(dave).get(f"/service-accounts/{account.pk}/").status_code == 404
    assert signed_in(bob).get(f"/api-keys/{key.pk}/rotate/").status_code == 403
    assert signed_in(bob).post(f"/api-keys/{key.pk}/revoke/").status_code == 302
    assert ApiKey.objects.get().revoked_at is not None


def test_its_page_lists_connections_not_tokens(alice: User, bob: User, signed_in: Callable[..., Client]) -> None:
    account = create(alice)
    for name in ("Invoices", "Orders"):
        Share.objects.create(connection=factories.make_connection(owner=bob, name=name), person=account, created_by=bob)
    factories.make_connection(owner=account, name="Own")
    with CaptureQueriesContext(database) as queries:
        page = signed_in(alice).get(f"/service-accounts/{account.pk}/").content.decode()
    assert all(name in page for name in ("Invoices", "Orders", "Own"))
    assert not [query for query in queries.captured_queries if "access_token" in query["sql"]]


def test_the_list_is_cheap(alice: User, signed_in: Callable[..., Client], django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        key_of(create(alice, name=f"Robot {number}"), alice)
    client = signed_in(alice)
    client.get("/service-accounts/")
    with django_assert_max_num_queries(9):
        page = client.get("/service-accounts/").content.decode()
    assert page.count("Robot ") >= 20
