"""What can go wrong, one exception per thing a caller must do differently.

Every error carries a ``code`` for machines, a sentence of what happened and a sentence of what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connections.microsoft.classifier import Verdict


class PortalError(Exception):
    """Base of all errors a person or a program is told about."""

    code = "error"
    status = 400
    cause = "Something went wrong."
    action = "Try again. If it happens again, tell an IT admin."
    # Who can mend it, where the kind of error alone tells: owner, it_admin or microsoft.
    who = ""
    # Seconds after which a program may try again, where that alone can help.
    retry_after: int | None = None

    def __init__(self, cause: str = "", *, action: str = "", field: str = "") -> None:
        self.cause = cause or self.cause
        self.action = action or self.action
        # The form field the sentence belongs next to, if there is one.
        self.field = field
        super().__init__(self.cause)

    def __str__(self) -> str:
        return f"{self.cause} {self.action}".strip()


class NotAllowed(PortalError):
    """The object is visible to this person, but the action is not theirs."""

    code = "not_allowed"
    status = 403
    cause = "You may see this, but not change it."
    action = "Ask its owner or an IT admin."
    who = "owner"


class UnknownParameter(PortalError):
    """A query parameter that the address does not know; ``action`` names those it does."""

    code = "unknown_parameter"
    cause = "There is a query parameter too many."


class PolicyForbids(PortalError):
    """A rule of the policy is against it; ``cause`` names the rule."""

    code = "policy_forbids"
    status = 403
    who = "it_admin"
    cause = "The organisation's policy forbids this."
    action = "An IT admin can change the policy."


class ApprovalNeeded(PortalError):
    """The policy lets it happen only after an IT admin has approved it; ``cause`` names the rule."""

    code = "approval_needed"
    status = 409
    who = "it_admin"
    cause = "An IT admin must approve this first."
    action = "Ask for approval on the connection's page."


class Conflict(PortalError):
    """Somebody else was faster; what this was decided on stands no longer. Nothing was changed."""

    code = "changed_meanwhile"
    status = 409
    cause = "This was changed meanwhile."
    action = "Look at it again, then decide."


class InvalidInput(PortalError):
    """A value cannot be accepted; ``field`` names it."""

    code = "invalid_input"
    cause = "This value cannot be used."
    action = ""


class AlreadyExists(InvalidInput):
    """The same object is registered already."""

    code = "already_exists"
    status = 409


class InUse(PortalError):
    """Removing it would break something that still stands on it."""

    code = "still_in_use"
    status = 409


class AmbiguousName(PortalError):
    """Several visible connections bear the name; only their numbers tell them apart."""

    code = "ambiguous_name"
    status = 409
    cause = "Several connections have this name."
    action = "Use the number of the one you mean."


class NothingToCheck(PortalError):
    """The connection has no grant that could be checked."""

    code = "nothing_to_check"
    status = 409
    cause = "There is nothing to check: nobody has signed in for this connection yet, or it is disabled."
    action = "Sign in for it, or enable it first."


class InvalidApiKey(PortalError):
    """The API key is none of ours, or no longer. The answer does not say which."""

    code = "bad_key"
    status = 401
    cause = "This API key is not valid."
    action = "Send a valid key as “Authorization: Bearer …”; keys are made in the portal under API keys."
    who = "owner"


class RateLimited(PortalError):
    """The key, or the address, has used up its calls of this minute."""

    code = "rate_limited"
    status = 429
    who = "nobody"
    cause = "That is more calls in a minute than are allowed."
    action = "Wait as long as Retry-After says, and keep tokens until they end instead of asking for each call."

    def __init__(self, cause: str = "", *, retry_after: int) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class ConnectionUnusable(PortalError):
    """The connection cannot give a token just now; cause and action say why."""

    code = "connection_unusable"
    status = 409
    cause = "This connection has no valid access token just now."
    action = "Look at its page: it says why and who can mend it."

    def __init__(self, cause: str = "", *, action: str = "", code: str = "") -> None:
        super().__init__(cause, action=action)
        self.code = code or self.code


class TokenUnavailable(PortalError):
    """No token could be had in time, and nobody is to blame."""

    code = "microsoft_unavailable"
    status = 503
    who = "microsoft"
    retry_after: int = 15
    cause = "Microsoft gave no token in time, and the stored one has ended."
    action = "Try again in a quarter of a minute; the portal keeps trying, too."


class UnreadableSecret(PortalError):
    """No configured encryption key opens a stored value: our own trouble, never Microsoft's or the owner's."""

    code = "encryption_key_missing"
    status = 503
    who = "it_admin"
    cause = "A stored secret cannot be opened with the encryption keys the portal was started with."
    action = "An operator must add the key it was written with to FIELD_ENCRYPTION_KEYS. Nothing was changed or sent."


class MicrosoftRefused(PortalError):
    """Microsoft gave a clear answer and it was no; the verdict says why."""

    code = "microsoft_refused"
    status = 409

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.cause, action=verdict.action)
        self.code = verdict.kind.value


class MicrosoftUnavailable(MicrosoftRefused):
    """Microsoft could not be asked just now. It says nothing about any grant."""

    status = 503


class SignInFailed(PortalError):
    """Base of the ways the road through Microsoft's sign-in can end badly."""

    code = "sign_in_failed"


class SignInCancelled(SignInFailed):
    """The person pressed Cancel. Nobody's fault."""

    code = "cancelled"
    cause = "You cancelled at Microsoft, so nothing was connected."
    action = "Start again whenever you like."


class SignInExpired(SignInFailed):
    """The callback belongs to no sign-in this browser started: replayed, expired, or another browser."""

    code = "sign_in_lost"
    cause = "This sign-in is over: it was already used, took longer than 30 minutes, or was started in another browser."
    action = "Go back to the connection and start again. Nothing was changed."


class NoRefreshToken(SignInFailed):
    """Microsoft signed the person in but gave nothing that lasts."""

    code = "no_refresh_token"
    cause = "Microsoft gave no refresh token, so the connection would die within the hour. It was not stored."
    action = (
        "An IT admin must allow the permission offline_access for this app registration and grant consent again; "
        "then connect once more."
    )


class WrongAccount(SignInFailed):
    """A reconnect came back with another Microsoft account than the connection's."""

    code = "wrong_account"


class WrongTenant(SignInFailed):
    """The account belongs to another directory than the one the app registration is for."""

    code = "wrong_tenant"


class ConsentMissing(SignInFailed):
    """Microsoft granted less than nothing useful: an admin must consent first."""

    code = "consent_needed"
