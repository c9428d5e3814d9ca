"""Asking Microsoft about many connections at once. Nothing is written here, and no transaction is open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from connections.errors import InvalidInput, UnreadableSecret
from connections.fields import decrypt
from connections.microsoft import http, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import AppCredential, AppRegistration
from connections.models.app_registrations import AuthenticationType
from connections.services.registry import credential_checks


@dataclass(frozen=True, slots=True)
class DueConnection:
    """A claimed connection, as read. Tokens are still encrypted."""

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
        """The encrypted refresh token to send: after a doubtful answer, the one that worked before that."""
        return (self.suspected_code and self.previous_refresh_token) or self.refresh_token


Answer = token_endpoint.TokenSet | Verdict | UnreadableSecret


@dataclass(slots=True)
class RefreshBatchResult:
    """All answers of one app registration's claimed connections."""

    app: AppRegistration
    answers: list[tuple[DueConnection, Answer]] = field(default_factory=list)
    # Connections nobody was asked about, because the canary already told what is wrong for all of them.
    held_back: list[DueConnection] = field(default_factory=list)
    held_back_by: Answer | None = None
    # Credentials Microsoft rejected on the way to one that it accepts, with its words.
    rejected: list[tuple[AppCredential, Verdict]] = field(default_factory=list)
    # Primary keys of the credentials there were when Microsoft was asked; None if it did not come to that.
    tried: frozenset[int] | None = None


NO_CREDENTIAL = Verdict(
    kind=Kind.APP_CONFIG,
    code="no-credential",
    cause="This app registration has no client secret or certificate, so Microsoft cannot be asked.",
    action="Add a client secret or a certificate to the app registration.",
    who=Who.IT_ADMIN,
    certain=True,
    app_wide=True,
)

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


def request_tokens(batch: list[DueConnection]) -> list[RefreshBatchResult]:
    """Ask about claimed connections: one canary per app registration first, then the others, all concurrently.

    Never raises for what Microsoft or the network does; every claimed connection is accounted for.
    """
    by_app: dict[int, list[DueConnection]] = defaultdict(list)
    for due in batch:
        by_app[due.app_registration_id].append(due)
    apps = AppRegistration.objects.select_related("tenant").in_bulk(list(by_app))
    asked = {pk: RefreshBatchResult(app) for pk, app in apps.items()}
    clients: dict[int, list[Client]] = {}
    for pk, app in apps.items():
        try:
            clients[pk] = credential_checks.live_applications(app)
        except UnreadableSecret as error:
            _hold_back(asked[pk], by_app[pk], error)
            continue
        except InvalidInput:
            _hold_back(asked[pk], by_app[pk], NO_ENVIRONMENT)
            continue
        asked[pk].tried = frozenset(credential.pk for credential, _ in clients[pk])
        if not clients[pk]:
            _hold_back(asked[pk], by_app[pk], NO_CREDENTIAL)
    fit = _send_canaries(asked, clients, by_app)
    _send_others(asked, fit, by_app)
    return list(asked.values())


def _send_canaries(
    asked: dict[int, RefreshBatchResult], clients: dict[int, list[Client]], by_app: dict[int, list[DueConnection]]
) -> dict[int, Client]:
    """One connection of each app registration; a rejected credential falls through to the next one.

    Returns the client to go on with, for every app registration whose canary did not condemn the rest.
    """
    fit: dict[int, Client] = {}
    queue = [(pk, 0) for pk, live in clients.items() if live]
    while queue:
        following: list[tuple[int, int]] = []
        canaries = ((pk, number, by_app[pk][0], clients[pk][number]) for pk, number in queue)
        for (pk, number, due), answer in _answers(canaries):
            live = clients[pk]
            if isinstance(answer, Verdict) and answer.credential and number + 1 < len(live):
                asked[pk].rejected.append((live[number][0], answer))
                following.append((pk, number + 1))
                continue
            asked[pk].answers.append((due, answer))
            if _condemns(answer):
                _hold_back(asked[pk], by_app[pk][1:], answer)
            else:
                fit[pk] = live[number]
        queue = following
    return fit


def _send_others(
    asked: dict[int, RefreshBatchResult], fit: dict[int, Client], by_app: dict[int, list[DueConnection]]
) -> None:
    others = ((pk, 0, due, client) for pk, client in fit.items() for due in by_app[pk][1:])
    for (pk, _, due), answer in _answers(others):
        asked[pk].answers.append((due, answer))


def _answers(
    errands: Iterator[tuple[int, int, DueConnection, Client]],
) -> Iterator[tuple[tuple[int, int, DueConnection], Answer]]:
    unsent: list[tuple[tuple[int, int, DueConnection], Answer]] = []

    def requests() -> Iterator[http.Request[tuple[int, int, DueConnection]]]:
        for pk, number, due, (_, application) in errands:
            tag = (pk, number, due)
            try:
                yield build_request(due, application, tag)
            except UnreadableSecret as error:
                unsent.append((tag, error))
            except (ValueError, TypeError):
                # One certificate's key must not stop everybody else's requests.
                unsent.append((tag, UNUSABLE_CREDENTIAL))

    for response in http.client().send_all(requests()):
        if response.request.tag is not None:
            yield response.request.tag, token_endpoint.read_answer(response)
    yield from unsent


def build_request(
    due: DueConnection, application: token_endpoint.Application, tag: tuple[int, int, DueConnection]
) -> http.Request[tuple[int, int, DueConnection]]:
    """The token request of one connection. Raises UnreadableSecret if its refresh token cannot be opened."""
    if due.authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
        return token_endpoint.client_credentials_request(application, tag)
    if due.token_in_use is None:
        raise UnreadableSecret("This connection has no refresh token.", action="Its owner must sign in again.")
    return token_endpoint.refresh_request(application, decrypt(due.token_in_use), due.scopes.split(), tag)


def _condemns(answer: Answer) -> bool:
    """Whether one answer tells what all other connections of the same app registration would get."""
    return isinstance(answer, Verdict) and (answer.app_wide or answer.kind in (Kind.TRANSIENT, Kind.THROTTLED))


def _hold_back(refresh_batch_result: RefreshBatchResult, dues: list[DueConnection], answer: Answer) -> None:
    refresh_batch_result.held_back.extend(dues)
    refresh_batch_result.held_back_by = answer
