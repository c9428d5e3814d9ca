"""Asks Microsoft Graph whether an access token really reaches a shared mailbox.

Only asking is decisive: a scope without a right in Exchange opens nothing, and a right that Exchange gives to an
application does not show in its token (Microsoft: outlook-share-messages-folders, application-rbac).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from connections.microsoft import capabilities, http, tokens
from connections.microsoft.clouds import Cloud
from connections.microsoft.errors import Kind, Verdict, Who, classify, transport_failure

# Outlook takes four requests at a time from one application (Microsoft Graph: throttling-limits).
IN_FLIGHT = 4
# Neither says anything about the mailbox: the token ran out, Microsoft is busy or down, or the answer is not Graph's.
_SAYS_NOTHING = frozenset({Kind.REAUTH, Kind.TRANSIENT, Kind.THROTTLED})


class Reach(StrEnum):
    """Whether a mailbox could be read; the values are those of MailboxAccess.State."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """The outcome for one mailbox. ``code`` is Microsoft's; the sentences are ours and empty if all is well."""

    state: Reach
    code: str = ""
    cause: str = ""
    action: str = ""
    who: Who = Who.NOBODY


REACHABLE = Probe(Reach.REACHABLE)
UNREADABLE = Verdict(
    Kind.TRANSIENT,
    "unreadable",
    "An answer came that is not one of Microsoft Graph, or was cut short.",
    "The portal tries again by itself; if it stays so, an IT admin should look for a proxy in between.",
    Who.NOBODY,
)


def probe_mailboxes(
    cloud: Cloud,
    access_token: str,
    addresses: Iterable[str],
    *,
    granted: Iterable[str] | None = None,
    delegated: bool | None = None,
) -> dict[str, Probe]:
    """Read the inbox's header and one message id of each mailbox, and say what is missing where that fails.

    ``granted`` (scopes or roles) and ``delegated`` make the sentences exact; left out, they are read from the token.
    Never raises for an answer of Microsoft; an outage, throttling or a rejected token is "unknown", never
    "unreachable". Blocks for at most two requests per four addresses.
    """
    wanted = list(dict.fromkeys(addresses))
    claims = tokens.unverified_claims(access_token) if granted is None or delegated is None else {}
    if delegated is None:
        delegated = "scp" in claims
    if granted is None:
        granted = str(claims.get("scp", "")).split() if delegated else tokens.roles(access_token)
    judge = _Judge(delegated, frozenset(granted))
    found: dict[str, Probe] = {}
    opened = []
    for address, verdict in _ask(cloud, access_token, wanted, "mailFolders/inbox?$select=id"):
        if verdict.kind is Kind.OK:
            opened.append(address)
        else:
            found[address] = judge.refused(address, verdict)
    # A person may have been given the inbox alone: then its header can be read, but not the mailbox.
    for address, verdict in _ask(cloud, access_token, opened, "messages?$top=1&$select=id"):
        found[address] = REACHABLE if verdict.kind is Kind.OK else judge.half_open(address, verdict)
    return {address: found[address] for address in wanted}


def _ask(cloud: Cloud, access_token: str, addresses: list[str], what: str) -> Iterator[tuple[str, Verdict]]:
    for start in range(0, len(addresses), IN_FLIGHT):
        few = addresses[start : start + IN_FLIGHT]
        for response in http.client().send_all([_request(cloud, access_token, address, what) for address in few]):
            yield str(response.request.tag), _verdict(response)


def _request(cloud: Cloud, access_token: str, address: str, what: str) -> http.Request[str]:
    return http.Request(
        "GET",
        f"{cloud.graph}/v1.0/users/{quote(address, safe='@')}/{what}",
        headers=(
            ("Authorization", f"Bearer {access_token}"),
            ("Accept", "application/json"),
            ("client-request-id", str(uuid.uuid4())),
        ),
        tag=address,
    )


def _verdict(response: http.Response[str]) -> Verdict:
    if response.status == 0:
        return transport_failure(response.failure)
    verdict = classify(where="graph", status=response.status, headers=response.headers, body=response.text)
    return UNREADABLE if verdict.kind is Kind.OK and not _is_whole(response.text) else verdict


