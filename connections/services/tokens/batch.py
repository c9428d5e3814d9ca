"""One claimed batch: the requests to send, their order, and Microsoft's responses. Stores nothing.

First, one canary per app registration is sent, with each credential in turn, then one canary per tenant with the
accepted credential, then all other requests. Connections to which a canary's refusal also applies are held back.
"""

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace

from django.utils import timezone

from connections.errors import InvalidInput, MicrosoftRefused, UnreadableSecret
from connections.microsoft import http, resources, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import AppConsent, AppCredential
from connections.services.registry import app_consents, credential_checks
from connections.services.registry.credential_checks import NO_CREDENTIAL, PROPAGATING
from connections.services.tokens.batch_results import Answer, DueConnection, RefreshBatchResult

# If a request could not be sent within this time, its connection is left to the next claim. Together with the time that
# a request may take, this is shorter than the lease (scheduler.py).
SEND_WITHIN = 200.0  # seconds

Client = tuple[AppCredential, token_endpoint.Application]

NO_ENVIRONMENT = replace(
    NO_CREDENTIAL,
    code="no-environment",
    cause="The environment of this app registration's tenant isn't configured in this portal.",
    action="An operator needs to configure it again, or an IT admin needs to add the tenant again.",
)
UNUSABLE_CREDENTIAL = replace(
    NO_CREDENTIAL,
    code="unusable-credential",
    cause="A certificate of this app registration has a private key that can't sign.",
    action="Replace the certificate of the app registration.",
    credential=True,
)


@dataclass(slots=True)
class Job:
    """One request to send."""

    batch: "Batch"
    due: DueConnection
    number: int  # index of the credential, in the order in which they are tried
    is_canary: bool
    token: str | None = field(default=None, repr=False)  # the refresh token that was sent


@dataclass(frozen=True, slots=True)
class Stop:
    """A refusal that applies to all connections of the app registration.

    With ``in_tenant``, it applies only to those of this consent.
    """

    consent: AppConsent
    in_tenant: bool
    answer: Answer

    def applies_to(self, consent: AppConsent) -> bool:
        if self.in_tenant:
            return consent.pk == self.consent.pk
        return consent.app_registration_id == self.consent.app_registration_id


