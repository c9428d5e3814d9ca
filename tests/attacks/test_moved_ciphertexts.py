"""Somebody who may write to the database copies ciphertexts to where the portal would open them for him.

Each attack goes through the token API, as the attacker's program would: Bob owns the connection he fetches from.
"""

import uuid
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db import connection as database
from django.utils import timezone

from connections.models import AppCredential, AuditEvent, Connection, Delivery, Incident, User
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import Program, problem
from tests.stored_secrets import plant, stored

pytestmark = pytest.mark.django_db

ALTERED = (503, "stored_secret_altered")


@pytest.fixture
def bobs(bob: User) -> Connection:
    return factories.make_connection(name="Bob's", owner=bob)


@pytest.fixture
def daves(dave: User, bobs: Connection) -> Connection:
    app = bobs.app_registration
    secrets = {"access_token": "eyJ0.daves.access-token", "refresh_token": "1.ADavesRefreshToken"}
    return factories.make_connection(name="Dave's", owner=dave, app_registration=app, **secrets)


def fetch(person: User, connection: Connection) -> Any:
    return Program(person).get(f"connections/{connection.pk}/token")


def assert_refused(response: Any, connection: Connection, column: str = "access_token") -> None:
    """The call gets a problem, one incident names the place, and nobody is flagged."""
    assert problem(response) == ALTERED
    incident = Incident.objects.get(closed_at=None)
    assert (incident.kind, incident.who) == ("altered_secret", "it_admin")
    assert f"connections_connection.{column}, row {connection.pk}" in incident.cause
    assert AuditEvent.objects.filter(action="incident.opened").count() == 1
    assert not AuditEvent.objects.filter(action="connection.token_fetched").exists()
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}


def test_a_client_secret_in_ones_own_access_token_is_refused(bob: User, bobs: Connection) -> None:
    assert fetch(bob, bobs).status_code == 200
    secret = AppCredential.objects.defer("secret").get()
    plant(bobs, "access_token", stored(secret, "secret"))
    response = fetch(bob, bobs)
    assert factories.CLIENT_SECRET not in response.content.decode()
    assert problem(response) == ALTERED
    assert Incident.objects.get().kind == "altered_secret"


@pytest.mark.parametrize("column", ["access_token", "refresh_token"])
def test_another_persons_token_in_ones_own_access_token_is_refused(
    bob: User, bobs: Connection, daves: Connection, column: str
) -> None:
    plant(bobs, "access_token", stored(daves, column))
    response = fetch(bob, bobs)
    assert "aves" not in response.content.decode()
    assert_refused(response, bobs)


def test_ones_own_refresh_token_in_the_access_token_is_refused(bob: User, bobs: Connection) -> None:
    plant(bobs, "access_token", stored(bobs, "refresh_token"))
    assert_refused(fetch(bob, bobs), bobs)


def test_two_swapped_tokens_are_refused_both(bob: User, dave: User, bobs: Connection, daves: Connection) -> None:
    of_bob, of_dave = stored(bobs, "access_token"), stored(daves, "access_token")
    plant(bobs, "access_token", of_dave)
    plant(daves, "access_token", of_bob)
    assert problem(fetch(bob, bobs)) == ALTERED
    assert problem(fetch(dave, daves)) == ALTERED
    assert Incident.objects.filter(kind="altered_secret").count() == 2


def test_asking_again_opens_no_second_incident(bob: User, bobs: Connection, daves: Connection) -> None:
    plant(bobs, "access_token", stored(daves, "access_token"))
    for _ in range(3):
        assert_refused(fetch(bob, bobs), bobs)


def identity_of(connection: Connection) -> Any:
    with database.cursor() as cursor:
        cursor.execute("SELECT identity FROM connections_connection WHERE id = %s", [connection.pk])
        return cursor.fetchone()[0]


def set_identity(connection: Connection, identity: Any) -> None:
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_connection SET identity = %s WHERE id = %s", [identity, connection.pk])


@pytest.mark.parametrize("is_taken", [True, False])
def test_the_identity_of_a_row_cannot_be_changed(bobs: Connection, daves: Connection, is_taken: bool) -> None:
    identity = identity_of(daves)
    if not is_taken:
        daves.delete()
    with pytest.raises(DatabaseError), transaction.atomic():
        set_identity(bobs, identity)


def test_two_identities_cannot_be_swapped_in_one_statement(bobs: Connection, daves: Connection) -> None:
    one, other = identity_of(bobs), identity_of(daves)
    with pytest.raises(DatabaseError), transaction.atomic(), database.cursor() as cursor:
        cursor.execute(
            "UPDATE connections_connection SET identity = CASE id WHEN %s THEN %s ELSE %s END",
            [bobs.pk, str(other), str(one)] if database.vendor == "sqlite" else [bobs.pk, other, one],
        )


