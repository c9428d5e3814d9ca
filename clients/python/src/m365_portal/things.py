"""The portal's responses as Python objects. ``repr()`` never shows a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from m365_portal.errors import UnexpectedAnswer


@dataclass(frozen=True)
class Token:
    """A valid access token for a resource, usually Microsoft Graph."""

    access_token: str = field(repr=False)
    expires_at: datetime  # UTC
    #: The token's permissions, separated by spaces.
    scope: str
    #: Why no token with a longer lifetime was available: microsoft_unavailable or portal_unavailable.
    trouble: str = ""
    #: The portal's id of the token, used to report that Microsoft rejected it. It reveals nothing about the token.
    id: str = ""


@dataclass(frozen=True)
class Connection:
    """A connection; ``raw`` is the complete response."""

    id: int
    name: str
    authentication_type: str
    #: pending, active, reconnect_needed, consent_needed, blocked or disabled.
    status: str
    waits_for_app_registration: bool
    cause: str
    action: str
    who: str
    account: str
    owner: str
    link: str
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def is_well(self) -> bool:
        """Whether the portal expects the connection to provide tokens."""
        return self.status == "active" and not self.waits_for_app_registration

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Connection:
        """Return the connection in a response. Raises UnexpectedAnswer if there is none."""
        number = values.get("id")
        if not isinstance(number, int):
            raise UnexpectedAnswer("The portal returned a connection without an ID.")
        words = ("name", "authentication_type", "status", "cause", "action", "who", "account", "owner", "link")
        return cls(
            id=number,
            waits_for_app_registration=bool(values.get("waits_for_app_registration")),
            raw=values,
            **{name: str(values.get(name) or "") for name in words},
        )


@dataclass(frozen=True)
class Reference:
    """A stable name for a connection; ``raw`` is the complete response."""

    name: str
    #: The connection it points at; None if there is none, or if the key has no access to it.
    connection_id: int | None
    owner: str
    description: str
    link: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Reference:
        """Return the reference in a response. Raises UnexpectedAnswer if there is none."""
        number = values.get("connection_id")
        if not isinstance(values.get("name"), str) or not (number is None or isinstance(number, int)):
            raise UnexpectedAnswer("The portal returned no reference.")
        words = ("name", "owner", "description", "link")
        return cls(connection_id=number, raw=values, **{name: str(values.get(name) or "") for name in words})


@dataclass(frozen=True)
class SignInLink:
    """A sign-in link for the mailbox owner. It works once, until ``expires_at``, for anyone who has it."""

    url: str = field(repr=False)
    expires_at: datetime

    @classmethod
    def of(cls, values: Any) -> SignInLink:
        """Return the link in a response. Raises UnexpectedAnswer if there is none."""
        if not isinstance(values, dict) or not isinstance(values.get("url"), str):
            raise UnexpectedAnswer("The portal returned no sign-in link.")
        return cls(values["url"], moment(values.get("expires_at")))


_FRACTION = re.compile(r"\.(\d+)")


def moment(text: Any) -> datetime:
    """Convert a time from the API to a datetime in UTC. Raises UnexpectedAnswer if it is not a time."""
    try:
        # Python 3.9 and 3.10 accept neither Z nor fractions with other than three or six digits.
        plain = _FRACTION.sub(lambda match: "." + match[1][:6].ljust(6, "0"), text.replace("Z", "+00:00"))
        moment = datetime.fromisoformat(plain)
    except (AttributeError, TypeError, ValueError):
        raise UnexpectedAnswer("The portal returned an invalid time.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
