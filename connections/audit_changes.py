"""The recorded changes of audit events in words for pages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connections.models import AppCredential, Connection, Share
from connections.models.app_registrations import AppRegistration, AuthenticationType

_NOTHING: tuple[Any, ...] = (None, "", [], {})
# A time as stored in the audit trail, always in UTC.
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d):\d\d(?:\.\d+)?(?:\+00:00|Z)")
_PERSON = re.compile(r"([^<>]+) <[^<>]+>")  # "Una User <una>"
_ID = re.compile(r"_(id|tid|oid)$|^with_type$")
# Recorded values that are shown with other words.
_WORDS: dict[str, dict[Any, str]] = {
    "status": dict(Connection.Status.choices),
    "authentication_type": dict(AuthenticationType.choices),
    "level": {Share.Level.USE: "can use", Share.Level.MANAGE: "can manage"},
    "kind": dict(AppCredential.Kind.choices),
    "audience": dict(AppRegistration.Audience.choices),
}
# Recorded names that don't read well. The recorded names must not change.
_LABELS = {
    "accepted": "Accepted by Microsoft",
    "authentication_type": "Connection type",
    "because": "Cause",
    "code": "Error code",
    "directory_id": "Directory",
    "due": "Ends",
    "entra_group": "Entra group",
    "extra_scopes": "Additional permissions",
    "from": "IP address",
    "how": "Method",
    "kind": "Type",
    "level": "Role",
    "old_secret_until": "Old secret expires",
    "prefix": "Key prefix",
    "responsible": "Responsible person",
    "state": "Status",
    "suspended": "Access suspended",
    "tid": "Directory ID",
    "times": "Requests",
    "until": "Expires",
    "who": "Assigned to",
    "with": "Shared with",
}
_ACRONYMS = {"id": "ID", "url": "URL", "ip": "IP", "api": "API", "imap": "IMAP", "smtp": "SMTP", "uri": "URI"}
_LONGEST = 60  # characters of a value in a list


@dataclass(frozen=True, slots=True)
class Change:
    """A recorded value, or the change of one. ``before`` is None unless there was a value before."""

    name: str
    label: str
    before: str | None
    after: str

    @property
    def is_id(self) -> bool:
        """Whether only machines need the value. It is shown only on the event's own page."""
        return _ID.search(self.name) is not None and self.name not in ("client_id", "directory_id")

    @property
    def line(self) -> str:
        after = _short(self.after)
        return f"{self.label}: {after}" if self.before is None else f"{self.label}: {_short(self.before)} → {after}"


def described(changes: Mapping[str, Any]) -> list[Change]:
    """Return everything that an event recorded, except for empty values."""
    return [_change(name, value) for name, value in changes.items() if not _is_empty(value)]


def lines(changes: Mapping[str, Any]) -> list[str]:
    """Return the changes for a list of events: a line for each, shortened, with the names of people alone."""
    return [change.line for change in described(changes) if not change.is_id]


def label(name: str) -> str:
    """Return the name of a recorded value as a label: "new_owner" → "New owner"."""
    text = " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split())
    return _LABELS.get(name) or text[:1].upper() + text[1:]


def plain(value: Any) -> str:
    """Return a recorded value as text for people."""
    if value in _NOTHING:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and (moment := _MOMENT.fullmatch(value)):
        return f"{moment[1]} {moment[2]} UTC"
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


def _is_empty(value: Any) -> bool:
    return value in _NOTHING or (_is_pair(value) and value[0] in _NOTHING and value[1] in _NOTHING)


def _is_pair(value: Any) -> bool:
    """Whether the value is [before, after]."""
    return isinstance(value, list) and len(value) == 2


def _change(name: str, value: Any) -> Change:
    # The first value of a field needs no arrow.
    before = _worded(name, value[0]) if _is_pair(value) and value[0] not in _NOTHING else None
    return Change(name, label(name), before, _worded(name, value[1] if _is_pair(value) else value))


def _worded(name: str, value: Any) -> str:
    words = _WORDS.get(name, {})
    return plain(words.get(value, value) if isinstance(value, str) else value)


def _short(text: str) -> str:
    text = person[1] if (person := _PERSON.fullmatch(text)) else text
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
