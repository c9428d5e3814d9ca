"""Connections, their shares, mailboxes and incidents, and the audit trail."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import (
    AppRegistration,
    AuditEvent,
    Connection,
    Share,
    SharedMailbox,
    SignInLink,
    StoredReply,
    Team,
    User,
)
from connections.services.incidents import incidents
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, problem, values, wrong_fields

NOW = timezone.now()


def new_connection(app: AppRegistration | None = None, **changes: Any) -> dict[str, Any]:
    """Return the body of a POST that creates a delegated connection."""
    return {
        "app_registration": (app or factories.make_app_registration()).pk,
        "name": "Invoices",
        "authentication_type": "authorization_code",
        "capabilities": ["mail.read"],
    } | changes


def make_granted_connection(sandbox: Control, **overrides: Any) -> Connection:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "Mail.Read.Shared", "offline_access"])
    return factories.make_connection(refresh_token=grant["refresh_tokens"][0], **overrides)


def test_a_delegated_connection_is_created_with_a_sign_in_link(bob: User, sandbox: Control) -> None:
    created = Program(bob).post(
        "connections", new_connection(shared_mailboxes=["Support@CONTOSO.example", "support@contoso.example"])
    )
    assert created.status_code == 201
    body = created.json()
    assert (body["status"], body["owner"], body["capabilities"]) == ("pending", "Bob Member", ["mail.read"])
    assert body["lacking"] == ["Mail.Read"]
    assert created["Location"] == f"/api/v1/connections/{body['id']}"
    link = body["sign_in_link"]["url"].removeprefix("http://localhost:8000")
    assert Client().get(link).status_code == 200
    assert SharedMailbox.objects.count() == 1
    assert Connection.objects.get().mailbox_accesses.count() == 1


def test_a_repeated_request_gets_the_same_link_which_is_stored_encrypted(bob: User, sandbox: Control) -> None:
    program, body = Program(bob), new_connection()
    first = program.post("connections", body, idempotency_key="one").json()
    again = program.post("connections", body, idempotency_key="one")
    assert again.json() == first
    assert Connection.objects.count() == SignInLink.objects.count() == 1
    token = first["sign_in_link"]["url"].split("/")[-2]
    assert token in StoredReply.objects.get().answer
    assert "no-store" in again["Cache-Control"]


def test_an_app_only_connection_is_connected_at_once(alice: User, sandbox: Control) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "User.Read.All"])
    body = new_connection(authentication_type="client_credentials", capabilities=["mail.read"])
    connection = Program(alice).post("connections", body).json()
    assert (connection["status"], connection["sign_in_link"], connection["lacking"]) == ("active", None, [])


def test_nothing_is_stored_when_microsoft_is_unavailable(alice: User, sandbox: Control) -> None:
    body = new_connection(authentication_type="client_credentials")
    sandbox.weather("unavailable", where="token")
    assert problem(Program(alice).post("connections", body, idempotency_key="one"))[0] == 503
    sandbox.weather("normal")
    assert not Connection.objects.exists()
    assert Program(alice).post("connections", body, idempotency_key="one").status_code == 201


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"capabilities": []}, "capabilities"),
        ({"capabilities": ["mail.reed"]}, "capabilities"),
        ({"name": "  "}, "name"),
        ({"extra_scopes": ["not a scope!"]}, "extra_scopes"),
        ({"authentication_type": "password"}, "authentication_type"),
        ({"shared_mailboxes": ["nobody"]}, "shared_mailboxes.0"),
        ({"app_registration": "1"}, "app_registration"),
        ({"app_registration": 10**30}, "app_registration"),
        ({"owner": 1}, "owner"),
        ({"status": "active"}, "status"),
    ],
)
def test_an_invalid_connection_is_refused_with_its_field(bob: User, change: dict[str, Any], field: str) -> None:
    assert wrong_fields(Program(bob).post("connections", new_connection(**change))) == {field}
    assert not Connection.objects.exists()


def test_members_create_no_app_only_connections_and_auditors_none(bob: User, carol: User) -> None:
    body = new_connection()
    assert (
        problem(Program(bob).post("connections", body | {"authentication_type": "client_credentials"})) == NOT_ALLOWED
    )
    assert problem(Program(carol).post("connections", body)) == NOT_ALLOWED
    assert problem(Program(bob).post("connections", body | {"app_registration": 999})) == NOT_FOUND
    assert not Connection.objects.exists()


def test_a_second_connection_of_the_same_name_leaves_nothing_behind(bob: User) -> None:
    program, body = Program(bob), new_connection(shared_mailboxes=["new@contoso.example"])
    factories.make_connection()
    assert problem(program.post("connections", body)) == (409, "already_exists")
    assert not SharedMailbox.objects.exists(), "nothing of a refused request stays"


def test_connections_are_filtered(alice: User, bob: User, dave: User) -> None:
    invoices = factories.make_connection()
    factories.make_connection(name="Calendar", status="disabled", granted_scopes="Calendars.Read", owner=dave)
    factories.make_mailbox_access(invoices, factories.make_mailbox(), state="reachable")
    program = Program(alice)

    def names(**query: str) -> list[str]:
        return values(program.get("connections", **query), "name")

    assert names() == ["Invoices", "Calendar"]
    assert names(name="Invoices") == names(capability="mail.read") == names(owner="bob") == ["Invoices"]
    assert names(mailbox="SUPPORT@contoso.example") == names(status="active") == ["Invoices"]
    assert names(status="pending") == names(owner="nobody") == names(mailbox="x") == []
    assert wrong_fields(program.get("connections", status="well")) == {"status"}


def test_a_list_of_connections_costs_the_same_however_long_it_is(bob: User, max_queries: Any) -> None:
    for number in range(30):
        status = Connection.Status.RECONNECT_NEEDED if number % 2 else Connection.Status.ACTIVE
        factories.make_connection(name=f"Connection {number}", status=status)
    program = Program(bob)
    with max_queries(10):
        assert len(program.get("connections", limit=25).json()["items"]) == 25


def test_a_connection_is_changed_under_its_etag(bob: User) -> None:
    connection, program = factories.make_connection(), Program(bob)
    read = program.get("connections/Invoices")
    changed = program.patch(
        "connections/Invoices", {"name": "Bills", "capabilities": ["mail.read", "mail.send"]}, if_match=read["ETag"]
    )
    assert (changed.json()["name"], changed.json()["lacking"]) == ("Bills", ["Mail.Send"])
    refused = program.patch(f"connections/{connection.pk}", {"name": "Mine"}, if_match=read["ETag"])
    assert problem(refused) == (412, "changed_meanwhile")
    assert program.delete(f"connections/{connection.pk}", if_match=read["ETag"]).status_code == 412
    assert program.patch(f"connections/{connection.pk}", {"capabilities": []}).status_code == 422


def test_a_refresh_does_not_change_the_etag(bob: User) -> None:
    """A refresh happens every hour and overwrites nothing that a person has entered."""
    connection, program = factories.make_connection(), Program(bob)
    read = program.get(f"connections/{connection.pk}")["ETag"]
    Connection.objects.update(refreshed_at=NOW, token_version=9)
    assert program.get(f"connections/{connection.pk}")["ETag"] == read


def test_a_connection_is_disabled_enabled_checked_and_removed(bob: User, sandbox: Control) -> None:
    connection, program = make_granted_connection(sandbox), Program(bob)
    path = f"connections/{connection.pk}"
    for _ in range(2):
        assert program.post(f"{path}/disable").json()["status"] == "disabled"
    assert problem(program.post(f"{path}/check")) == (409, "nothing_to_check")
    for _ in range(2):
        assert program.post(f"{path}/enable").json()["status"] == "active"
    checked = program.post(f"{path}/check")
    assert (checked.status_code, checked.json()["status"]) == (200, "active")
    assert program.delete(path).status_code == 204
    assert problem(program.get(path)) == NOT_FOUND
    actions = AuditEvent.objects.filter(target_type="Connection").values_list("action", flat=True).order_by("pk")
    assert list(actions) == ["connection.disabled", "connection.enabled", "connection.checked", "connection.removed"]


def test_a_sign_in_link_is_for_delegated_connections_in_use(alice: User, bob: User) -> None:
    disabled = factories.make_connection(status="disabled")
    robot = factories.make_app_only_connection()
    assert problem(Program(bob).post(f"connections/{disabled.pk}/sign-in-link")) == NOT_ALLOWED
    assert problem(Program(alice).post(f"connections/{robot.pk}/sign-in-link")) == NOT_ALLOWED


def test_a_connection_is_shared_changed_and_unshared(bob: User, dave: User) -> None:
    connection, program = factories.make_connection(), Program(bob)
    until = (timezone.now() + timedelta(days=3)).isoformat()
    path = f"connections/{connection.pk}/shares"
    created = program.post(path, {"person_id": dave.pk, "until": until})
    assert (created.status_code, created.json()["name"], created.json()["level"]) == (201, "Dave Stranger", "use")
    share_path = f"{path}/{created.json()['id']}"
    changed = program.patch(share_path, {"level": "manage"}, if_match=created["ETag"])
    assert changed.json()["level"] == "manage"
    assert changed.json()["until"] == created.json()["until"]
    assert program.patch(share_path, {"until": None}).json()["until"] is None
    assert program.patch(share_path, {"level": "use"}, if_match=created["ETag"]).status_code == 412
    assert values(program.get(path), "id") == [created.json()["id"]]
    assert Program(dave).get(f"connections/{connection.pk}").status_code == 200
    assert program.delete(share_path).status_code == 204
    assert problem(program.delete(share_path)) == NOT_FOUND
    assert Program(dave).get(f"connections/{connection.pk}").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "person_id"),
        ({"person_id": 1, "team_id": 1}, "person_id"),
        ({"person_id": 1, "level": "own"}, "level"),
        ({"person_id": 1, "until": "2020-01-01"}, "until"),
        ({"person_id": 1, "until": "2020-01-01T00:00:00"}, "until"),
    ],
)
def test_an_invalid_share_is_refused_with_its_field(bob: User, body: dict[str, Any], field: str) -> None:
    assert wrong_fields(Program(bob).post(f"connections/{factories.make_connection().pk}/shares", body)) == {field}


def test_a_share_in_the_past_or_with_the_owner_is_refused(bob: User, dave: User) -> None:
    path = f"connections/{factories.make_connection().pk}/shares"
    program = Program(bob)
    past = {"person_id": dave.pk, "until": "2020-01-01T00:00:00Z"}
    assert wrong_fields(program.post(path, past)) == {"until"}
    assert program.post(path, {"person_id": bob.pk}).status_code == 422
    assert problem(program.post(path, {"team_id": 99})) == NOT_FOUND


def test_a_share_is_found_only_under_its_own_connection(bob: User, dave: User) -> None:
    own, other = factories.make_connection(), factories.make_connection(name="Other")
    share = Share.objects.create(connection=other, person=dave, created_by=bob)
    program = Program(bob)
    assert problem(program.patch(f"connections/{own.pk}/shares/{share.pk}", {"level": "manage"})) == NOT_FOUND
    assert problem(program.delete(f"connections/{own.pk}/shares/{share.pk}")) == NOT_FOUND


def test_sharing_with_a_team(bob: User) -> None:
    team = Team.objects.create(name="Sales")
    path = f"connections/{factories.make_connection().pk}/shares"
    program = Program(bob)
    assert program.post(path, {"team_id": team.pk}).json()["team_id"] == team.pk
    assert program.post(path, {"team_id": team.pk, "level": "manage"}).json()["level"] == "manage"
    assert Share.objects.active().count() == 1


def test_a_mailbox_is_registered_changed_and_removed(bob: User) -> None:
    tenant, program = factories.make_tenant(), Program(bob)
    created = program.post("mailboxes", {"tenant_id": tenant.pk, "address": "mailto:Help@Contoso.example"})
    assert created.json()["address"] == "Help@contoso.example"
    path = created["Location"].removeprefix("/api/v1/")
    assert program.patch(path, {"display_name": "Help"}, if_match=created["ETag"]).json()["display_name"] == "Help"
    assert program.delete(path, if_match=created["ETag"]).status_code == 412
    twice = program.post("mailboxes", {"tenant_id": tenant.pk, "address": "help@contoso.example"})
    assert problem(twice) == (409, "already_exists")
    assert values(program.get("mailboxes", q="HELP"), "address") == ["Help@contoso.example"]
    assert program.delete(path).status_code == 204
    assert problem(program.get(path)) == NOT_FOUND


def test_mailboxes_are_attached_tested_and_detached(bob: User, sandbox: Control) -> None:
    connection, program = make_granted_connection(sandbox, granted_scopes="Mail.Read Mail.Read.Shared"), Program(bob)
    program.post(f"connections/{connection.pk}/check")  # fetches a token that Microsoft knows
    path = f"connections/{connection.pk}/mailboxes"
    for _ in range(2):
        attached = program.post(path, {"address": "support@contoso.example"})
        assert (attached.status_code, attached.json()["state"]) == (201, "unprobed")
    assert values(program.post(f"{path}/probe"), "state") == ["reachable"]
    mailbox = program.get(f"mailboxes/{attached.json()['mailbox_id']}").json()
    assert (mailbox["attached"], mailbox["reached"]) == (1, 1)
    assert problem(program.delete(f"mailboxes/{mailbox['id']}")) == (409, "still_in_use")
    assert program.delete(f"{path}/{attached.json()['id']}").status_code == 204
    assert program.get(path).json()["items"] == []
    assert wrong_fields(program.post(path, {"address": "nobody"})) == {"address"}


def test_counts_of_a_mailbox_leave_out_hidden_connections(bob: User, dave: User) -> None:
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(factories.make_connection(), mailbox, state="reachable")
    assert Program(dave).get(f"mailboxes/{mailbox.pk}").json()["attached"] == 0


def test_incidents_are_listed_and_read(alice: User, bob: User, dave: User, connection: Connection) -> None:
    access = factories.make_mailbox_access(connection, factories.make_mailbox(), state="unreachable")
    incident = incidents.report_mailbox(access, now=NOW)
    program = Program(bob)
    assert values(program.get("incidents", state="open"), "id") == [incident.pk]
    assert program.get("incidents", state="closed").json()["items"] == []
    assert program.get("incidents", connection=connection.pk + 1).json()["items"] == []
    read = program.get(f"incidents/{incident.pk}").json()
    assert [item["connection_id"] for item in read["affected"]] == [connection.pk]
    assert read["kind"] == "mailbox"
    assert problem(Program(dave).get(f"incidents/{incident.pk}")) == NOT_FOUND


def test_a_limited_key_reaches_nothing_else(alice: User, bob: User, dave: User) -> None:
    own, other = factories.make_connection(), factories.make_connection(name="Other")
    boxes = [factories.make_mailbox(), factories.make_mailbox(address="sales@contoso.example")]
    reaches = [
        factories.make_mailbox_access(connection, box) for connection, box in zip((own, other), boxes, strict=True)
    ]
    reported = [incidents.report_mailbox(reach, now=NOW) for reach in reaches]
    share = Share.objects.create(connection=other, person=dave, created_by=bob)
    program = Program(alice, only=[own])

    def ids(path: str) -> list[int]:
        return values(program.get(path), "id")

    assert ids("connections") == [own.pk]
    assert ids("mailboxes") == [boxes[0].pk]
    assert ids("incidents") == [reported[0].pk]
    for path in (
        f"connections/{other.pk}",
        "connections/Other",
        f"mailboxes/{boxes[1].pk}",
        f"incidents/{reported[1].pk}",
    ):
        assert problem(program.get(path)) == NOT_FOUND, path
    assert problem(program.get(f"connections/{other.pk}/shares")) == NOT_FOUND
    assert problem(program.delete(f"connections/{other.pk}/shares/{share.pk}")) == NOT_FOUND
    assert problem(program.post("consent-requests", {"connection_id": other.pk, "reason": "x"})) == NOT_FOUND
    for path in ("tenants", "app-registrations", "teams", "people", "consent-requests", "audit-seals"):
        assert problem(program.get(path)) == NOT_ALLOWED, path
    assert problem(program.post("connections", new_connection(own.app_registration))) == NOT_ALLOWED
    assert problem(program.post("teams", {"name": "Sales"})) == NOT_ALLOWED
    assert [item["id"] for item in program.get("me").json()["connections"]] == [own.pk]


def test_a_limited_key_reads_only_the_audit_trail_of_its_connections(alice: User, bob: User) -> None:
    own, other = factories.make_connection(), factories.make_connection(name="Other")
    Program(alice).post(f"connections/{own.pk}/disable")
    Program(alice).post(f"connections/{other.pk}/disable")
    program = Program(alice, only=[own])
    seen = program.get("audit-events").json()["items"]
    assert {(item["target_type"], item["target_id"]) for item in seen} == {("Connection", str(own.pk))}
    hidden = AuditEvent.objects.filter(target_id=str(other.pk)).first()
    assert hidden is not None
    assert problem(program.get(f"audit-events/{hidden.pk}")) == NOT_FOUND


def test_a_key_reads_itself(bob: User) -> None:
    program = Program(bob, scopes=["token:read"])
    read = program.get("me").json()
    assert (read["scopes"], read["owner_username"], read["only_chosen"]) == (["token:read"], "bob", False)
    assert program.text not in str(read)


def test_the_audit_trail_is_filtered(alice: User, carol: User, bob: User, connection: Connection) -> None:
    Program(bob).post(f"connections/{connection.pk}/disable")
    program = Program(carol)
    filters = {"action": "connection.disabled", "who": "bob", "date_from": "2020-01-01"}
    events = program.get("audit-events", **filters).json()["items"]
    assert [(item["actor"], item["outcome"]) for item in events] == [("Bob Member <bob>", "done")]
    assert program.get(f"audit-events/{events[0]['id']}").json() == events[0]
    assert program.get("audit-events", date_to="2020-01-01").json()["items"] == []
    assert wrong_fields(program.get("audit-events", date_from="2020-02-02", date_to="2020-01-01")) == {"date_to"}
    assert program.get("audit-seals").json() == {"items": [], "next": None}


def test_an_export_of_the_audit_trail_is_recorded_in_it(alice: User, bob: User, carol: User) -> None:
    own, other = factories.make_connection(), factories.make_connection(name="Other")
    for connection in (own, other):
        Program(bob, name=connection.name).post(f"connections/{connection.pk}/disable")
    answer = Program(carol).get("audit-events/export", action="connection.disabled")
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert answer["Content-Type"] == "application/x-ndjson"
    assert len(lines) == 2
    assert AuditEvent.objects.filter(action="audit.exported", actor=carol).count() == 1
    narrowed = Program(carol, only=[own]).get("audit-events/export", action="connection.disabled")
    assert len(narrowed.content.splitlines()) == 1
    assert problem(Program(alice).get("audit-events/export")) == NOT_ALLOWED
