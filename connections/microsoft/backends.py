"""Two social-auth backends: one for signing in to the portal, one for connecting an account.

Both use the Microsoft identity platform v2.0 with PKCE, state and nonce. Neither stores a token. The strategy holds the
session and decides which client (app registration, directory, credential) is used.
"""

import hmac
import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from social_core.backends.azuread_tenant import AzureADV2TenantOAuth2
from social_core.exceptions import AuthException, AuthSessionError

from connections.microsoft import token_endpoint
from connections.microsoft.classifier import Verdict, classify
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind

SIGN_IN_LIFETIME = 1800  # seconds within which a sign-in must be completed


@dataclass(frozen=True, slots=True)
class SignInClient:
    """The client used for one sign-in, and the scopes it requests."""

    application: token_endpoint.Application
    scopes: tuple[str, ...]
    # prompt, login_hint and domain_hint (identity-platform/v2-oauth2-auth-code-flow)
    extra: dict[str, str]
    # The stored credential in use, so that the caller knows which one was rejected.
    credential_id: int | None = None
    # The resource that the access token is for; None for Microsoft Graph.
    audience: token_endpoint.Audience | None = None


# Errors from Microsoft's "Need admin approval" page. People who return from it have not cancelled on purpose.
NEEDS_ADMIN = ("AADSTS90094", "AADSTS90095")


class MicrosoftSignInRefused(AuthException):
    """Microsoft refused, in the callback or at the token endpoint. Holds the verdict instead of the raw response."""

    def __init__(self, backend: Any, verdict: Verdict, *, cancelled: bool = False, is_proven: bool = False) -> None:
        self.verdict = verdict
        # Whether the portal received the error from Microsoft directly. Anybody can forge an error in a callback.
        self.is_proven = is_proven
        self.cancelled = cancelled
        super().__init__(backend, verdict.code)


class _Microsoft(AzureADV2TenantOAuth2):
    DEFAULT_USE_PKCE = True
    ID_KEY = "oid"
    DEFAULT_SCOPE: list[str] = []
    EXTRA_DATA: list[str] = []

    def get_user(self, user_id: Any) -> Any:
        """Look the user up on every request, so that a person's sessions are suspended as soon as they leave."""
        user = super().get_user(user_id)
        return None if user is None or user.is_suspended else user

    @property
    def client(self) -> SignInClient:
        sign_in_client: SignInClient = self.strategy.sign_in_client(self)
        return sign_in_client

    @property
    def cloud(self) -> Cloud:
        return self.client.application.cloud

    @property
    def tenant_id(self) -> str:
        return self.client.application.directory_id

    @property
    def base_url(self) -> str:
        # social-core would require https, but the sandbox may use plain http if clouds.add_sandbox() considers that
        # safe.
        return self.cloud.authority(self.tenant_id)

    def setting(self, name: str, default: Any = None) -> Any:
        """Return the client's settings from the app registration, and all others from Django's settings."""
        if name == "KEY":
            return self.client.application.client_id
        if name in ("SECRET", "CLIENT_ASSERTION"):
            proof = token_endpoint.client_authentication(self.client.application, self.access_token_url())
            return proof.get("client_secret" if name == "SECRET" else "client_assertion", default)
        return super().setting(name, default)

    def get_scope(self) -> list[str]:
        return token_endpoint.qualified(self.cloud, self.client.scopes, self.client.audience).split()

    def auth_extra_arguments(self) -> dict[str, str]:
        return dict(self.client.extra)

    def get_user_id(self, details: Any, response: dict[str, Any]) -> str:
        """Return directory ID and object ID, which together identify an account permanently.

        Source: identity-platform/id-token-claims-reference.
        """
        return f"{response['tid']}.{response['oid']}"

    def extra_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Store nothing: by default, social-auth would store all three tokens unencrypted."""
        return {}

    def get_provider_error(
        self, data: object, *, stage: str = "callback", status_code: int | None = None, retry_after: str | None = None
    ) -> Exception | None:
        """Classify the whole response, because social-core's own exceptions drop error_codes and suberror."""
        fields = dict(data) if hasattr(data, "keys") else {}  # type: ignore[call-overload]
        if stage == "callback":
            if not fields.get("error"):
                return None
            verdict = classify(where="authorize", status=None, headers=None, body=self.strategy.query_string())
            pressed_cancel = fields.get("error_subcode") == "cancel" and verdict.code not in NEEDS_ADMIN
            cancelled = pressed_cancel or "AADSTS65004" in verdict.code
            return MicrosoftSignInRefused(self, verdict, cancelled=cancelled)
        if status_code is None and not fields.get("error"):
            return None
        headers = {"Retry-After": retry_after} if retry_after else {}
        verdict = classify(
            where="token", status=status_code or 400, headers=headers, body=json.dumps(fields) if fields else ""
        )
        return None if verdict.kind is Kind.OK else MicrosoftSignInRefused(self, verdict, is_proven=True)

    def check_nonce(self, claims: dict[str, Any], expected: object) -> None:
        """Raise AuthSessionError unless the ID token belongs to this sign-in (OpenID Connect Core, 3.1.3.7)."""
        if not isinstance(expected, str) or not hmac.compare_digest(str(claims.get("nonce", "")), expected):
            raise AuthSessionError(self, "nonce", code="state_mismatch", stage="token_validation")


