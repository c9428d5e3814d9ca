"""Uses Microsoft Graph to test whether an access token really reaches a shared mailbox.

Only a request can show this. A scope opens nothing without access in Exchange, and the access that Exchange gives to an
application does not appear in its token (Microsoft: outlook-share-messages-folders, application-rbac).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from connections.microsoft import capabilities, graph_client, http, token_endpoint
from connections.microsoft.classifier import OK, Verdict
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind
from connections.microsoft.mailbox_errors import (
    MAIL,
    REACHABLE,
    SEND,
    Account,
    Probe,
    ProbeJudgement,
    Purpose,
    untested,
)
from connections.microsoft.response_parser import load_json

UNREADABLE = graph_client.unreadable(
    "The response isn't from Microsoft Graph or is incomplete.", again="retries automatically"
)


def probe_mailboxes(
    cloud: Cloud,
    access_token: str,
    addresses: Iterable[str],
    *,
    granted: Iterable[str] | None = None,
    delegated: bool | None = None,
    purpose: Purpose = MAIL,
    reaches_others: bool = False,
) -> dict[str, Probe]:
    """Try to read each mailbox for ``purpose``. Return the results by address, with the reason if reading fails.

    ``granted`` (scopes or roles) and ``delegated`` make the reason more precise; by default they are read from the
    token. ``reaches_others`` says that this application is known to reach mailboxes that are not in ``addresses``.

    No response from Microsoft raises an error. An outage, throttling or a rejected token results in "unknown", never in
    "unreachable". The call blocks for at most three requests per four addresses. A purpose that only sends needs no
    request.
    """
    distinct = list(dict.fromkeys(addresses))
    if not purpose.paths:
        return {address: untested(address) for address in distinct}
    judge = _judge(access_token, granted, delegated, purpose, reaches_others=reaches_others)
    outcomes: dict[str, Probe] = {}
    refused: dict[str, Verdict] = {}
    opened = distinct
    # A person may have access to the inbox only. Its properties can be read then, but not the rest of the mailbox.
    for number, path in enumerate(purpose.paths):
        pending, opened = opened, []
        for address, verdict in _read(cloud, access_token, pending, path):
            if verdict.kind is Kind.OK:
                opened.append(address)
            elif number:
                outcomes[address] = judge.half_open(address, verdict)
            else:
                refused[address] = verdict
    outcomes |= dict.fromkeys(opened, REACHABLE)
    if opened and not judge.delegated and not judge.has_permission:
        judge = replace(judge, reaches_others=True)
    doubtful = [address for address, verdict in refused.items() if judge.is_doubtful(verdict)]
    accounts = _look_up(cloud, access_token, judge, doubtful)
    for address, verdict in refused.items():
        outcomes[address] = judge.refused(address, verdict, accounts.get(address))
    return {address: outcomes[address] for address in distinct}


def send_test(
    cloud: Cloud,
    access_token: str,
    address: str,
    *,
    granted: Iterable[str] | None = None,
    delegated: bool | None = None,
) -> Probe:
    """Send a short message from the mailbox to itself, because only a real message shows whether sending works.

    Source: graph/api/user-sendmail (202 without a body). No response from Microsoft raises an error.
    """
    judge = _judge(access_token, granted, delegated, SEND)
    message = {
        "subject": "Test message from the connection portal",
        "body": {"contentType": "Text", "content": "This message tests whether sending works. You can ignore it."},
        "toRecipients": [{"emailAddress": {"address": address}}],
    }
    body = json.dumps({"message": message, "saveToSentItems": False}).encode()
    path = f"users/{quote(address, safe='@')}/sendMail"
    response = http.client().send(graph_client.request(cloud, access_token, path, address, body=body))
    verdict = OK if response.status == 202 else _verdict(response)
    return REACHABLE if verdict.kind is Kind.OK else judge.not_sent(address, verdict)


def _judge(
    access_token: str,
    granted: Iterable[str] | None,
    delegated: bool | None,
    purpose: Purpose,
    *,
    reaches_others: bool = False,
) -> ProbeJudgement:
    claims = token_endpoint.unverified_claims(access_token)
    if delegated is None:
        delegated = "scp" in claims
    if granted is None:
        granted = str(claims.get("scp", "")).split() if delegated else token_endpoint.roles(access_token)
    # Microsoft: optional-claims-reference (``acct``), access-token-claims-reference (``idp`` only for accounts from
    # another tenant). Without these claims the account is assumed to be a member.
    guest = str(claims.get("acct")) == "1" or ("idp" in claims and "scp" in claims)
    return ProbeJudgement(purpose, delegated, frozenset(granted), guest, reaches_others)


def _read(cloud: Cloud, access_token: str, addresses: list[str], path: str) -> Iterator[tuple[str, Verdict]]:
    requests = [
        graph_client.request(cloud, access_token, f"users/{quote(address, safe='@')}/{path}", address)
        for address in addresses
    ]
    for response in graph_client.request_json(requests):
        yield str(response.request.tag), _verdict(response)


def _look_up(cloud: Cloud, access_token: str, judge: ProbeJudgement, addresses: list[str]) -> dict[str, Account]:
    """Look up these addresses in the directory, if the token allows it. Addresses whose request fails are left out."""
    if capabilities.missing(["User.Read.All"], judge.granted):
        return {}
    requests = [graph_client.request(cloud, access_token, _by_address(address), address) for address in addresses]
    return {
        str(response.request.tag): _account(load_json(response.text))
        for response in graph_client.request_json(requests)
        if _verdict(response).kind is Kind.OK
    }


def _by_address(address: str) -> str:
    """Return the path that finds a user by address: user name, primary mail address or any other mail address."""
    value = address.replace("'", "''")
    condition = f"userPrincipalName eq '{value}' or mail eq '{value}' or proxyAddresses/any(p:p eq 'smtp:{value}')"
    return f"users?$filter={quote(condition)}&$select=id,userType,assignedPlans&$top=1"


def _account(answer: dict[str, Any]) -> Account:
    users = answer.get("value")
    if not isinstance(users, list) or not users or not isinstance(users[0], dict):
        return Account(exists=False)
    plans = users[0].get("assignedPlans")
    licensed = any(
        isinstance(plan, dict)
        and plan.get("service") == "exchange"
        and plan.get("capabilityStatus") in ("Enabled", "Warning")
        for plan in (plans if isinstance(plans, list) else [])
    )
    return Account(True, guest=users[0].get("userType") == "Guest", licensed=licensed)


def _verdict(response: http.Response[str]) -> Verdict:
    """Return Graph's verdict. A successful response without an entity or a collection may come from a proxy."""
    verdict = graph_client.verdict(response)
    try:
        answer = load_json(response.text) if verdict.kind is Kind.OK else {"id": ""}
    except ValueError:
        return UNREADABLE
    return verdict if isinstance(answer, dict) and ("id" in answer or "value" in answer) else UNREADABLE
