"""Request tokens for many connections at once. Stores nothing and must not run inside a transaction."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from connections.errors import InvalidInput, UnreadableSecret
from connections.fields import decrypt
from connections.microsoft import http, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import AppCredential, AppRegistration
from connections.models.app_registrations import AuthenticationType
from connections.services.registry import credential_checks
from connections.services.registry.credential_checks import NO_CREDENTIAL


@dataclass(frozen=True, slots=True)
class DueConnection:
    """A claimed connection as read from the database, with its tokens still encrypted."""

    pk: int
    app_registration_id: int
    authentication_type: str
    status: str
    token_version: int
    scopes: str
    refresh_token: str | None = field(repr=False)
    previous_refresh_token: str | None = field(repr=False)
    suspected_code: str
    suspected_at: datetime | None
    trouble_count: int

    @property
    def token_in_use(self) -> str | None:
        """The encrypted refresh token to send: after an ambiguous refusal, the previous one, because it has worked."""
        return (self.suspected_code and self.previous_refresh_token) or self.refresh_token


Answer = token_endpoint.TokenSet | Verdict | UnreadableSecret


@dataclass(slots=True)
class RefreshBatchResult:
    """All answers for the claimed connections of one app registration."""

    app: AppRegistration
    answers: list[tuple[DueConnection, Answer]] = field(default_factory=list)
    # Connections for which no request was sent, because the canary's answer applies to them, too.
    held_back: list[DueConnection] = field(default_factory=list)
    held_back_by: Answer | None = None
    # Credentials that Microsoft rejected before it accepted another one.
    rejected: list[tuple[AppCredential, Verdict]] = field(default_factory=list)
    # Primary keys of the live credentials at the time of the request; None if they could not be read.
    tried: frozenset[int] | None = None


NO_ENVIRONMENT = replace(
    NO_CREDENTIAL,
    code="no-environment",
    cause="The environment of this app registration's tenant is not configured in this portal.",
    action="An operator must configure it again, or an IT admin must register the tenant anew.",
)
UNUSABLE_CREDENTIAL = replace(
    NO_CREDENTIAL,
    code="unusable-credential",
    cause="A certificate of this app registration has a private key that cannot sign.",
    action="Replace the certificate of the app registration.",
    credential=True,
)

Client = tuple[AppCredential, token_endpoint.Application]
Tag = tuple[int, int, DueConnection]  # app registration ID, index of the credential, connection


def request_tokens(batch: list[DueConnection]) -> list[RefreshBatchResult]:
    """Request tokens, starting with one canary per app. Microsoft's and network errors are returned, not raised."""
    by_app: dict[int, list[DueConnection]] = defaultdict(list)
    for due in batch:
        by_app[due.app_registration_id].append(due)
    apps = AppRegistration.objects.select_related("tenant").in_bulk(list(by_app))
    results = {pk: RefreshBatchResult(app) for pk, app in apps.items()}
    clients: dict[int, list[Client]] = {}
    for pk, result in results.items():
        try:
            clients[pk] = credential_checks.live_applications(result.app)
        except UnreadableSecret as error:
            _hold_back(result, by_app[pk], error)
            continue
        except InvalidInput:
            _hold_back(result, by_app[pk], NO_ENVIRONMENT)
            continue
        result.tried = frozenset(credential.pk for credential, _ in clients[pk])
        if not clients[pk]:
            _hold_back(result, by_app[pk], NO_CREDENTIAL)
    accepted = _send_canaries(results, clients, by_app)
    others = (((pk, 0, due), client) for pk, client in accepted.items() for due in by_app[pk][1:])
    for (pk, _, due), answer in _send_all(others):
        results[pk].answers.append((due, answer))
    return list(results.values())


def _send_canaries(
    results: dict[int, RefreshBatchResult], clients: dict[int, list[Client]], by_app: dict[int, list[DueConnection]]
) -> dict[int, Client]:
    """Try one connection per app with each credential in turn; return the clients that the others should use."""
    accepted: dict[int, Client] = {}
    queue = [(pk, 0) for pk, live in clients.items() if live]
    while queue:
        retries: list[tuple[int, int]] = []
        canaries = (((pk, number, by_app[pk][0]), clients[pk][number]) for pk, number in queue)
        for (pk, number, due), answer in _send_all(canaries):
            live = clients[pk]
            if isinstance(answer, Verdict) and answer.credential and number + 1 < len(live):
                results[pk].rejected.append((live[number][0], answer))
                retries.append((pk, number + 1))
                continue
            results[pk].answers.append((due, answer))
            if isinstance(answer, Verdict) and (answer.app_wide or answer.kind in (Kind.TRANSIENT, Kind.THROTTLED)):
                _hold_back(results[pk], by_app[pk][1:], answer)
            else:
                accepted[pk] = live[number]
        queue = retries
    return accepted


def _send_all(jobs: Iterator[tuple[Tag, Client]]) -> Iterator[tuple[Tag, Answer]]:
    unsent: list[tuple[Tag, Answer]] = []

    def requests() -> Iterator[http.Request[Tag]]:
        for tag, (_, application) in jobs:
            try:
                due = tag[2]
                if due.authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
                    yield token_endpoint.client_credentials_request(application, tag)
                elif due.token_in_use is None:
                    action = "Its owner must sign in again."
                    unsent.append((tag, UnreadableSecret("This connection has no refresh token.", action=action)))
                else:
                    token = decrypt(due.token_in_use)
                    yield token_endpoint.refresh_request(application, token, due.scopes.split(), tag)
            except UnreadableSecret as error:
                unsent.append((tag, error))
            except (ValueError, TypeError):
                # One unusable private key must not stop the requests of other app registrations.
                unsent.append((tag, UNUSABLE_CREDENTIAL))

    for response in http.client().send_all(requests()):
        if response.request.tag is not None:
            yield response.request.tag, token_endpoint.read_answer(response)
    yield from unsent


def _hold_back(result: RefreshBatchResult, dues: list[DueConnection], answer: Answer) -> None:
    result.held_back.extend(dues)
    result.held_back_by = answer
