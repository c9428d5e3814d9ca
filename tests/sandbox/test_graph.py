"""Graph: accepted tokens, required permissions, and the rules of shared mailboxes."""

import pytest
import requests

from portal.sandbox import seed
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Client

ADA = "ada@contoso.example"
SUPPORT = "users/support@contoso.example"


def delegated(client: Client, sandbox: SandboxProcess, *scopes: str, upn: str = ADA) -> str:
    grant = sandbox.control.issue_grant(seed.CONNECTIONS_APP, upn, list(scopes))
    token: str = client.refresh(grant["refresh_tokens"][0]).json()["access_token"]
    return token


def app_only(sandbox: SandboxProcess, *roles: str) -> str:
    sandbox.control.withdraw_consent(seed.ROBOTS_APP)
    sandbox.control.grant_consent(seed.ROBOTS_APP, roles=list(roles))
    client = Client(sandbox.url, seed.ROBOTS_APP, seed.ROBOTS_SECRET)
    answer = client.token(grant_type="client_credentials", scope="https://graph.microsoft.com/.default")
    token: str = answer.json()["access_token"]
    return token


def refused(answer: requests.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert {"date", "request-id", "client-request-id"} <= set(answer.json()["error"]["innerError"])


def test_me(client: Client, sandbox: SandboxProcess) -> None:
    answer = client.graph("me", delegated(client, sandbox, "User.Read"), headers={"client-request-id": "mine"})
    assert answer.json()["userPrincipalName"] == ADA
    assert answer.headers["client-request-id"] == "mine"
    assert answer.headers["request-id"]


def test_missing_broken_expired_and_foreign_tokens_are_refused(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "User.Read")
    for wrong in ("", "garbage", token[:-8] + "AAAAAAAA"):
        refused(client.graph("me", wrong), 401, "InvalidAuthenticationToken")
    refresh_token = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["User.Read"])["refresh_tokens"][0]
    refused(client.graph("me", client.refresh(refresh_token).json()["id_token"]), 401, "InvalidAuthenticationToken")
    sandbox.control.clock(2 * 3600)
    answer = client.graph("me", token)
    refused(answer, 401, "InvalidAuthenticationToken")
    assert "expired" in answer.json()["error"]["message"]


def test_an_access_token_outlives_the_revocation_of_its_grant(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "User.Read")
    sandbox.control.revoke_sessions(ADA)
    assert client.graph("me", token).status_code == 200


def test_directory_lookups_need_their_permission(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "User.Read")
    refused(client.graph("users/alan@contoso.example", token), 403, "Authorization_RequestDenied")
    token = delegated(client, sandbox, "User.ReadBasic.All")
    assert client.graph("users/alan@contoso.example?$select=id,mail", token).json()["mail"] == "alan@contoso.example"
    assert client.graph(SUPPORT, token).json()["displayName"] == "Support"
    refused(client.graph("users/nobody@contoso.example", token), 404, "Request_ResourceNotFound")
    assert len(client.graph("users?$top=3", token).json()["value"]) == 3


def test_own_mail(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "Mail.Read")
    folder = client.graph("me/mailFolders/inbox?$select=id,totalItemCount", token).json()
    assert folder["totalItemCount"] == 6
    assert client.graph("me/mailFolders('Inbox')", token).json()["displayName"] == "Inbox"
    listed = client.graph("me/messages?$top=2&$select=id,subject", token).json()["value"]
    assert [set(item) for item in listed] == [{"id", "subject"}] * 2
    assert client.graph(f"me/messages/{listed[0]['id']}", token).json()["subject"] == listed[0]["subject"]
    refused(
        client.graph("me/messages", delegated(client, sandbox, "User.Read", upn="alan@contoso.example")),
        403,
        "ErrorAccessDenied",
    )


def test_a_shared_mailbox_needs_the_shared_scope_and_membership(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "Mail.Read")
    refused(client.graph(f"{SUPPORT}/mailFolders/inbox", token), 403, "ErrorAccessDenied")
    token = delegated(client, sandbox, "Mail.Read.Shared")
    assert client.graph(f"{SUPPORT}/mailFolders/inbox", token).status_code == 200
    assert client.graph(f"{SUPPORT}/messages?$top=1", token).json()["value"]
    refused(client.graph("users/sales@contoso.example/messages", token), 404, "ErrorItemNotFound")
    refused(client.graph("users/nobody@contoso.example/messages", token), 404, "ErrorInvalidUser")
    refused(client.graph(f"{SUPPORT}/mailboxSettings", token), 403, "ErrorAccessDenied")
    sandbox.control.set_mailbox("sales@contoso.example", members=[ADA])
    assert client.graph("users/sales@contoso.example/messages", token).status_code == 200


