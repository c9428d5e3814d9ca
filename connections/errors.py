"""The portal's exceptions. Each has a ``code`` for machines, a sentence on what happened and one on what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connections.microsoft.classifier import Verdict


class PortalError(Exception):
    """The base of all errors that people and programs may see."""

    code = "error"
    status = 400
    cause = "Something went wrong."
    action = "Try again. If it happens again, tell an IT admin."
    # Who can fix it, if that follows from the type of error: owner, it_admin, microsoft or nobody.
    who = ""
    # Seconds after which a program may try again, if waiting can help.
    retry_after: int | None = None

    def __init__(self, cause: str = "", *, action: str = "", field: str = "") -> None:
        self.cause = cause or self.cause
        self.action = action or self.action
        # The form field that the sentence is about, if any.
        self.field = field
        super().__init__(self.cause)

    def __str__(self) -> str:
        return f"{self.cause} {self.action}".strip()


class NotAllowed(PortalError):
    """The person may see the object, but may not do this."""

    code = "not_allowed"
    status = 403
    cause = "You may see this, but not change it."
    action = "Ask its owner or an IT admin."
    who = "owner"


class UnknownParameter(PortalError):
    """A query parameter is unknown to the endpoint; ``action`` names the known ones."""

    code = "unknown_parameter"
    cause = "There is a query parameter too many."


class PolicyForbids(PortalError):
    """The policy does not allow this; ``cause`` names the rule."""

    code = "policy_forbids"
    status = 403
    who = "it_admin"
    cause = "The organisation's policy forbids this."
    action = "An IT admin can change the policy."


class ApprovalNeeded(PortalError):
    """The policy requires an IT admin's approval first; ``cause`` names the rule."""

    code = "approval_needed"
    status = 409
    who = "it_admin"
    cause = "An IT admin must approve this first."
    action = "Ask for approval on the connection's page."


class Conflict(PortalError):
    """The object was changed in the meantime, so the decision is out of date. Nothing was changed."""

    code = "changed_meanwhile"
    status = 409
    cause = "This was changed meanwhile."
    action = "Look at it again, then decide."


class InvalidInput(PortalError):
    """A value is invalid; ``field`` names its field."""

    code = "invalid_input"
    cause = "This value cannot be used."
    action = ""


class AlreadyExists(InvalidInput):
    code = "already_exists"
    status = 409


class InUse(PortalError):
    """The object cannot be removed, because others still use it."""

    code = "still_in_use"
    status = 409


class AmbiguousName(PortalError):
    code = "ambiguous_name"
    status = 409
    cause = "Several connections have this name."
    action = "Use the number of the one you mean."


class NothingToCheck(PortalError):
    code = "nothing_to_check"
    status = 409
    cause = "There is nothing to check: nobody has signed in for this connection yet, or it is disabled."
    action = "Sign in for it, or enable it first."


class InvalidApiKey(PortalError):
    """The API key is unknown, revoked or expired; the answer does not reveal which."""

    code = "bad_key"
    status = 401
    cause = "This API key is not valid."
    action = "Send a valid key as “Authorization: Bearer …”; keys are made in the portal under API keys."
    who = "owner"


class RateLimited(PortalError):
    """The key or address has used up its calls for this minute."""

    code = "rate_limited"
    status = 429
    who = "nobody"
    cause = "That is more calls in a minute than are allowed."
    action = "Wait as long as Retry-After says, and keep tokens until they end instead of asking for each call."

    def __init__(self, cause: str = "", *, retry_after: int) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class ConnectionUnusable(PortalError):
    """The connection cannot provide tokens at present; ``cause`` and ``action`` explain why."""

    code = "connection_unusable"
    status = 409
    cause = "This connection has no valid access token just now."
    action = "Look at its page: it says why and who can mend it."

    def __init__(self, cause: str = "", *, action: str = "", code: str = "") -> None:
        super().__init__(cause, action=action)
        self.code = code or self.code


class TokenUnavailable(PortalError):
    code = "microsoft_unavailable"
    status = 503
    who = "microsoft"
    retry_after: int = 15
    cause = "Microsoft gave no token in time, and the stored one has ended."
    action = "Try again in a quarter of a minute; the portal keeps trying, too."


class UnreadableSecret(PortalError):
    """No configured encryption key decrypts a stored value. Neither Microsoft nor the owner can fix this."""

    code = "encryption_key_missing"
    status = 503
    who = "it_admin"
    cause = "A stored secret cannot be opened with the encryption keys the portal was started with."
    action = "An operator must add the key it was written with to FIELD_ENCRYPTION_KEYS. Nothing was changed or sent."


class MicrosoftRefused(PortalError):
    """Microsoft clearly refused; the verdict says why."""

    code = "microsoft_refused"
    status = 409

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.cause, action=verdict.action)
        self.code = verdict.kind.value


class MicrosoftUnavailable(MicrosoftRefused):
    """Microsoft gave no usable answer, which says nothing about the grant or credential."""

    status = 503


class SignInFailed(PortalError):
    """The base of all errors during a sign-in at Microsoft."""

    code = "sign_in_failed"


class SignInCancelled(SignInFailed):
    code = "cancelled"
    cause = "You cancelled at Microsoft, so nothing was connected."
    action = "Start again whenever you like."


class SignInExpired(SignInFailed):
    """The callback matches no sign-in in this browser: used before, expired, or started in another browser."""

    code = "sign_in_lost"
    cause = "This sign-in is over: it was already used, took longer than 30 minutes, or was started in another browser."
    action = "Go back to the connection and start again. Nothing was changed."


class NoRefreshToken(SignInFailed):
    code = "no_refresh_token"
    cause = "Microsoft gave no refresh token, so the connection would die within the hour. It was not stored."
    action = (
        "An IT admin must allow the permission offline_access for this app registration and grant consent again; "
        "then connect once more."
    )


class WrongAccount(SignInFailed):
    """The person signed in with a different Microsoft account than before."""

    code = "wrong_account"


class WrongTenant(SignInFailed):
    """The account belongs to a different directory than the app registration."""

    code = "wrong_tenant"


class ConsentMissing(SignInFailed):
    """Microsoft granted too few permissions, so an admin must consent first."""

    code = "consent_needed"