class MicrosoftSignIn(_Microsoft):
    """Sign-in to the portal with Microsoft, configured by LOGIN_MICROSOFT_*."""

    name = "microsoft"

    def auth_params(self, state: str | None = None) -> dict[str, str]:
        parameters: dict[str, str] = super().auth_params(state)
        nonce = secrets.token_urlsafe(32)
        key = self.transaction_key(str(state))
        confirms = bool(self.strategy.confirms)
        self.strategy.session_set(key, {**self.strategy.session_get(key), "nonce": nonce, "confirms": confirms})
        # auth_time is when the person last entered their password (OpenID Connect Core, 2 and 5.5).
        parameters |= {"nonce": nonce, "claims": json.dumps({"id_token": {"auth_time": {"essential": True}}})}
        return {**parameters, "prompt": "login", "max_age": "0"} if confirms else parameters

    def proved_at(self, claims: dict[str, Any], *, now: datetime) -> datetime | None:
        """Return when the person proved their identity to Microsoft; None if that is unknown.

        Entra may leave auth_time out. If the portal required a new sign-in (prompt=login), the person has just signed
        in.
        """
        claimed = claims.get("auth_time")
        if isinstance(claimed, int | float) and not isinstance(claimed, bool):
            return datetime.fromtimestamp(min(claimed, now.timestamp()), UTC)
        return now if (self._oauth2_transaction or {}).get("confirms") else None

    def process_error(self, data: Any, *, stage: str = "callback") -> None:
        """Reject an error in the callback unless it belongs to this browser's sign-in, because anybody can forge such a
        link.
        """
        if stage == "callback" and "error" in data:
            self.validate_state()
        super().process_error(data, stage=stage)

    def validate_and_return_id_token(self, id_token: str) -> dict[str, Any]:
        claims: dict[str, Any] = super().validate_and_return_id_token(id_token)
        self.check_nonce(claims, (self._oauth2_transaction or {}).get("nonce"))
        return claims


class MicrosoftConnect(_Microsoft):
    """The sign-in for a connection. The person stays signed in to the portal; the tokens go to the connection.

    Each sign-in has its own state, so that several tabs don't interfere with each other. The first callback uses up the
    state. ``session[connect_<state>]`` holds user, connection, nonce, verifier and time.
    """

    name = "microsoft-connect"
    ASSOCIATION_ONLY = True

    def prepare_auth(self, user: Any = None) -> None:
        """Prepare a sign-in by ``user`` for the connection that the strategy was given."""
        person = self.require_association_user(user, stage="begin")
        self._state = secrets.token_urlsafe(32)
        self._started = {
            "user": str(person.pk),
            "nonce": secrets.token_urlsafe(32),
            "at": int(time.time()),
            **self.strategy.intent(),
        }
        self.strategy.session_set(f"connect_{self._state}", self._started)

    def get_association_state(self) -> str:
        if not (state := getattr(self, "_state", "")):
            raise AuthSessionError(self, "state", code="session_context_missing", stage="begin")
        return str(state)

    def validate_association_state(self, request_state: Any, user: Any = None) -> str:
        """Use up the sign-in that this callback belongs to, and return its state.

        Raises AuthSessionError if there is no such sign-in, it is too old, or another user began it.
        """
        started = self.strategy.session_pop(f"connect_{request_state}")
        if not isinstance(started, dict) or time.time() - started["at"] > SIGN_IN_LIFETIME:
            raise AuthSessionError(self, "state", code="session_context_missing", stage="callback")
        self.strategy.resume(started)
        person = self.require_association_user(user, stage="callback")
        if started["user"] != str(person.pk):
            self.strategy.forget()
            raise AuthSessionError(self, code="user_mismatch", stage="callback")
        self._started = started
        return str(request_state)

    def require_association_user(self, user: Any, *, stage: str = "user_info") -> Any:
        """Return the signed-in person. For a sign-in link, return a placeholder that cannot sign in."""
        holder = self.strategy.link_holder
        return holder if holder is not None else super().require_association_user(user, stage=stage)

    def create_code_verifier(self, state: str | None = None) -> str:
        verifier = secrets.token_urlsafe(48)
        self._started["verifier"] = verifier
        self.strategy.session_set(f"connect_{state}", self._started)
        return verifier

    def get_code_verifier(self, state: str | None = None) -> str:
        return str(self._started["verifier"])

    def auth_params(self, state: str | None = None) -> dict[str, str]:
        return {**super().auth_params(state), "nonce": self._started["nonce"]}

    def validate_and_return_id_token(self, id_token: str) -> dict[str, Any]:
        claims: dict[str, Any] = super().validate_and_return_id_token(id_token)
        self.check_nonce(claims, self._started["nonce"])
        return claims

    def validate_configured_tenant(self, claims: dict[str, Any]) -> None:
        """Skip social-core's check. The service makes its own check, whose error names the directory."""
