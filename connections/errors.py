"""The portal's exceptions. Each has a ``code`` for programs, and two sentences: what happened and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connections.fields import Place
    from connections.microsoft.classifier import Verdict


class PortalError(Exception):
    """The base of all errors that people and programs may see."""

    code = "error"
    status = 400
    cause = "Something went wrong."
    action = "Try again. If it happens again, contact an IT admin."
    # Who can fix the error, if its type determines that: owner, it_admin, microsoft or nobody.
    who = ""
    # Seconds after which a program may try again; None if waiting doesn't help.
    retry_after: int | None = None

    def __init__(self, cause: str = "", *, action: str = "", field: str = "") -> None:
        self.cause = cause or self.cause
        self.action = action or self.action
        # The form field of the invalid value, if any.
        self.field = field
        super().__init__(self.cause)

    def __str__(self) -> str:
        return f"{self.cause} {self.action}".strip()


class NotAllowed(PortalError):
    """The person may see the object, but may not do this."""

    code = "not_allowed"
    status = 403
    cause = "You don't have permission to change this."
    action = "Ask its owner or an IT admin."
    who = "owner"


class UnknownParameter(PortalError):
    """The endpoint doesn't know a query parameter; ``action`` lists the known ones."""

    code = "unknown_parameter"
    cause = "The request contains an unknown query parameter."


class PolicyForbids(PortalError):
    """The policy does not allow this. ``cause`` contains the rule."""

    code = "policy_forbids"
    status = 403
    who = "it_admin"
    cause = "The organisation's policy doesn't allow this."
    action = "An IT admin can change the policy."


class ApprovalNeeded(PortalError):
    """The policy requires an IT admin's approval first. ``cause`` contains the rule."""

    code = "approval_needed"
    status = 409
    who = "it_admin"
    cause = "An IT admin needs to approve this first."
    action = "Request approval on the connection's page."


class Conflict(PortalError):
    """The object was changed in the meantime, so the decision is outdated. Nothing was changed."""

    code = "changed_meanwhile"
    status = 409
    cause = "This was changed by someone else."
    action = "Refresh the page, then decide."


class InvalidInput(PortalError):
    """A value is invalid. ``field`` is its field."""

    code = "invalid_input"
    cause = "This value isn't valid."
    action = ""


class AlreadyExists(InvalidInput):
    code = "already_exists"
    status = 409


class InUse(PortalError):
    """The object cannot be removed, because other objects still use it."""

    code = "still_in_use"
    status = 409


class AmbiguousName(PortalError):
    code = "ambiguous_name"
    status = 409
    cause = "Several connections have this name."
    action = "Use the connection ID instead."


class NothingToCheck(PortalError):
    code = "nothing_to_check"
    status = 409
    cause = "Nobody has signed in for this connection yet, or it is disabled."
    action = "Sign in or enable the connection first."


class InvalidApiKey(PortalError):
    """The API key is unknown, revoked or expired. The response does not say which."""

    code = "bad_key"
    status = 401
    cause = "This API key isn't valid."
    action = "Send a valid key as “Authorization: Bearer …”. You can create keys in the portal under API keys."
    who = "owner"


class RateLimited(PortalError):
    """The key or address has made all the calls that are allowed in this minute."""

    code = "rate_limited"
    status = 429
    who = "nobody"
    cause = "You exceeded the allowed number of calls per minute."
    action = "Wait for the time in Retry-After. Keep tokens until they expire instead of requesting one for each call."

    def __init__(self, cause: str = "", *, retry_after: int) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class ConnectionUnusable(PortalError):
    """The connection cannot provide tokens at the moment. ``cause`` and ``action`` explain why."""

    code = "connection_unusable"
    status = 409
    cause = "This connection has no valid access token."
    action = "Open the connection's page to see why and who can fix it."

    def __init__(self, cause: str = "", *, action: str = "", code: str = "") -> None:
        super().__init__(cause, action=action)
        self.code = code or self.code


class ResourceNotGranted(ConnectionUnusable):
    """The connection has no permissions for the resource of the requested token."""

    code = "resource_not_granted"
    who = "owner"
    action = "Add permissions for it on the connection's page, then sign in again."


class TokenNotNarrowed(ConnectionUnusable):
    """Microsoft would issue a token with other permissions than the caller requested."""

    code = "not_narrowed"
    who = "owner"
    action = "Use a connection that has only the permissions you need."


