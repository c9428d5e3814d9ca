"""Claimed connections, and Microsoft's responses for them."""

from dataclasses import dataclass, field
from datetime import datetime

from connections.errors import UnreadableSecret
from connections.fields import secret_field
from connections.microsoft import token_endpoint
from connections.microsoft.classifier import Verdict
from connections.models import AppConsent, AppCredential, AppRegistration, Connection, Tenant
from connections.models.app_registrations import AuthenticationType

_REFRESH_TOKEN = secret_field(Connection, "refresh_token")
_PREVIOUS_REFRESH_TOKEN = secret_field(Connection, "previous_refresh_token")


@dataclass(frozen=True, slots=True)
class DueConnection:
    """A claimed connection as read from the database, with its tokens still encrypted."""

    pk: int
    identity: str
    app_consent_id: int
    authentication_type: str
    status: str
    token_version: int
    scopes: str
    refresh_token: str | None = field(repr=False)
    previous_refresh_token: str | None = field(repr=False)  # only while ``suspected_code`` is set
    suspected_code: str
    suspected_at: datetime | None
    trouble_count: int
    account_tid: str
    account_oid: str
    account_username: str
    account_name: str
    resource: str
    hosts: dict[str, str]

    @property
    def is_app_only(self) -> bool:
        return self.authentication_type == AuthenticationType.CLIENT_CREDENTIALS

    def decrypt_token(self) -> str | None:
        """Return the refresh token to send. After an ambiguous refusal this is the previous one, because it has worked.

        Raises UnreadableSecret.
        """
        if self.suspected_code and self.previous_refresh_token:
            return _PREVIOUS_REFRESH_TOKEN.decrypt(self.previous_refresh_token, self.identity)
        return self.refresh_token and _REFRESH_TOKEN.decrypt(self.refresh_token, self.identity)


Answer = token_endpoint.TokenSet | Verdict | UnreadableSecret


@dataclass(slots=True)
class RefreshBatchResult:
    """The results for the claimed connections of one app registration in one tenant."""

    consent: AppConsent  # as read before the requests
    answers: list[tuple[DueConnection, Answer]] = field(default_factory=list)
    # The refresh tokens that were sent, by connection. App-only connections have none.
    sent: dict[int, str] = field(default_factory=dict, repr=False)
    # Connections for which no request was sent, because the response for another connection applies to them too.
    held_back: list[DueConnection] = field(default_factory=list)
    held_back_by: Answer | None = None
    # Connections for which no request was sent, because there was no time left or the process is stopping.
    unsent: list[DueConnection] = field(default_factory=list)
    # Credentials that Microsoft rejected, and the one that it accepted.
    rejected: list[tuple[AppCredential, Verdict]] = field(default_factory=list)
    accepted: AppCredential | None = None
    # Primary keys of the live credentials at the time of the requests. None if they could not be read.
    tried: frozenset[int] | None = None

    @property
    def app(self) -> AppRegistration:
        return self.consent.app_registration

    @property
    def tenant(self) -> Tenant:
        return self.consent.tenant

    @property
    def dues(self) -> list[DueConnection]:
        return [*(due for due, _ in self.answers), *self.held_back, *self.unsent]

    def hold_back(self, dues: list[DueConnection], answer: Answer) -> None:
        self.held_back.extend(dues)
        self.held_back_by = answer

    def reject(self, credential: AppCredential, verdict: Verdict) -> None:
        if not any(known.pk == credential.pk for known, _ in self.rejected):
            self.rejected.append((credential, verdict))
