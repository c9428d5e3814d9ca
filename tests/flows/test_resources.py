"""Several resources from one sign-in: the consent of each, what a cancelled one leaves, and the tokens by API."""

from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.utils import timezone

from connections.errors import PortalError
from connections.models import AuditEvent, Connection, Incident, ResourceToken, TokenFetch, User
from connections.services.connections import app_only, connections
from connections.services.governance import policy
from connections.services.policy.rules import Effect, Rules
from connections.services.tokens import resource_tokens, scheduler
from portal.sandbox.client import Control
from portal.sandbox.state import CONSUMERS
from tests import factories
from tests.api.api_client import Program, problem
from tests.flows.conftest import Meet, Person

CHOSEN = ["mail.read", "imap.access", "azure.manage"]


def connect(member: Person, app_pk: int, **changes: Any) -> Any:
    data = {"kind": "authorization_code", "name": "Everything", "chosen": CHOSEN, **changes}
    return member.post(f"/connect/several/?app={app_pk}", **data)


def walk(member: Person, answer: Any, upn: str = factories.ADA) -> Any:
    """Follow the redirects between the portal and Microsoft until the portal shows a page of its own."""
    while answer.status_code == 302 and answer["Location"].startswith(member.microsoft.url):
        answer = member.connect(answer, upn)
    return answer


def token_of(owner: User, connection: Connection, **query: str) -> dict[str, Any]:
    answer = Program(owner).get(f"connections/{connection.pk}/token", **query)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def claims(body: dict[str, Any]) -> dict[str, Any]:
    return dict(jwt.decode(body["access_token"], options={"verify_signature": False}))