def test_a_new_row_cannot_take_the_identity_of_another(bobs: Connection, daves: Connection) -> None:
    columns = [field.column for field in Connection._meta.local_concrete_fields if field.column != "id"]
    selected = ["'A copy'" if column == "name" else f'"{column}"' for column in columns]
    listed = ", ".join(f'"{column}"' for column in columns)
    with pytest.raises(DatabaseError), transaction.atomic(), database.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO connections_connection ({listed}) SELECT {', '.join(selected)} "
            "FROM connections_connection WHERE id = %s",
            [daves.pk],
        )


def test_a_copied_row_with_an_identity_of_its_own_opens_nothing(bob: User, daves: Connection) -> None:
    columns = [field.column for field in Connection._meta.local_concrete_fields if field.column != "id"]
    own: dict[str | None, str] = {"name": "'A copy'", "owner_id": str(bob.pk), "identity": f"'{uuid.uuid4().hex}'"}
    selected = [own.get(column, f'"{column}"') for column in columns]
    listed = ", ".join(f'"{column}"' for column in columns)
    with database.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO connections_connection ({listed}) SELECT {', '.join(selected)} "
            "FROM connections_connection WHERE id = %s",
            [daves.pk],
        )
    copy = Connection.objects.get(name="A copy")
    assert_refused(fetch(bob, copy), copy)


def test_a_value_cut_or_changed_is_altered_and_not_a_missing_key(bob: User, bobs: Connection) -> None:
    plant(bobs, "access_token", stored(bobs, "access_token")[:-8] + "AAAAAAA=")
    assert_refused(fetch(bob, bobs), bobs)


def test_a_moved_refresh_token_is_not_sent_and_flags_nobody(
    sandbox: Control, bob: User, bobs: Connection, daves: Connection
) -> None:
    now = timezone.now()
    Connection.objects.filter(pk=bobs.pk).update(refresh_after=now)
    plant(bobs, "refresh_token", stored(daves, "refresh_token"))
    summary = scheduler.sweep(now=now)
    assert (summary.claimed, summary.renewed, summary.flagged) == (1, 0, 0)
    assert sandbox.calls(limit=0)["by_endpoint"].get("token", 0) == 0
    assert Incident.objects.get().title == f"A stored secret of connection {bobs.pk} was moved or altered"
    bobs.refresh_from_db(fields=["status", "trouble_code"])
    assert (bobs.status, bobs.trouble_code) == ("active", "stored_secret_altered")


def test_a_previous_refresh_token_that_was_moved_is_not_sent(
    sandbox: Control, bobs: Connection, daves: Connection
) -> None:
    now = timezone.now()
    Connection.objects.filter(pk=bobs.pk).update(refresh_after=now, suspected_code="doubt", suspected_at=now)
    plant(bobs, "previous_refresh_token", stored(daves, "refresh_token"))
    scheduler.sweep(now=now)
    assert sandbox.calls(limit=0)["by_endpoint"].get("token", 0) == 0
    assert "previous_refresh_token" in Incident.objects.get().cause


def test_another_apps_client_secret_is_not_sent(sandbox: Control, bobs: Connection) -> None:
    now = timezone.now()
    other = factories.make_secret(bobs.app_registration, "another secret")
    own = AppCredential.objects.defer("secret").exclude(pk=other.pk).get()
    plant(own, "secret", stored(other, "secret"))
    AppCredential.objects.filter(pk=other.pk).delete()
    Connection.objects.filter(pk=bobs.pk).update(refresh_after=now)
    scheduler.sweep(now=now)
    assert sandbox.calls(limit=0)["by_endpoint"].get("token", 0) == 0
    assert f"connections_appcredential.secret, row {own.pk}" in Incident.objects.get().cause
    assert Connection.objects.get(pk=bobs.pk).app_registration.rejected_at is None


def test_another_programs_stored_reply_is_refused(alice: User, bob: User) -> None:
    """A reply may contain a new secret, so a row given to one's own key must not be opened."""
    body = {"name": "Robots"}
    hers, his = Program(alice), Program(bob)
    assert hers.post("teams", body, idempotency_key="hers").status_code == 201
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_storedreply SET key_id = %s", [his.key.pk])
    assert problem(his.post("teams", body, idempotency_key="hers")) == ALTERED
    assert Incident.objects.get().kind == "altered_secret"


def test_it_admins_and_auditors_are_told_and_members_see_nothing(
    alice: User, bob: User, carol: User, bobs: Connection, daves: Connection
) -> None:
    plant(bobs, "access_token", stored(daves, "access_token"))
    fetch(bob, bobs)
    assert set(Delivery.objects.values_list("email", flat=True)) == {alice.email.lower(), carol.email.lower()}
    incident = Incident.objects.get()
    assert Program(bob).get(f"incidents/{incident.pk}").status_code == 404
    assert Program(carol).get(f"incidents/{incident.pk}").status_code == 200