def test_people_without_a_mailbox(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "Mail.Read", upn="donald@contoso.example")
    refused(client.graph("me/messages", token), 404, "MailboxNotEnabledForRESTAPI")


def test_app_only_mail_can_be_limited_to_named_mailboxes(client: Client, sandbox: SandboxProcess) -> None:
    token = app_only(sandbox, "Mail.Read")
    for path in (SUPPORT, f"users/{ADA}"):
        assert client.graph(f"{path}/messages", token).status_code == 200
    sandbox.control.set_app(seed.ROBOTS_APP, mailboxes=["support@contoso.example"])
    assert client.graph(f"{SUPPORT}/messages", token).status_code == 200
    answer = client.graph(f"users/{ADA}/messages", token)
    refused(answer, 403, "ErrorAccessDenied")
    assert answer.json()["error"]["message"] == "Access to OData is disabled."
    sandbox.control.set_app(seed.ROBOTS_APP, all_mailboxes=True)
    sandbox.control.set_mailbox("support@contoso.example", app_scope=[])
    refused(client.graph(f"{SUPPORT}/messages", token), 403, "ErrorAccessDenied")
    sandbox.control.set_mailbox("support@contoso.example", all_apps=True)
    assert client.graph(f"{SUPPORT}/messages", token).status_code == 200


def test_without_a_person_there_is_no_me(client: Client, sandbox: SandboxProcess) -> None:
    refused(client.graph("me/messages", app_only(sandbox, "Mail.Read")), 400, "BadRequest")
    refused(client.graph(f"{SUPPORT}/messages", app_only(sandbox, "User.Read.All")), 403, "ErrorAccessDenied")


def mail(*to: str) -> dict[str, object]:
    recipients = [{"emailAddress": {"address": address}} for address in to]
    return {"message": {"subject": "Hello", "body": {"content": "Hi"}, "toRecipients": recipients}}


def test_sent_mail_arrives(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "Mail.Send", "Mail.Read", "Mail.Read.Shared")
    answer = client.graph("me/sendMail", token, method="POST", json=mail("support@contoso.example"))
    assert (answer.status_code, answer.text) == (202, "")
    assert client.graph(f"{SUPPORT}/messages?$top=1", token).json()["value"][0]["subject"] == "Hello"
    assert client.graph("me/mailFolders/sentItems/messages", token).json()["value"][0]["subject"] == "Hello"


def test_sending_as_a_mailbox_requires_membership(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "Mail.Send.Shared")
    answer = client.graph(f"{SUPPORT}/sendMail", token, method="POST", json=mail(ADA))
    assert answer.status_code == 202
    answer = client.graph("users/sales@contoso.example/sendMail", token, method="POST", json=mail(ADA))
    refused(answer, 403, "ErrorSendAsDenied")


def test_calendars_settings_files_and_teams(client: Client, sandbox: SandboxProcess) -> None:
    scopes = ["Calendars.Read", "MailboxSettings.Read", "Files.Read", "Team.ReadBasic.All", "Sites.Read.All"]
    token = delegated(client, sandbox, *scopes)
    assert client.graph("me/events?$top=2", token).json()["value"][1]["subject"] == "Supplier call"
    assert client.graph("me/calendars", token).json()["value"][0]["name"] == "Calendar"
    assert client.graph("me/mailboxSettings", token).json()["timeZone"] == "UTC"
    assert client.graph("me/drive", token).json()["driveType"] == "business"
    assert client.graph("me/drive/root/children", token).json()["value"]
    assert client.graph("me/joinedTeams", token).json()["value"]
    assert client.graph("sites/root", token).json()["displayName"] == "Contoso"
    token = delegated(client, sandbox, "User.Read", upn="alan@contoso.example")
    for path, status in (("me/events", 403), ("me/drive", 403), ("me/joinedTeams", 403), ("sites/root", 403)):
        assert client.graph(path, token).status_code == status
    assert client.graph("organization", token).json()["value"][0]["displayName"] == "Contoso"


