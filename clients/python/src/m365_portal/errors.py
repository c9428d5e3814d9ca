"""What can go wrong: one exception per thing a program must do differently, each with the portal's words for people.

They all are PortalError; ``str(error)`` is a whole sentence for a log or an alert, and never holds a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHO = {
    "owner": "the connection's owner",
    "it_admin": "an IT admin",
    "microsoft": "Microsoft",
    "operator": "whoever runs the portal",
    "caller": "whoever runs this program",
}


class PortalError(Exception):
    """Base of all errors of this package."""

    #: Stable, for programs; the portal's own where there is one.
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
        #: What kind of problem it is, in words.
        self.title = title
        #: What happened this time, in words.
        self.detail = detail
        #: What to do about it.
        self.action = action
        #: Who can do it: owner, it_admin, microsoft, operator or caller; empty when nobody is known.
        self.who = who
        #: The page of the portal that mends it.
        self.link = link
        #: Number of the portal's open incident that explains it.
        self.incident = incident
        #: HTTP status of the answer; 0 when there was none.
        self.status = status
        #: Seconds after which it is worth trying again, if the portal said so.
        self.retry_after = retry_after
        self.code = code or type(self).code

    def __str__(self) -> str:
        happened = self.title if self.detail in ("", self.title) else f"{self.title} {self.detail}"
        mender = f"Who can mend it: {WHO.get(self.who, self.who)}." if self.who and self.who != "nobody" else ""
        return " ".join(part for part in (happened, self.action, mender, self.link) if part)


class ConfigurationError(PortalError, ValueError):
    """The address or the key this program was given cannot be used. Nothing was sent."""

    code = "configuration"

    def __init__(self, title: str, **more: Any) -> None:
        super().__init__(title, who="caller", **more)


class Unavailable(PortalError):
    """The portal, or Microsoft behind it, gave no answer in time. Nobody is to blame; try again later."""

    code = "unavailable"


class RateLimited(Unavailable):
    """This key asked too often."""

    code = "rate_limited"


class StillRunning(Unavailable):
    """The same request, sent before, is still being worked on; its answer comes when it is asked for again."""

    code = "in_progress"


class UnexpectedAnswer(PortalError):
    """What answered does not speak like a portal: another server, or a proxy's page."""

    code = "unexpected_answer"


class KeyRefused(PortalError):
    """The API key is wrong, revoked or expired, or may not be used from here."""

    code = "bad_key"


class NotAllowed(PortalError):
    """The key lacks a scope, or its owner may not do this."""

    code = "not_allowed"


class NotFound(PortalError):
    """There is no such thing, or the key's owner may not see it."""

    code = "not_found"


class AmbiguousName(PortalError):
    """Several connections bear this name; ``detail`` names their numbers."""

    code = "ambiguous_name"


class InvalidInput(PortalError):
    """The portal cannot use a value it was sent."""

    code = "invalid_input"


class ChangedMeanwhile(PortalError):
    """Somebody changed it since it was read; nothing was changed."""

    code = "changed_meanwhile"


class ConnectionUnusable(PortalError):
    """The connection is not well: somebody has to act before there is a token again. Trying again does not help."""

    code = "connection_unusable"


class ReconnectNeeded(ConnectionUnusable):
    """The connection's owner has to sign in again."""

    code = "reconnect_needed"


class ConsentNeeded(ConnectionUnusable):
    """An admin has to grant consent at Microsoft."""

    code = "consent_needed"


class Blocked(ConnectionUnusable):
    """A policy of the organisation refuses it; an IT admin must change something."""

    code = "blocked"


class Disabled(ConnectionUnusable):
    """Somebody switched the connection off in the portal."""

    code = "disabled"


class SignInPending(ConnectionUnusable):
    """Nobody has signed in for the connection yet."""

    code = "pending"


class ApprovalNeeded(ConnectionUnusable):
    """The organisation's policy lets an IT admin decide first, and that has not happened yet."""

    code = "approval_needed"


class AppCredentialRejected(ConnectionUnusable):
    """Microsoft rejects the secret or certificate of the app registration."""

    code = "app_credential_rejected"


class WrongResource(PortalError, ValueError):
    """A token was asked for another service than Microsoft Graph."""

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
    )
} | {"nothing_to_check": ConnectionUnusable}
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
    """The exception for a problem the portal answered with; ``told`` is its JSON, or empty if it was none."""
    code = _text(problem, "code")
    if not code and status < 500 and status != 429:
        return UnexpectedAnswer(
            f"What answered (HTTP {status}) does not speak like a portal.",
            action="Check the portal's address, and what stands in front of it.",
            who="caller",
            status=status,
        )
    kind = _BY_CODE.get(code) or (Unavailable if status >= 500 else _BY_STATUS.get(status, PortalError))
    incident = problem.get("incident")
    return kind(
        _text(problem, "title") or f"The portal could not answer (HTTP {status}).",
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
