"""Shared mailboxes probed at the sandbox's Graph."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from connections.microsoft import clouds, graph, tokens
from connections.microsoft import http as microsoft_http
from connections.microsoft.clouds import Cloud
from connections.microsoft.graph import Probe, Reach
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import cast

SUPPORT, SALES = "support@contoso.example", "sales@contoso.example"


@pytest.fixture
def cloud(sandbox: Control) -> Cloud:
    return clouds.CLOUDS["sandbox"]


def app_only_token(cloud: Cloud) -> str:
    secret = tokens.ClientSecret(seed.ROBOTS_SECRET)
    return tokens.request_app_only_token(tokens.Application(cloud, seed.CONTOSO, seed.ROBOTS_APP, secret)).access_token


def delegated_token(sandbox: Control, cloud: Cloud, *scopes: str) -> str:
    wanted = [*scopes, "offline_access"]
    sandbox.grant_consent(client_id=seed.CONNECTIONS_APP, tenant=seed.CONTOSO, scopes=wanted, upn=cast.ADA)
    grant = sandbox.issue_grant(client_id=seed.CONNECTIONS_APP, upn=cast.ADA, scopes=wanted)
    application = tokens.Application(
        cloud, seed.CONTOSO, seed.CONNECTIONS_APP, tokens.ClientSecret(seed.CONNECTIONS_SECRET)
    )
    request = tokens.refresh_request(application, grant["refresh_tokens"][0], wanted, None)
    return tokens.insist(tokens.read_answer(microsoft_http.client().send(request))).access_token


def probe(cloud: Cloud, token: str, address: str, **more: Any) -> Probe:
    return graph.probe_mailboxes(cloud, token, [address], **more)[address]


def test_a_member_with_the_shared_permission_reaches_the_mailbox(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read", "Mail.Read.Shared")
    assert probe(cloud, token, SUPPORT) == graph.REACHABLE


def test_without_the_shared_permission_it_is_named_and_the_owner_can_mend_it(sandbox: Control, cloud: Cloud) -> None:
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read"), SUPPORT)
    assert (found.state, found.code, found.who) == (Reach.UNREACHABLE, "ErrorAccessDenied", "owner")
    assert "Mail.Read.Shared" in found.cause
    assert "sign in again" in found.action


def test_an_account_that_is_no_member_needs_full_access(sandbox: Control, cloud: Cloud) -> None:
    found = probe(cloud, delegated_token(sandbox, cloud, "Mail.Read.Shared"), SALES)
    assert (found.state, found.who) == (Reach.UNREACHABLE, "it_admin")
    assert "Full Access" in found.action


def test_an_application_reaches_every_mailbox_it_is_not_kept_from(sandbox: Control, cloud: Cloud) -> None:
    token = app_only_token(cloud)
    assert probe(cloud, token, SALES) == graph.REACHABLE
    sandbox.set_mailbox(address=SALES, app_scope=[])
    found = probe(cloud, token, SALES)
    assert found.state is Reach.UNREACHABLE
    assert "policy in Exchange" in found.cause


def test_an_application_without_mail_read_is_told_which_role_is_missing(sandbox: Control, cloud: Cloud) -> None:
    sandbox.withdraw_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO)
    sandbox.grant_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO, roles=["User.Read.All"])
    found = probe(cloud, app_only_token(cloud), SUPPORT)
    assert found.state is Reach.UNREACHABLE
    assert "Mail.Read is not granted" in found.cause


def test_an_address_that_is_none_and_one_without_mailbox_are_told_apart(sandbox: Control, cloud: Cloud) -> None:
    token = app_only_token(cloud)
    found = graph.probe_mailboxes(cloud, token, ["nobody@contoso.example", "donald@contoso.example"])
    assert "no mailbox nobody@contoso.example in this directory" in found["nobody@contoso.example"].cause
    assert "no licence" in found["donald@contoso.example"].cause


def test_many_mailboxes_come_back_in_the_order_asked_each_once(sandbox: Control, cloud: Cloud) -> None:
    asked = [f"nobody{number}@contoso.example" for number in range(11)] + [SUPPORT, SALES, SUPPORT]
    found = graph.probe_mailboxes(cloud, app_only_token(cloud), asked)
    assert list(found) == asked[:-1]
    assert [address for address in found if found[address] == graph.REACHABLE] == [SUPPORT, SALES]


def test_what_was_granted_may_be_told_where_the_token_is_opaque(sandbox: Control, cloud: Cloud) -> None:
    token = delegated_token(sandbox, cloud, "Mail.Read.Shared")
    found = probe(cloud, token, SALES, granted=["Mail.Read"], delegated=True)
    assert "Mail.Read.Shared" in found.cause


@pytest.mark.parametrize("kind", ["unavailable", "error", "throttle", "broken_json", "empty_504", "refuse"])
def test_a_bad_day_at_microsoft_is_unknown_never_unreachable(sandbox: Control, cloud: Cloud, kind: str) -> None:
    token = app_only_token(cloud)
    sandbox.weather(kind=kind, where="graph")
    found = probe(cloud, token, SUPPORT)
    assert found.state is Reach.UNKNOWN
    assert found.cause


def test_a_rejected_token_is_unknown(cloud: Cloud) -> None:
    assert probe(cloud, "eyJ.not-a.token", SUPPORT).state is Reach.UNKNOWN


def test_nobody_listening_is_unknown(sandbox: Control) -> None:
    nowhere = Cloud("nowhere", "Nowhere", "http://127.0.0.1:9", "http://127.0.0.1:9", "", "")
    assert probe(nowhere, "token", SUPPORT).state is Reach.UNKNOWN


# --- What the sandbox does not play ---------------------------------------------------------------


class FolderShareOnly(http.server.BaseHTTPRequestHandler):
    """The inbox folder is shared, the rest of the mailbox is not. Counts what runs at the same time."""

    paths: list[str] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        good = "/mailFolders/inbox" in self.path
        error = b'{"error":{"code":"ErrorAccessDenied","message":"Access is denied. Check credentials and try again."}}'
        body = b'{"id":"x"}' if good else error
        self.send_response(200 if good else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def folder_share() -> Iterator[Cloud]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FolderShareOnly)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    FolderShareOnly.paths.clear()
    url = f"http://127.0.0.1:{server.server_port}"
    yield Cloud("folder", "Folder", url, url, "", "")
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_shared_inbox_alone_is_not_the_whole_mailbox(folder_share: Cloud) -> None:
    found = probe(folder_share, "token", SUPPORT, granted=["Mail.Read.Shared"], delegated=True)
    assert found.state is Reach.UNREACHABLE
    assert "Only the inbox folder" in found.cause


def test_addresses_are_quoted_in_the_path(folder_share: Cloud) -> None:
    probe(folder_share, "token", "a/b?c#EXT#@contoso.example", granted=["Mail.Read.Shared"], delegated=True)
    assert FolderShareOnly.paths[0] == "/v1.0/users/a%2Fb%3Fc%23EXT%23@contoso.example/mailFolders/inbox?$select=id"
