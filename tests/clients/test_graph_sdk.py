"""Microsoft's Graph SDK works with the portal's credential, even if a token expires."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import requests
import time_machine
from django.utils import timezone
from m365_portal import AsyncPortalCredential, Portal, PortalCredential, ReconnectNeeded, WrongResource
from msgraph.graph_service_client import GraphServiceClient

from connections.models import TokenFetch
from portal.sandbox.client import Control
from tests import factories
from tests.clients.conftest import Granted
from tests.services.tokens.test_scheduler import token_calls

pytestmark = pytest.mark.django_db(transaction=True)
GRAPH = ["https://graph.microsoft.com/.default"]


@asynccontextmanager
async def graph_client(sandbox: Control, credential: Any) -> AsyncIterator[GraphServiceClient]:
    """The SDK's client as in a program, with the sandbox as Graph."""
    client = GraphServiceClient(credential, scopes=GRAPH)
    client.request_adapter.base_url = f"{sandbox.base_url}/v1.0"
    yield client
    # The SDK's wrapper around the transport has no close method.
    adapter: Any = client.request_adapter
    await adapter._http_client._transport.transport.aclose()


async def subjects(client: GraphServiceClient) -> list[str]:
    page = await client.me.messages.get()
    assert page is not None
    return [str(mail.subject) for mail in page.value or ()]


def status_at_graph(sandbox: Control, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{sandbox.base_url}/v1.0/me/messages", headers=headers, timeout=20).status_code


@pytest.mark.parametrize("kind", [PortalCredential, AsyncPortalCredential])
def test_the_graph_sdk_reads_mail_and_survives_the_end_of_its_token(
    sandbox: Control, portal: Portal, granted: Granted, kind: type
) -> None:
    granted(name="Invoices")
    sandbox.token_lifetime(3900)
    sandbox.clear_calls()

    async def story(client: GraphServiceClient) -> None:
        before = await subjects(client)
        assert before
        assert await subjects(client) == before
        old = portal.token("Invoices").access_token
        assert status_at_graph(sandbox, old) == 200
        assert token_calls(sandbox) == 1

        # Two hours later for everybody: Microsoft, the portal and the program.
        sandbox.clock(7200)
        with time_machine.travel(timezone.now() + timedelta(hours=2)):
            assert status_at_graph(sandbox, old) == 401
            assert len(await subjects(client)) == len(before)
            assert len(await subjects(client)) == len(before)
            new = portal.token("Invoices").access_token
        assert new != old
        assert token_calls(sandbox) == 2

    async def tell() -> None:
        async with graph_client(sandbox, kind("Invoices", portal)) as client:
            await story(client)

    asyncio.run(tell())
    assert sum(TokenFetch.objects.values_list("count", flat=True)) == 2, "the portal was asked once for each token"


def test_the_graph_sdk_opens_a_shared_mailbox(sandbox: Control, portal: Portal, granted: Granted) -> None:
    granted(name="Invoices")

    async def story() -> str:
        credential = AsyncPortalCredential("Invoices", portal)
        async with credential, graph_client(sandbox, credential) as client:
            folder = (
                await client.users.by_user_id("support@contoso.example").mail_folders.by_mail_folder_id("inbox").get()
            )
            assert folder is not None
            return str(folder.display_name)

    assert asyncio.run(story()) == "Inbox"


def test_a_revoked_grant_reaches_the_program_in_the_portals_words(
    sandbox: Control, portal: Portal, granted: Granted
) -> None:
    connection = granted(name="Invoices")
    sandbox.revoke_sessions(factories.ADA)

    async def story() -> None:
        async with graph_client(sandbox, AsyncPortalCredential("Invoices", portal)) as client:
            with pytest.raises(ReconnectNeeded) as refused:
                await subjects(client)
            reconnect_neededs.append(refused.value)

    reconnect_neededs: list[ReconnectNeeded] = []
    asyncio.run(story())
    refused = reconnect_neededs[0]
    assert refused.who == "owner"
    assert refused.link.endswith(f"/connections/{connection.pk}/")
    assert "sign in" in refused.action.lower()


def test_claims_of_graph_discard_the_cached_token(sandbox: Control, portal: Portal, granted: Granted) -> None:
    granted(name="Invoices")
    credential = PortalCredential("Invoices", portal)
    sandbox.token_lifetime(1800)
    first = credential.get_token(*GRAPH)
    assert credential.get_token(*GRAPH) == first
    assert credential.get_token(*GRAPH, claims='{"access_token":{}}', enable_cae=True).token != first.token
    second = credential.get_token_info(*GRAPH)
    # It has just replaced a rejected token, so another report is ignored: many threads report the same token.
    assert credential.get_token_info(*GRAPH, options={"claims": "{}"}).token == second.token
    with time_machine.travel(timezone.now() + timedelta(seconds=20)):
        assert credential.get_token_info(*GRAPH, options={"claims": "{}"}).token != second.token


@pytest.mark.parametrize(
    "scope",
    ["https://vault.azure.net/.default", "api://something/access", "https://graph.microsoft.com.evil.example/.default"],
)
def test_a_token_for_another_resource_is_refused_without_a_request(scope: str) -> None:
    credential = PortalCredential("Invoices", Portal("http://127.0.0.1:9", "m365p_x", patience=0))
    with pytest.raises(WrongResource, match="has no tokens for"):
        credential.get_token(scope)