class TokenUnavailable(PortalError):
    code = "microsoft_unavailable"
    status = 503
    who = "microsoft"
    retry_after: int = 15
    cause = "Microsoft didn't issue a token in time, and the stored one has expired."
    action = "Try again in 15 seconds. The portal also retries automatically."


class DatabaseUnavailable(PortalError):
    """The database is unreachable, locked, full or read-only. Nothing was changed."""

    code = "database_unavailable"
    status = 503
    who = "it_admin"
    retry_after: int = 5
    cause = "The portal can't use its database at the moment."
    action = "Try again in a moment. If that fails, an operator needs to check the database."


class UnreadableSecret(PortalError):
    """No configured encryption key decrypts a stored value. Neither Microsoft nor the owner can fix this."""

    code = "encryption_key_missing"
    status = 503
    who = "it_admin"
    cause = "The portal's encryption keys can't decrypt a stored secret."
    action = "An operator needs to add the missing key to FIELD_ENCRYPTION_KEYS. Nothing was changed or sent."

    def __init__(self, cause: str = "", *, action: str = "", key_id: str = "") -> None:
        super().__init__(cause, action=action)
        self.key_id = key_id  # the ID of the missing key; "" if the value has no key ID


class OutdatedKeys(UnreadableSecret):
    """Another process of the portal already has the key, so this process needs to read its settings again."""

    code = "encryption_keys_outdated"
    retry_after: int = 30
    cause = "This process of the portal runs with old encryption keys."
    action = "Try again in half a minute. An operator needs to restart the process, or send it SIGHUP."


class AlteredSecret(UnreadableSecret):
    """A key decrypts the stored value, but the value belongs to another place or was changed."""

    code = "stored_secret_altered"
    cause = "A stored secret was moved or altered in the database, so the portal doesn't use it."
    action = "IT admins and auditors are informed. They need to find out who changed the database."

    def __init__(self, location: Place) -> None:
        super().__init__()
        self.location = location


class MicrosoftRefused(PortalError):
    """Microsoft clearly refused. The verdict says why."""

    code = "microsoft_refused"
    status = 409

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.cause, action=verdict.action)
        self.code = "app_credential_rejected" if verdict.credential else _REFUSALS.get(verdict.kind.value, self.code)
        self.who = verdict.who.value


# The refusal gets the same code as a connection with the resulting status. Programs know these codes from token
# requests.
_REFUSALS = {"reauth": "reconnect_needed", "consent": "consent_needed", "policy": "blocked"}


class MicrosoftUnavailable(MicrosoftRefused):
    """There was no usable response from Microsoft. This says nothing about the grant or the credential."""

    code = TokenUnavailable.code
    status = 503
    who = "microsoft"

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.code, self.who = MicrosoftUnavailable.code, MicrosoftUnavailable.who
        self.retry_after = max(TokenUnavailable.retry_after, math.ceil(verdict.retry_after or 0))


class SignInFailed(PortalError):
    """The base of all errors during a sign-in with Microsoft."""

    code = "sign_in_failed"


class SignInCancelled(SignInFailed):
    code = "cancelled"
    cause = "You cancelled the sign-in at Microsoft, so nothing was connected."
    action = "You can start again at any time."


class SignInExpired(SignInFailed):
    """The callback matches no sign-in in this browser: it was used before, has expired, or began in another browser."""

    code = "sign_in_lost"
    cause = "This sign-in was already used, took longer than 30 minutes, or was started in another browser."
    action = "Nothing was changed. Go back to the connection and start again."


class NoRefreshToken(SignInFailed):
    code = "no_refresh_token"
    cause = "Microsoft issued no refresh token, so the connection would expire within an hour. It wasn't saved."
    action = (
        "An IT admin needs to add the offline_access permission to this app registration and grant consent. "
        "Then connect again."
    )


class WrongAccount(SignInFailed):
    """The person signed in with a different Microsoft account than before."""

    code = "wrong_account"


class AccountReplaced(WrongAccount):
    """A new account with the same name has signed in. An IT admin must confirm it first."""

    code = "account_replaced"
    who = "it_admin"
    action = "The IT admins were asked to confirm the new account. Sign in again when they have."


class WrongTenant(SignInFailed):
    """The account belongs to a different directory than the app registration."""

    code = "wrong_tenant"


class ConsentMissing(SignInFailed):
    """Microsoft granted too few permissions, so an administrator must consent first."""

    code = "consent_needed"
