"""Exchange's mailbox permissions (shared folders, Send As, grants to applications) and user look-ups."""

import base64
import json

from portal.sandbox import seed
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Client
from tests.sandbox.test_graph import ADA, SUPPORT, app_only, delegated, refused

SALES = "sales@contoso.example"
GUEST = "barbara_fabrikam.example#EXT#@contoso.example"


def test_an_inbox_can_be_shared_alone(client: Client, sandbox: SandboxProcess) -> None:
    sandbox.control.set_mailbox(SALES, inbox_members=[ADA])
    token = delegated(client, sandbox, "Mail.Read.Shared")
    assert client.graph(f"users/{SALES}/mailFolders/inbox?$select=id", token).status_code == 200
    assert client.graph(f"users/{SALES}/mailFolders/inbox/messages", token).status_code == 200
    refused(client.graph(f"users/{SALES}/messages", token), 403, "ErrorAccessDenied")
    refused(client.graph(f"users/{SALES}/mailFolders/drafts", token), 403, "ErrorAccessDenied")


def test_send_as_is_a_separate_right(client: Client, sandbox: SandboxProcess) -> None:
    message = {"message": {"subject": "Hi", "toRecipients": [{"emailAddress": {"address": ADA}}]}}
    token = delegated(client, sandbox, "Mail.Read.Shared", "Mail.Send.Shared")
    sandbox.control.set_mailbox("support@contoso.example", senders=[])
    answer = client.graph(f"{SUPPORT}/sendMail", token, method="POST", json=message)
    refused(answer, 403, "ErrorSendAsDenied")
    assert client.graph(f"{SUPPORT}/messages", token).status_code == 200
    sandbox.control.set_mailbox("support@contoso.example", all_senders=True)
    assert client.graph(f"{SUPPORT}/sendMail", token, method="POST", json=message).status_code == 202


def test_exchange_lets_an_app_into_named_mailboxes_without_any_role_in_its_token(sandbox: SandboxProcess) -> None:
    client = Client(sandbox.url)
    token = app_only(sandbox)
    refused(client.graph(f"users/{SALES}/messages", token), 401, "NoPermissionsInAccessToken")
    sandbox.control.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=[SALES])
    assert client.graph(f"users/{SALES}/messages", token).status_code == 200
    refused(client.graph(f"{SUPPORT}/messages", token), 403, "ErrorAccessDenied")
    refused(client.graph(f"users/{SALES}/calendar", token), 403, "ErrorAccessDenied")
    sandbox.control.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=[])
    refused(client.graph(f"users/{SALES}/messages", token), 401, "NoPermissionsInAccessToken")


def test_a_role_for_all_mailboxes_is_not_narrowed_by_a_grant_of_exchange(sandbox: SandboxProcess) -> None:
    token = app_only(sandbox, "Mail.Read")
    sandbox.control.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=[SALES])
    assert Client(sandbox.url).graph(f"{SUPPORT}/messages", token).status_code == 200


def test_accounts_are_found_by_any_of_their_addresses(sandbox: SandboxProcess) -> None:
    def look_up(address: str) -> list[dict[str, object]]:
        condition = (
            f"userPrincipalName eq '{address}' or mail eq '{address}' or proxyAddresses/any(p:p eq 'smtp:{address}')"
        )
        query = {"$filter": condition, "$select": "userType,assignedPlans"}
        answer = Client(sandbox.url).graph("users", token, params=query)
        values: list[dict[str, object]] = answer.json()["value"]
        return values

    token = app_only(sandbox, "User.Read.All")
    assert look_up("nobody@contoso.example") == []
    assert look_up(SALES.upper()) == [{"userType": "Member", "assignedPlans": []}]
    assert look_up("barbara@fabrikam.example")[0]["userType"] == "Guest"
    assert look_up("donald@contoso.example")[0]["assignedPlans"] == []
    assert "exchange" in json.dumps(look_up(ADA))
    odd = Client(sandbox.url).graph("users?$filter=startswith(mail,'a')", token)
    refused(odd, 400, "Request_UnsupportedQuery")


def test_a_guests_token_says_so(client: Client, sandbox: SandboxProcess) -> None:
    for upn, guest in ((ADA, False), (GUEST, True)):
        payload = delegated(client, sandbox, "Mail.Read", upn=upn).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert (claims["acct"], "idp" in claims) == (int(guest), guest)