def _is_whole(text: str) -> bool:
    """Whether it is an entity or a collection of Graph; a good status alone may come from some proxy."""
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return isinstance(answer, dict) and ("id" in answer or "value" in answer)


# Codes that say nothing more than "you may not", whatever the reason (Microsoft Graph answers 404 as well as 403).
_REFUSED = frozenset({"ErrorAccessDenied", "ErrorItemNotFound", "ErrorFolderNotFound", "accessDenied", "http-403"})
_NO_PERMISSION = frozenset({"NoPermissionsInAccessToken", "Authorization_RequestDenied"})
_NOT_HERE = frozenset({"ErrorInvalidUser", "Request_ResourceNotFound", "ErrorNonExistentMailbox"})
_NO_MAILBOX = frozenset(
    {"MailboxNotEnabledForRESTAPI", "MailboxNotHostedInExchangeOnline", "ResourceNotFound", "ErrorMissingEmailAddress"}
)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Turns verdicts into what is missing, knowing what the connection was granted."""

    delegated: bool
    granted: frozenset[str]

    def refused(self, address: str, verdict: Verdict) -> Probe:
        """The inbox could not be read."""
        code = verdict.code
        if verdict.kind in _SAYS_NOTHING:
            return Probe(Reach.UNKNOWN, code, verdict.cause, verdict.action, verdict.who)
        if code in _NOT_HERE:
            return self._no(
                code,
                f"There is no mailbox {address} in this directory.",
                "Check the address; if the mailbox belongs to another directory, use a connection to that one.",
            )
        if code in _NO_MAILBOX:
            return self._no(
                code,
                f"{address} exists but has no mailbox in Exchange Online: it has none, has no licence, "
                "or lives on the organisation's own server.",
                "An Exchange administrator must check the mailbox.",
            )
        if code in _REFUSED | _NO_PERMISSION and verdict.kind is not Kind.POLICY:
            return self._may_not(address, verdict)
        return Probe(Reach.UNREACHABLE, code, verdict.cause, verdict.action, verdict.who)

    def half_open(self, address: str, verdict: Verdict) -> Probe:
        """The inbox could be read, the mailbox could not."""
        if verdict.kind in _SAYS_NOTHING or verdict.code not in _REFUSED:
            return self.refused(address, verdict)
        return self._no(
            verdict.code,
            f"Only the inbox folder of {address} is shared with this account, not the whole mailbox.",
            "An Exchange administrator must give the account Full Access to the mailbox.",
        )

    def _may_not(self, address: str, verdict: Verdict) -> Probe:
        if self.delegated:
            if not capabilities.reads_shared_mailboxes(self.granted):
                return self._no(
                    verdict.code,
                    "The connection lacks the permission Mail.Read.Shared, "
                    f"without which it cannot look into {address}.",
                    "The owner must add the capability “Read shared mailboxes” or “Start on new mail in a shared "
                    "mailbox” to the connection and sign in again.",
                    Who.OWNER,
                )
            return self._no(
                verdict.code,
                f"The connected account has no access to {address} in Exchange.",
                "An Exchange administrator must give the account Full Access to the mailbox.",
            )
        if verdict.kind is Kind.MAILBOX and verdict.code == "ErrorAccessDenied":
            return self._no(
                verdict.code,
                f"A policy in Exchange keeps this application away from {address}.",
                "An Exchange administrator must add the mailbox to those the application may reach.",
            )
        if capabilities.missing(("Mail.Read",), self.granted):
            return self._no(
                verdict.code,
                f"The application may not read {address}: the application permission Mail.Read is not granted.",
                "An IT admin must grant it to the app registration, "
                "or an Exchange administrator must let the application into this mailbox.",
            )
        return self._no(
            verdict.code,
            f"Exchange does not let this application into {address}, although Mail.Read is granted.",
            "An Exchange administrator must add the mailbox to those the application may reach.",
        )

    @staticmethod
    def _no(code: str, cause: str, action: str, who: Who = Who.IT_ADMIN) -> Probe:
        return Probe(Reach.UNREACHABLE, code, cause, action, who)