def test_one_sign_in_serves_graph_imap_and_azure(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    page = walk(member, connect(member, factories.make_app_registration().pk))
    connection = Connection.objects.get()
    assert page["Location"] == f"/connections/{connection.pk}/"
    assert (connection.status, connection.resource) == ("active", "graph")
    assert connection.granted >= {"Mail.Read", "exchange/IMAP.AccessAsUser.All", "azure/user_impersonation"}

    graph, imap, azure = (
        token_of(bob, connection, **query) for query in ({}, {"resource": "exchange"}, {"resource": "azure"})
    )
    assert (graph["resource"], claims(graph)["aud"]) == ("graph", "https://graph.microsoft.com")
    assert (imap["scope"], claims(imap)["aud"]) == ("IMAP.AccessAsUser.All", "https://outlook.office.com")
    assert (azure["scope"], claims(azure)["aud"]) == ("user_impersonation", "https://management.azure.com")
    assert set(TokenFetch.objects.values_list("resource", "count")) == {("graph", 1), ("exchange", 1), ("azure", 1)}
    assert AuditEvent.objects.filter(action="connection.resource_connected").count() == 2


def test_cancelling_at_the_second_resource_keeps_the_first(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    answer = member.connect(connect(member, factories.make_app_registration().pk), factories.ADA)
    member.follow_to_microsoft(answer)
    assert "via IMAP" in member.microsoft.page.text
    member.microsoft.submit("cancel", why="consent")
    ended = member.return_to_portal()
    connection = Connection.objects.get()
    assert ended["Location"] == f"/connections/{connection.pk}/"
    page = member.get(ended["Location"]).content.decode()
    assert "without access to Exchange Online" in page
    assert "Grant access to Exchange Online" in page
    assert connection.status == "active"
    assert not Incident.objects.exists(), "the person knows"
    assert token_of(bob, connection)["resource"] == "graph"
    refused = Program(bob).get(f"connections/{connection.pk}/token", resource="exchange")
    assert problem(refused) == (409, "consent_needed")

    walk(member, member.post(f"/connections/{connection.pk}/sign-in/", resource="exchange"))
    assert token_of(bob, connection, resource="exchange")["scope"] == "IMAP.AccessAsUser.All"
    page = member.get(f"/connections/{connection.pk}/").content.decode()
    assert "Grant access to" not in page


def test_another_account_at_the_second_resource_is_refused(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    answer = member.connect(connect(member, factories.make_app_registration().pk), factories.ADA)
    member.microsoft.session.cookies.clear()
    ended = member.connect(answer, "grace@contoso.example")
    row = ResourceToken.objects.get(resource="exchange")
    assert row.problem_code == "wrong_account"
    assert not row.access_token
    assert ended["Location"] == f"/connections/{row.connection_id}/"
    assert Connection.objects.get().account_username == factories.ADA


def test_a_connection_without_graph_has_its_own_default(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    walk(member, connect(member, factories.make_app_registration().pk, chosen=["imap.access", "smtp.send"]))
    connection = Connection.objects.get()
    assert (connection.status, connection.resource) == ("active", "exchange")
    assert not connection.resource_tokens.exists()
    assert claims(token_of(bob, connection))["scp"] == "IMAP.AccessAsUser.All SMTP.Send"
    assert connection.refresh_after is not None
    assert scheduler.sweep(now=connection.refresh_after).renewed == 1
    assert factories.reloaded(connection).granted == {"exchange/IMAP.AccessAsUser.All", "exchange/SMTP.Send"}


def test_a_host_is_needed_for_sharepoint(person: Meet, bob: User, sandbox: Control) -> None:
    member, app = person(bob), factories.make_app_registration()
    page = connect(member, app.pk, chosen=["sharepoint.read"]).content.decode()
    assert "no address for SharePoint" in page
    page = connect(member, app.pk, chosen=["sharepoint.read"], hosts="contoso.evil.example").content.decode()
    assert "isn&#x27;t a SharePoint or Dataverse address" in page
    walk(member, connect(member, app.pk, chosen=["sharepoint.read"], hosts="contoso.sharepoint.com"))
    assert claims(token_of(bob, Connection.objects.get()))["aud"] == "https://contoso.sharepoint.com"


def test_a_typed_resource_works_like_the_others(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    typed = "https://api.contoso.example/Things.Read"
    walk(member, connect(member, factories.make_app_registration().pk, chosen=["mail.read"], extra_scopes=typed))
    body = token_of(bob, Connection.objects.get(), resource="https://api.contoso.example")
    assert (body["scope"], claims(body)["aud"]) == ("Things.Read", "https://api.contoso.example")


def test_app_only_gets_a_token_of_each_resource(alice: User, sandbox: Control) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "exchange/IMAP.AccessAsApp"])
    app = factories.make_app_registration()
    connection = app_only.connect(app, name="Robot", chosen=CHOSEN, actor=alice, now=timezone.now())
    assert connection.granted >= {"Mail.Read", "exchange/IMAP.AccessAsApp", "azure/.default"}
    assert claims(token_of(alice, connection, resource="exchange"))["roles"] == ["IMAP.AccessAsApp"]
    assert claims(token_of(alice, connection, resource="azure"))["aud"] == "https://management.azure.com"


def granted(sandbox: Control) -> Connection:
    scopes = ["Mail.Read", "exchange/IMAP.AccessAsUser.All", "azure/user_impersonation", "offline_access"]
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, scopes)
    connection = factories.make_connection(
        refresh_token=grant["refresh_tokens"][0], capabilities=CHOSEN, scopes="Mail.Read offline_access"
    )
    resource_tokens.arrange(connection, forget_tokens=False, now=timezone.now())
    return connection


def test_an_expired_token_is_renewed_and_the_new_refresh_token_kept(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    before, version = connection.refresh_token, connection.token_version
    first = token_of(bob, connection, resource="exchange")
    assert token_of(bob, connection, resource="exchange")["id"] == first["id"], "the stored one"
    after = Connection.objects.get()
    assert after.refresh_token != before == after.previous_refresh_token
    assert after.token_version == version
    ResourceToken.objects.update(expires_at=timezone.now())
    assert token_of(bob, connection, resource="exchange")["id"] != first["id"]


def test_an_answer_that_comes_after_a_new_sign_in_is_dropped(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    seen = resource_tokens.SeenGrant.of(connection)
    answer = resource_tokens.request(
        connection,
        seen,
        resource_tokens.audience(connection, "exchange"),
        ["exchange/IMAP.AccessAsUser.All"],
        now=timezone.now(),
    )
    Connection.objects.update(connected_at=timezone.now() + timedelta(seconds=1))
    assert not resource_tokens.store(connection, "exchange", answer, seen, now=timezone.now())  # type: ignore[arg-type]
    assert ResourceToken.objects.get(resource="exchange").access_token is None


def test_a_rotated_refresh_token_never_replaces_a_newer_one(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    seen = resource_tokens.SeenGrant.of(connection)
    target = resource_tokens.audience(connection, "azure")
    answer = resource_tokens.request(connection, seen, target, ["azure/user_impersonation"], now=timezone.now())
    scheduler.check_now(connection, actor=bob, now=timezone.now())
    newer = Connection.objects.get().refresh_token
    assert resource_tokens.store(connection, "azure", answer, seen, now=timezone.now())  # type: ignore[arg-type]
    assert Connection.objects.get().refresh_token == newer


def test_consent_withdrawn_for_one_resource_is_an_incident_of_this_one(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    sandbox.withdraw_consent(factories.CLIENT_ID)
    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    refused = Program(bob).get(f"connections/{connection.pk}/token", resource="azure")
    assert problem(refused) == (409, "consent_needed")
    assert refused.json()["who"] == "it_admin"
    incident = Incident.objects.get(closed_at=None)
    assert incident.title == f"{connection} has no access to Azure Resource Manager"
    scheduler.check_now(connection, actor=bob, now=timezone.now())
    assert factories.reloaded(connection).status == "active"
    assert factories.reloaded(incident).closed_at is None

    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["azure/user_impersonation"])
    ResourceToken.objects.update(problem_at=timezone.now() - timedelta(minutes=2))
    assert token_of(bob, connection, resource="azure")["scope"] == "user_impersonation"
    assert factories.reloaded(incident).closed_at is not None


def test_a_revoked_grant_is_found_by_the_request_for_a_resource(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    sandbox.revoke_sessions(factories.ADA)
    refused = Program(bob).get(f"connections/{connection.pk}/token", resource="exchange")
    assert problem(refused) == (409, "reconnect_needed")
    assert factories.reloaded(connection).status == "reconnect_needed"


def test_an_outage_changes_nothing(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    sandbox.weather("unavailable", where="token")
    answer = Program(bob).get(f"connections/{connection.pk}/token", resource="exchange")
    assert (answer.status_code, answer["Retry-After"]) == (503, "15")
    assert factories.reloaded(connection).status == "active"
    assert not ResourceToken.objects.exclude(problem_code="").exists()


def test_a_resource_that_was_not_granted_is_refused(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    program = Program(bob)
    path = f"connections/{connection.pk}/token"
    assert problem(program.get(path, resource="powerbi")) == (409, "resource_not_granted")
    for resource in ("fax", "https://contoso.sharepoint.com"):
        assert problem(program.get(path, resource=resource)) == (422, "invalid_input")


def test_permissions_that_are_removed_take_their_token_along(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    token_of(bob, connection, resource="azure")
    connections.change(connection, name="Mail", chosen=["mail.read", "imap.access"], extra_scopes=(), actor=bob)
    assert [row.resource for row in connection.resource_tokens.all()] == ["exchange"]
    assert "azure/user_impersonation" not in factories.reloaded(connection).granted


def test_the_policy_forbids_a_permission_of_another_resource(person: Meet, bob: User, alice: User) -> None:
    policy.change(None, Rules(permissions={"azure/*": Effect.FORBIDDEN}), actor=alice, now=timezone.now())
    page = connect(person(bob), factories.make_app_registration().pk).content.decode()
    assert "azure/user_impersonation" in page
    assert "allowed by the organisation" in page
    assert not Connection.objects.exists()
    with pytest.raises(PortalError):
        connections.start_delegated(
            factories.make_app_registration(name="B", client_id="b" * 36), name="X", chosen=["azure.manage"], actor=bob
        )


def test_a_work_accounts_token_cannot_be_narrowed(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["exchange/SMTP.Send"])
    Connection.objects.update(capabilities=["mail.read", "imap.access", "smtp.send", "azure.manage"])
    path, program = f"connections/{connection.pk}/token", Program(bob, can_narrow=True)
    token_of(bob, connection, resource="exchange")
    stored = ResourceToken.objects.get(resource="exchange").access_token
    assert problem(program.get(path, resource="exchange", scope="SMTP.Send")) == (409, "not_narrowed")
    assert ResourceToken.objects.get(resource="exchange").access_token == stored
    token_of(bob, connection, resource="azure")
    whole = program.get(path, resource="azure", scope="user_impersonation")
    assert whole.json()["scope"] == "user_impersonation", "everything that was consented to is asked for"
    assert problem(program.get(path, scope="SMTP.Send")) == (422, "invalid_input")
    assert problem(program.get(path, scope="Mail.ReadWrite")) == (422, "invalid_input")
    assert problem(program.get(path, scope="Mail.Read azure/user_impersonation")) == (422, "invalid_input")


def test_a_key_that_may_not_narrow_is_refused(bob: User, sandbox: Control) -> None:
    connection = granted(sandbox)
    answer = Program(bob).get(f"connections/{connection.pk}/token", scope="Mail.Read")
    assert problem(answer) == (403, "not_allowed")


def test_a_personal_accounts_token_is_narrowed_for_this_caller_alone(bob: User, sandbox: Control) -> None:
    everybody = sandbox.add_app("Everybody", audience="AzureADandPersonalMicrosoftAccount")
    sandbox.add_person("pat@outlook.example", tenant=CONSUMERS, name="Pat")
    tenant = factories.make_tenant(name="Anybody", directory_id="common", tid="")
    app = factories.make_app_registration(
        tenant=tenant, client_id=everybody["client_id"], secret=everybody["secret"], audience="multi"
    )
    grant = sandbox.issue_grant(
        everybody["client_id"], "pat@outlook.example", ["Mail.Read", "Mail.Send", "offline_access"]
    )
    connection = factories.make_connection(
        app_registration=app,
        refresh_token=grant["refresh_tokens"][0],
        capabilities=["mail.read", "mail.send"],
        granted_scopes="Mail.Read Mail.Send openid",
        access_token="eyJ.full",
    )
    answer = Program(bob, can_narrow=True).get(f"connections/{connection.pk}/token", scope="Mail.Send")
    assert answer.status_code == 200, answer.content
    assert "Mail.Read" not in claims(answer.json())["scp"]
    assert Connection.objects.get().access_token == "eyJ.full"
    assert TokenFetch.objects.get().count == 1