def test_application_objects_show_the_expiry_of_secrets_but_no_secret(client: Client, sandbox: SandboxProcess) -> None:
    token = app_only(sandbox, "Application.Read.All")
    path = f"applications(appId='{seed.ARCHIVE_APP}')"
    answer = client.graph(path, token)
    held = answer.json()["passwordCredentials"][0]
    assert (held["keyId"], held["hint"]) == (seed.ARCHIVE_SECRET_ID, seed.ARCHIVE_SECRET[:3])
    assert seed.ARCHIVE_SECRET not in answer.text
    assert held["endDateTime"].endswith("Z")
    listed = client.graph("applications", token, params={"$filter": f"appId eq '{seed.ARCHIVE_APP}'"}).json()["value"]
    assert [item["appId"] for item in listed] == [seed.ARCHIVE_APP]
    refused(client.graph(path, app_only(sandbox, "User.Read.All")), 403, "Authorization_RequestDenied")


def test_graph_can_revoke_sessions_too(client: Client, sandbox: SandboxProcess) -> None:
    refresh_token = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["Mail.Read"])["refresh_tokens"][0]
    token = app_only(sandbox, "User.RevokeSessions.All")
    assert client.graph(f"users/{ADA}/revokeSignInSessions", token, method="POST").json()["value"] is True
    assert client.refresh(refresh_token).json()["error_codes"] == [50173]


def test_a_batch_responds_to_each_part_separately(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "User.Read", "Mail.Read.Shared")
    parts = [
        {"id": "1", "method": "GET", "url": "/me"},
        {"id": "2", "method": "GET", "url": "/users/sales@contoso.example/messages?$top=1"},
        {"id": "3", "method": "GET", "url": "/me", "dependsOn": ["2"]},
    ]
    answer = client.graph("$batch", token, method="POST", json={"requests": parts}).json()["responses"]
    assert [part["status"] for part in answer] == [200, 404, 424]
    sandbox.control.weather("throttle", "batch", retry_after=9, times=1)
    answer = client.graph("$batch", token, method="POST", json={"requests": parts[:2]})
    assert answer.status_code == 200, "the parts are throttled, not the batch"
    first, second = answer.json()["responses"]
    assert (first["status"], first["headers"]["Retry-After"], second["status"]) == (429, "9", 404)
    too_many = [{"id": str(number), "method": "GET", "url": "/me"} for number in range(21)]
    refused(client.graph("$batch", token, method="POST", json={"requests": too_many}), 400, "BadRequest")
    refused(client.graph("$batch", token, method="POST", json={"requests": [parts[0]] * 2}), 400, "BadRequest")


@pytest.mark.parametrize("path", ["me/nonsense", "nonsense"])
def test_unknown_addresses(client: Client, sandbox: SandboxProcess, path: str) -> None:
    refused(client.graph(path, delegated(client, sandbox, "User.Read")), 400, "BadRequest")


def test_userinfo(client: Client, sandbox: SandboxProcess) -> None:
    token = delegated(client, sandbox, "User.Read")
    answer = requests.get(f"{client.url}/oidc/userinfo", headers={"Authorization": f"Bearer {token}"}, timeout=20)
    assert answer.json()["email"] == ADA


def test_several_people_are_looked_up_by_id_at_most_fifteen_at_once(client: Client, sandbox: SandboxProcess) -> None:
    token = app_only(sandbox, "User.Read.All")
    ada, grace = seed.fixed_id(ADA), seed.fixed_id("grace@contoso.example")
    sandbox.control.set_person(ADA, disabled=True)
    sandbox.control.set_person("grace@contoso.example", deleted=True)
    answer = client.graph(f"users?$filter=id in ('{ada}','{grace}')&$select=id,accountEnabled", token)
    assert answer.json()["value"] == [{"id": ada, "accountEnabled": False}]
    many = ",".join(f"'{seed.fixed_id(str(number))}'" for number in range(16))
    refused(client.graph(f"users?$filter=id in ({many})", token), 400, "BadRequest")
    refused(client.graph(f"users/{grace}", token), 404, "Request_ResourceNotFound")