class Batch:
    """The state of one claimed batch. Reads its app registrations and their credentials from the database."""

    def __init__(self, dues: list[DueConnection]) -> None:
        groups: dict[int, list[DueConnection]] = defaultdict(list)
        for due in dues:
            groups[due.app_consent_id].append(due)
        consents = AppConsent.objects.select_related("app_registration__tenant", "tenant").in_bulk(list(groups))
        self._groups = groups
        self._results = {pk: RefreshBatchResult(consent) for pk, consent in consents.items()}
        self._templates: dict[tuple[object, ...], token_endpoint.RequestTemplate] = {}
        self._canaries: deque[Job] = deque()
        self._others: deque[Job] = deque()
        self._unanswered = 0
        self._open_canaries = 0
        self._send_until = time.monotonic() + SEND_WITHIN
        self.held = self.held_bytes = 0  # number and size of the responses that have not been collected yet
        by_app: dict[int, list[int]] = defaultdict(list)
        for pk, consent in consents.items():
            by_app[consent.app_registration_id].append(pk)
        self._clients = {app: self._live_clients([self._results[pk] for pk in pks]) for app, pks in by_app.items()}
        # The other tenants of each app, where nothing is sent until the app's first canary has a response.
        self._waiting = {app: pks[1:] for app, pks in by_app.items()}
        for app, pks in by_app.items():
            if self._clients[app]:
                self._add_canary(pks[0], 0)

    @property
    def is_done(self) -> bool:
        return not (self._canaries or self._others or self._unanswered)

    @property
    def is_past_canaries(self) -> bool:
        return not self._open_canaries

    @property
    def unsent_count(self) -> int:
        return len(self._others)

    def take(self, *, canary: bool = False) -> http.Request[Job] | None:
        """Return the next request (or the next canary) to send, or None if there is none at the moment."""
        jobs = self._canaries if canary else self._others
        while jobs:
            job = jobs.popleft()
            if time.monotonic() > self._send_until:
                self._drop(job)
                continue
            request = self._request(job)
            if isinstance(request, http.Request):
                self._unanswered += 1
                return request
            self._settle(job, request)
        return None

    def receive(self, response: http.Response[Job]) -> Stop | None:
        """Process a response. Returns a Stop if others would be refused for the same reason, otherwise None."""
        job = response.request.tag
        assert job is not None  # noqa: S101 - each request of a batch has one
        self._unanswered -= 1
        self.held += 1
        self.held_bytes += len(response.body)
        answer = self._read(response, job)
        self._settle(job, answer)
        if not isinstance(answer, Verdict) or not (answer.app_wide or answer.kind is Kind.THROTTLED):
            return None
        # A canary may still be accepted with its other credentials. It holds back other connections itself.
        return None if job.is_canary else Stop(self._result(job).consent, _is_about_tenant(answer), answer)

    def hold_back(self, stop: Stop) -> None:
        """Send no more requests to which the refusal applies."""
        kept: deque[Job] = deque()
        for job in self._others:
            result = self._result(job)
            if stop.applies_to(result.consent):
                result.hold_back([job.due], stop.answer)
            else:
                kept.append(job)
        self._others = kept

    def drop_unsent(self) -> None:
        """Send no more requests at all."""
        self._send_until = 0.0
        for jobs in (self._canaries, self._others):
            while jobs:
                self._drop(jobs.popleft())

    def collect(self) -> list[RefreshBatchResult]:
        """Return the results since the last call."""
        results = list(self._results.values())
        self._results = {pk: RefreshBatchResult(r.consent, tried=r.tried) for pk, r in self._results.items()}
        self.held = self.held_bytes = 0
        return results

    def _result(self, job: Job) -> RefreshBatchResult:
        return self._results[job.due.app_consent_id]

    def _live_clients(self, of_app: list[RefreshBatchResult]) -> list[Client]:
        """Return an app's clients, one per credential. If there is none, its connections are held back."""
        answer: Answer = NO_CREDENTIAL
        clients: list[Client] = []
        try:
            clients = credential_checks.live_applications(of_app[0].app)
            for result in of_app:
                result.tried = frozenset(credential.pk for credential, _ in clients)
        except UnreadableSecret as error:
            answer = error
        except InvalidInput:
            answer = NO_ENVIRONMENT
        for result in of_app if not clients else ():
            result.hold_back(self._groups[result.consent.pk], answer)
        return clients

    def _add_canary(self, consent_pk: int, number: int) -> None:
        self._open_canaries += 1
        self._canaries.append(Job(self, self._groups[consent_pk][0], number, is_canary=True))

    def _drop(self, job: Job) -> None:
        result = self._result(job)
        result.unsent.append(job.due)
        if job.is_canary:
            self._open_canaries -= 1
            result.unsent.extend(self._groups[job.due.app_consent_id][1:])
            for pk in self._waiting.pop(result.consent.app_registration_id, ()):
                self._results[pk].unsent.extend(self._groups[pk])

    def _request(self, job: Job) -> http.Request[Job] | Answer:
        """Return the request, or the reason why there is none.

        One unusable credential must not stop the requests of other app registrations.
        """
        try:
            template = self._template(job)
            if job.due.is_app_only:
                return template.request(job)
            job.token = job.due.decrypt_token()
        except UnreadableSecret as error:
            return error
        except InvalidInput as error:
            return no_address(error)
        except MicrosoftRefused as unusable:  # the token file
            return unusable.verdict
        except (ValueError, TypeError):
            return UNUSABLE_CREDENTIAL
        if job.token is None:
            return UnreadableSecret("This connection has no refresh token.", action="The owner needs to sign in again.")
        return template.request(job, job.token)

    def _template(self, job: Job) -> token_endpoint.RequestTemplate:
        """Return the template for the job's request, building it if necessary.

        Raises InvalidInput, MicrosoftRefused, or ValueError or TypeError for an unusable private key.
        """
        due = job.due
        key = (due.app_consent_id, job.number, due.authentication_type, due.scopes, due.resource, *due.hosts.items())
        if key not in self._templates:
            result = self._result(job)
            home = self._client(job)[1]
            application = replace(home, directory_id=result.tenant.authority_id)
            is_graph = due.resource == resources.GRAPH
            audience = None if is_graph else resources.audience(application.cloud, due.resource, due.hosts)
            self._templates[key] = (
                token_endpoint.client_credentials_template(application, audience=audience)
                if due.is_app_only
                else token_endpoint.refresh_template(application, due.scopes.split(), audience=audience)
            )
        return self._templates[key]

    def _client(self, job: Job) -> Client:
        return self._clients[self._result(job).consent.app_registration_id][job.number]

    def _read(self, response: http.Response[Job], job: Job) -> token_endpoint.TokenSet | Verdict:
        answer = self._template(job).read(response)
        if isinstance(answer, Verdict):
            result = self._result(job)
            answer = app_consents.narrowed(answer, result.app, result.tenant)
            answer = credential_checks.unless_propagating(self._client(job)[0], answer, now=timezone.now())
        return answer

    def _settle(self, job: Job, answer: Answer) -> None:
        (self._settle_canary if job.is_canary else self._note)(job, answer)

    def _note(self, job: Job, answer: Answer) -> None:
        result = self._result(job)
        result.answers.append((job.due, answer))
        if job.token is not None and isinstance(answer, token_endpoint.TokenSet):
            result.sent[job.due.pk] = job.token
        if isinstance(answer, Verdict) and answer.credential:
            result.reject(self._client(job)[0], answer)

    def _settle_canary(self, job: Job, answer: Answer) -> None:
        """Try the canary's next credential.

        Without one, the response decides about the other connections of the app.
        """
        self._open_canaries -= 1
        result, consent_pk = self._result(job), job.due.app_consent_id
        if job.number + 1 < len(self._clients[result.app.pk]) and isinstance(answer, Verdict):
            if answer.credential:
                result.reject(self._client(job)[0], answer)
            if answer.credential or answer is PROPAGATING:
                self._add_canary(consent_pk, job.number + 1)
                return
        self._note(job, answer)
        others = self._groups[consent_pk][1:]
        if _stops_others(answer):
            result.hold_back(others, answer)
        else:
            self._others.extend(Job(self, due, job.number, is_canary=False) for due in others)
            if isinstance(answer, Verdict | token_endpoint.TokenSet):
                result.accepted = self._client(job)[0]
        for other in self._waiting.pop(result.app.pk, ()):
            if _stops_others(answer) and not _is_about_tenant(answer):
                self._results[other].hold_back(self._groups[other], answer)
            else:
                self._add_canary(other, job.number)


def no_address(error: InvalidInput) -> Verdict:
    """Return the verdict for a resource for which the connection has no address, so that no token can be requested."""
    return replace(NO_CREDENTIAL, code="no-address", cause=error.cause, action=error.action, app_wide=False)


def _stops_others(answer: Answer) -> bool:
    """Whether the app's other connections in this tenant would get the same response as its canary."""
    return isinstance(answer, Verdict) and (answer.app_wide or answer.kind in (Kind.TRANSIENT, Kind.THROTTLED))


def _is_about_tenant(answer: Answer) -> bool:
    """Whether the app's connections in other tenants may get a different response."""
    return isinstance(answer, Verdict) and (answer.tenant_wide or answer.kind is Kind.THROTTLED)
