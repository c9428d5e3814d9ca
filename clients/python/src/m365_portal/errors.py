"""The exceptions: one for each case that a program must handle differently, with the portal's text for people.

All are subclasses of PortalError. ``str(error)`` is a sentence for a log or an alert and never contains a key or a
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHO = {
    "owner": "the connection's owner",
    "it_admin": "an IT admin",
    "microsoft": "Microsoft",
    "operator": "the portal's operator",
    "caller": "the person who runs this program",
}


class PortalError(Exception):
    """The base class of all errors in this package."""

    #: A stable code for programs, taken from the portal's response if it contains one.
    code = "error"

    def __init__(
        self,
        title: str,
        *,
        code: str = "",
        detail: str = "",
        action: str = "",
        who: str = "",
        link: str = "",
        incident: int | None = None,
        status: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(title)
        #: The kind of problem, for people.
        self.title = title
        #: What happened this time, for people.
        self.detail = detail
        #: What to do about it.
        self.action = action
        #: Who can do it: owner, it_admin, microsoft, operator or caller; empty if this is not known.
        self.who = who
        #: The portal's page on which the problem can be fixed.
        self.link = link
        #: The number of the open incident in the portal that explains the problem.
        self.incident = incident
        #: The HTTP status of the response; 0 if there was no response.
        self.status = status
        #: How many seconds to wait before trying again, if the portal said so.
        self.retry_after = retry_after
        self.code = code or type(self).code

    def __str__(self) -> str:
        happened = self.title if self.detail in ("", self.title) else f"{self.title} {self.detail}"
        mender = f"Who can fix it: {WHO.get(self.who, self.who)}." if self.who and self.who != "nobody" else ""
        return " ".join(part for part in (happened, self.action, mender, self.link) if part)


class ConfigurationError(PortalError, ValueError):
    """The configured URL or key isn't valid. Nothing was sent."""

    code = "configuration"

    def __init__(self, title: str, **more: Any) -> None:
        super().__init__(title, who="caller", **more)


class Unavailable(PortalError):
    """The portal, or Microsoft behind it, did not respond in time. Try again later."""

    code = "unavailable"


class RateLimited(Unavailable):
    """Too many calls were made with this key."""

    code = "rate_limited"


class StillRunning(Unavailable):
    """The same request was sent earlier and is still running; repeat it to get its response."""

    code = "in_progress"


class UnexpectedAnswer(PortalError):
    """The response does not come from a portal, but from another server or a proxy."""

    code = "unexpected_answer"


class KeyRefused(PortalError):
    """The API key is wrong, revoked or expired, or may not be used from this address."""

    code = "bad_key"


class NotAllowed(PortalError):
    """The key lacks a scope, or its owner is not allowed to do this."""

    code = "not_allowed"


class NotFound(PortalError):
    """The object does not exist, or the key's owner may not see it."""

    code = "not_found"


class AmbiguousName(PortalError):
    """Several connections have this name; ``detail`` lists their numbers."""

    code = "ambiguous_name"


class InvalidInput(PortalError):
    """The portal rejected a value in the request."""

    code = "invalid_input"


class ChangedMeanwhile(PortalError):
    """The object has changed since it was read, so this change was not made."""

    code = "changed_meanwhile"


class ConnectionUnusable(PortalError):
    """The connection has no token until a person acts. Trying again does not help."""

    code = "connection_unusable"


class ReconnectNeeded(ConnectionUnusable):
    """The connection's owner needs to sign in again."""

    code = "reconnect_needed"


class ConsentNeeded(ConnectionUnusable):
    """An admin has to grant consent at Microsoft."""

    code = "consent_needed"


class Blocked(ConnectionUnusable):
    """The organisation's policy blocks the connection; an IT admin needs to change it."""

    code = "blocked"


class Disabled(ConnectionUnusable):
    """The connection has been disabled in the portal."""

    code = "disabled"


class SignInPending(ConnectionUnusable):
    """Nobody has signed in for the connection yet."""

    code = "pending"


class ApprovalNeeded(ConnectionUnusable):
    """The organisation's policy requires an IT admin's approval, which is still pending."""

    code = "approval_needed"


class AppCredentialRejected(ConnectionUnusable):
    """Microsoft rejects the app registration's secret or certificate."""

    code = "app_credential_rejected"


class ResourceNotGranted(ConnectionUnusable):
    """The connection has no permissions of the resource that the token should be for."""

    code = "resource_not_granted"


class WrongResource(PortalError, ValueError):
    """A token was requested for a resource that the credential was not made for."""

    code = "wrong_resource"


_BY_CODE = {
    kind.code: kind
    for kind in (
        RateLimited,
        StillRunning,
        KeyRefused,
        NotAllowed,
        NotFound,
        AmbiguousName,
        InvalidInput,
        ChangedMeanwhile,
        ConnectionUnusable,
        ReconnectNeeded,
        ConsentNeeded,
        Blocked,
        Disabled,
        SignInPending,
        ApprovalNeeded,
        AppCredentialRejected,
        ResourceNotGranted,
    )
} | {"nothing_to_check": ConnectionUnusable, "microsoft_refused": ConnectionUnusable}
_BY_STATUS = {
    400: InvalidInput,
    401: KeyRefused,
    403: NotAllowed,
    404: NotFound,
    412: ChangedMeanwhile,
    422: InvalidInput,
    429: RateLimited,
}


def from_answer(status: int, problem: Mapping[str, Any], retry_after: float | None) -> PortalError:
    """Return the exception for an error response; ``problem`` is its JSON, or empty if it had none."""
    code = _text(problem, "code")
    if not code and status < 500 and status != 429:
        return UnexpectedAnswer(
            f"The response (HTTP {status}) isn't from a portal.",
            action="Check the portal's URL and any proxy in front of it.",
            who="caller",
            status=status,
        )
    kind = _BY_CODE.get(code) or (Unavailable if status >= 500 else _BY_STATUS.get(status, PortalError))
    incident = problem.get("incident")
    return kind(
        _text(problem, "title") or f"The request failed (HTTP {status}).",
        code=code,
        detail=_text(problem, "detail"),
        action=_text(problem, "action"),
        who=_text(problem, "who"),
        link=_text(problem, "link"),
        incident=incident if isinstance(incident, int) else None,
        status=status,
        retry_after=retry_after,
    )


def _text(problem: Mapping[str, Any], name: str) -> str:
    value = problem.get(name)
    return value if isinstance(value, str) else ""
