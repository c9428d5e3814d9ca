"""A reference leads automations to a connection; nobody gets a token by it that they could not get without it."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone

from connections.errors import AlreadyExists, InvalidInput
from connections.models import Connection, ConnectionReference, Share, TokenFetch, User
from connections.services.connections import connections
from connections.services.people import ownership_transfer
from connections.services.sharing import references
from tests import factories
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db


def connection_of(owner: User, name: str) -> Connection:
    return factories.make_connection(owner=owner, name=name, access_token=f"token of {name}")


def fetch(owner: User, ref: str, **key: Any) -> Any:
    _, text = factories.make_key(owner, name=f"Key {ConnectionReference.objects.count()} {timezone.now()}", **key)
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    return client.get(f"/api/v1/connections/{quote(ref)}/token")


def test_a_token_by_reference_is_recorded_with_it(bob: User) -> None:
    connection = connection_of(bob, "Mail")
    references.create("invoices", connection, actor=bob, now=timezone.now())
    for ref in ("invoices", "invoices", "Mail", str(connection.pk)):
        assert fetch(bob, ref).json()["access_token"] == "token of Mail"
    assert sorted(TokenFetch.objects.values_list("reference", flat=True)) == ["", "", "invoices", "invoices"]


def test_repointing_takes_effect_at_once_and_widens_nothing(bob: User, dave: User) -> None:
    shared, private = connection_of(bob, "Shared"), connection_of(bob, "Private")
    Share.objects.create(connection=shared, person=dave, created_by=bob)
    reference = references.create("invoices", shared, actor=bob, now=timezone.now())
    assert fetch(dave, "invoices").json()["access_token"] == "token of Shared"
    references.point(reference, private, actor=bob, now=timezone.now())
    assert fetch(bob, "invoices").json()["access_token"] == "token of Private"
    assert fetch(dave, "invoices").status_code == 404


def test_a_stranger_who_knows_the_name_gets_nothing(bob: User, dave: User, alice: User, carol: User) -> None:
    references.create("invoices", connection_of(bob, "Mail"), actor=bob, now=timezone.now())
    assert fetch(dave, "invoices").status_code == 404
    assert fetch(alice, "invoices").status_code == 403, "an IT admin sees it, but gets no token"
    assert fetch(carol, "invoices").status_code == 403


def test_a_limited_key_does_not_follow_a_reference_out_of_its_connections(bob: User) -> None:
    chosen, other = connection_of(bob, "Chosen"), connection_of(bob, "Other")
    reference = references.create("invoices", chosen, actor=bob, now=timezone.now())
    key, text = factories.make_key(bob, name="Limited")
    type(key).objects.filter(pk=key.pk).update(only_chosen=True)
    key.connections.set([chosen])
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    assert client.get("/api/v1/connections/invoices/token").json()["access_token"] == "token of Chosen"
    references.point(reference, other, actor=bob, now=timezone.now())
    assert client.get("/api/v1/connections/invoices/token").status_code == 404


def test_a_reference_named_like_a_connection_is_refused_as_ambiguous_not_followed(bob: User, eve: User) -> None:
    """Eve shares her mailbox with bob and names a reference to it like bob's connection, to get his robot's mail."""
    connection_of(bob, "payroll")
    trap = connection_of(eve, "Trap")
    Share.objects.create(connection=trap, person=bob, created_by=eve)
    references.create("payroll", trap, actor=eve, now=timezone.now())
    answer = fetch(bob, "payroll")
    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_name")


def test_an_invisible_reference_does_not_disturb_a_connection_of_the_same_name(bob: User, eve: User) -> None:
    connection_of(bob, "payroll")
    references.create("payroll", connection_of(eve, "Trap"), actor=eve, now=timezone.now())
    assert fetch(bob, "payroll").json()["access_token"] == "token of payroll"


def test_a_default_is_found_by_its_own_person_only(bob: User, eve: User) -> None:
    own, theirs = connection_of(bob, "Mine"), connection_of(eve, "Theirs")
    Share.objects.create(connection=theirs, person=bob, created_by=eve)
    references.set_default(theirs, "outlook", actor=eve, now=timezone.now())
    assert fetch(bob, "default:outlook").status_code == 404
    references.set_default(own, "outlook", actor=bob, now=timezone.now())
    assert fetch(bob, "default:outlook").json()["access_token"] == "token of Mine"
    assert TokenFetch.objects.get().reference == "default:outlook"


def test_the_name_of_a_removed_reference_cannot_be_taken_over(bob: User, eve: User) -> None:
    reference = references.create("invoices", connection_of(bob, "Mail"), actor=bob, now=timezone.now())
    references.remove(reference, actor=bob, now=timezone.now())
    trap = connection_of(eve, "Trap")
    Share.objects.create(connection=trap, person=bob, created_by=eve)
    _, text = factories.make_key(eve, scopes=["connections:write", "connections:read"])
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    answer = client.post("/api/v1/references", {"name": "invoices", "connection_id": trap.pk}, "application/json")
    assert answer.status_code == 409
    assert fetch(bob, "invoices").status_code == 404


def test_changes_are_not_made_by_reference(bob: User) -> None:
    connection = connection_of(bob, "Mail")
    references.create("invoices", connection, actor=bob, now=timezone.now())
    _, text = factories.make_key(bob, scopes=["connections:write", "connections:read"])
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    assert client.get("/api/v1/connections/invoices").json()["id"] == connection.pk
    assert client.delete("/api/v1/connections/invoices").status_code == 404
    assert Connection.objects.filter(pk=connection.pk).exists()


def test_a_share_that_ends_takes_the_reference_away_too(bob: User, dave: User) -> None:
    connection = connection_of(bob, "Mail")
    share = Share.objects.create(connection=connection, person=dave, created_by=bob)
    references.create("invoices", connection, actor=dave, now=timezone.now())
    assert fetch(dave, "invoices").status_code == 200
    Share.objects.filter(pk=share.pk).update(until=timezone.now() - timedelta(seconds=1))
    assert fetch(dave, "invoices").status_code == 404


def test_the_name_of_a_removed_reference_cannot_be_taken_by_a_connection(bob: User, eve: User) -> None:
    """Bob's robot still calls by the old name, and Eve shares a connection of that name with him."""
    connection = connection_of(bob, "Mail")
    reference = references.create("invoices", connection, actor=bob, now=timezone.now())
    references.remove(reference, actor=bob, now=timezone.now())
    app = connection.app_registration
    options: dict[str, Any] = {"chosen": ["mail.read"], "actor": eve}
    with pytest.raises(AlreadyExists):
        connections.start_delegated(app, name="invoices", **options)
    trap = connection_of(eve, "Trap")
    with pytest.raises(AlreadyExists):
        connections.change(trap, name="invoices", extra_scopes=[], **options)
    with pytest.raises(AlreadyExists):
        ownership_transfer.transfer(trap, bob, keep_grant=True, actor=eve, new_name="invoices", now=timezone.now())
    assert fetch(bob, "invoices").status_code == 404
    connections.start_delegated(app, name="invoices", **(options | {"actor": bob}))


def test_a_connection_cannot_pass_for_somebodys_default(bob: User, eve: User) -> None:
    app, trap = factories.make_app_registration(), connection_of(eve, "Trap")
    with pytest.raises(InvalidInput):
        connections.start_delegated(app, name="default:outlook", chosen=["mail.read"], actor=eve)
    with pytest.raises(InvalidInput):
        connections.change(trap, name="default:outlook", chosen=["mail.read"], extra_scopes=[], actor=eve)
    Share.objects.create(connection=trap, person=bob, created_by=eve)
    assert fetch(bob, "default:outlook").status_code == 404
