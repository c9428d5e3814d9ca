"""The words of an alert, for e-mails and chat cards alike.

``facts`` are what services.alert_facts has frozen: plain JSON values, times as ISO 8601 in UTC.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SHOWN = 20  # affected connections that are named; the rest is a number
_SUBJECT_LENGTH = 180

# What stopped them, behind a colon: what to do where one person can do it, else what is wrong.
_PHRASES = {
    "account": "sign in again",
    "app_registration": "app registration rejected",
    "consent": "consent is missing",
    "policy": "blocked by a policy",
    "mailbox": "shared mailbox not reachable",
    "encryption_key": "encryption key missing",
    "outage": "Microsoft cannot be reached",
}
# Something to be done before anything breaks: the title says what.
_TASKS = ("hand_over", "leaver")
_WHO = {"it_admin": "an IT admin", "microsoft": "Microsoft; nobody here", "nobody": "nobody"}
_BUTTONS = {
    "account": "Sign in again",
    "outage": "Look at the incident",
    "hand_over": "Sign in for it",
    "leaver": "Hand over",
}
_WHY = {
    "owner": "You get this because you own what stopped, and only you can mend it.",
    "it_admin": "You get this because you are an IT admin, and an IT admin must act.",
    "copy": "You get this copy because you are an IT admin and want to know what happens in the organisation.",
    "list": "You get this copy because this address is the IT admins' list of the portal.",
    "expiry": "You get this because you are an IT admin.",
    "channel": "This channel gets all alerts of the organisation.",
    "test": "You get this because somebody asked for a test.",
}
_NEW_OWNER = "You get this because the connection belongs to you now, and only you can sign in for it."
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


@dataclass(frozen=True, slots=True)
class AlertText:
    """An alert in words: ready to be laid out."""

    tone: str  # broken, ok, warning or info
    subject: str
    headline: str
    paragraphs: list[str]
    facts: list[tuple[str, str]]
    button: str
    url: str
    why: str
    affected: list[str] = field(default_factory=list)  # lines, at most SHOWN
    affected_label: str = ""
    more: int = 0  # affected connections that are not named

    @property
    def text(self) -> str:
        """The paragraphs as one text."""
        return "\n\n".join(self.paragraphs)


def build_alert(event: str, facts: dict[str, Any], *, reason: str, at: datetime) -> AlertText:
    """The words for one alert. ``event`` is a value of Delivery.Event, ``at`` when it was raised."""
    if event == "test":
        return _test(facts, reason)
    if event == "expiry":
        return _expiry(facts, reason, at)
    if event == "message":
        return _message(facts["message"])
    return _incident(event, facts, reason, at)


# --- Incidents ------------------------------------------------------------------------------------


def _incident(event: str, facts: dict[str, Any], reason: str, at: datetime) -> AlertText:
    incident = facts["incident"]
    opened, closed = format_time(incident["opened_at"]), incident["closed_at"] and format_time(incident["closed_at"])
    shown = incident["connections"][:SHOWN]
    subject, headline, tone = _headlines(event, incident, at - opened)
    healed = event == "healed"
    paragraphs = [] if healed else [incident["cause"]]
    if healed:
        paragraphs.append(f"It was over after {format_duration((closed or at) - opened)}. Nothing is left to be done.")
    elif closed:
        paragraphs.append(f"Meanwhile, on {format_exact_time(closed)}, it has healed. Nothing is left to be done.")
    elif incident["action"]:
        paragraphs.append(f"What to do: {incident['action']}")
    if not healed and facts.get("nobody_else_was_told"):
        paragraphs.append(f"{incident['assignee']} must act but cannot be told by e-mail. Please pass it on.")
    return AlertText(
        tone=tone,
        subject=_subject(subject),
        headline=headline,
        paragraphs=[paragraph for paragraph in paragraphs if paragraph],
        facts=_story(incident, opened, closed, healed=healed),
        button="Look at the incident" if healed or closed else _button(incident, reason),
        url=incident["url"],
        why=_NEW_OWNER if reason == "owner" and incident["kind"] in _TASKS else _WHY.get(reason, ""),
        affected=[f"{one['name']} (of {one['owner']})" for one in shown],
        affected_label=_affected_label(incident, healed=healed),
        more=incident["connection_count"] - len(shown),
    )


def _affected_label(incident: dict[str, Any], *, healed: bool) -> str:
    if incident["kind"] in _TASKS:
        return "Connections"
    return "Works again" if healed else "Affected connections"


def _headlines(event: str, incident: dict[str, Any], age: timedelta) -> tuple[str, str, str]:
    """Subject, headline and tone."""
    names = [one["name"] for one in incident["connections"]]
    count, phrase = incident["connection_count"], _phrase(incident)
    who = names[0] if count == 1 and names else f"{count} connections" if count else ""
    if incident["kind"] in _TASKS:
        return _task_headlines(event, incident, age)
    if event == "healed":
        return f"Works again: {who or incident['title']}", f"Works again: {incident['title']}", "ok"
    if event == "reminder":
        lasts = format_duration(age)
        subject = f"Still stopped after {lasts}: {who}, {phrase}" if who else f"Still open after {lasts}: {phrase}"
        return subject, f"Still not mended after {lasts}: {incident['title']}", "broken"
    return (f"{who} stopped: {phrase}" if who else incident["title"]), incident["title"], "broken"


def _task_headlines(event: str, incident: dict[str, Any], age: timedelta) -> tuple[str, str, str]:
    title = incident["title"]
    if event == "healed":
        return f"Done: {title}", f"Done: {title}", "ok"
    if event == "reminder":
        return f"Still to do after {format_duration(age)}: {title}", f"Still to do: {title}", "warning"
    return title, title, "warning"


def _phrase(incident: dict[str, Any]) -> str:
    if incident["kind"] == "account" and incident["who"] != "owner":
        return "its account cannot sign in"
    return _PHRASES.get(incident["kind"]) or str(incident["title"])


def _story(
    incident: dict[str, Any], opened: datetime, closed: datetime | None, *, healed: bool
) -> list[tuple[str, str]]:
    found = [("Since", format_exact_time(opened))]
    if closed:
        found.append(("Until", format_exact_time(closed)))
    if not healed:
        owner = f"the owner, {incident['assignee']}" if incident["assignee"] else "the owner"
        found.append(("Must act", owner if incident["who"] == "owner" else _WHO.get(incident["who"], "an IT admin")))
    if incident["code"]:
        found.append(("Code", incident["code"]))
    return found


def _button(incident: dict[str, Any], reason: str) -> str:
    if incident["kind"] == "account":
        return _BUTTONS["account"] if reason == "owner" else "Look at the incident"
    return _BUTTONS.get(incident["kind"], "Open the repair page")


# --- The others -----------------------------------------------------------------------------------


def _expiry(facts: dict[str, Any], reason: str, at: datetime) -> AlertText:
    credential = facts["credential"]
    kind, app, days = credential["kind"], credential["app_registration"], credential["days"]
    expires = format_time(credential["expires_at"]) if credential["expires_at"] else None
    when = "expires within a day" if days <= 1 else f"expires within {days} days"
    if expires and expires <= at:
        when = "has expired"
    found = [("App registration", app), ("Credential", credential["name"])]
    return AlertText(
        tone="warning",
        subject=_subject(f"{kind} of {app} {when}"),
        headline=f"A {kind.lower()} of {app} {when}",
        paragraphs=[_what_then(credential)],
        facts=[*found, *([("Expires", format_exact_time(expires))] if expires else [])],
        button="Open the app registration" if credential.get("is_covered") else "Add a credential",
        url=credential["url"],
        why=_WHY.get(reason, ""),
    )


def _what_then(credential: dict[str, Any]) -> str:
    if credential.get("is_covered"):
        return (
            "Another credential of the app registration lasts longer, so nothing stops. Retire this one when it suits."
        )
    count = credential["connection_count"]
    breaks = f"Then {_stop(count)}." if count else "No connection uses it just now."
    return f"{breaks} What to do: add a new credential now. The portal uses it beside the old one, so nothing stops."


def _stop(count: int) -> str:
    return "1 connection stops" if count == 1 else f"{count} connections stop"


def _message(message: dict[str, Any]) -> AlertText:
    return AlertText(
        tone=message["tone"],
        subject=_subject(message["subject"]),
        headline=one_line(message["subject"]),
        paragraphs=list(message["paragraphs"]),
        facts=[(label, value) for label, value in message["facts"]],
        button=message["button"],
        url=message["url"],
        why=message["why"],
        affected=[one_line(line) for line in message["lines"][:SHOWN]],
        affected_label=message["lines_label"],
        more=len(message["lines"]) - SHOWN,
    )


def _test(facts: dict[str, Any], reason: str) -> AlertText:
    return AlertText(
        tone="info",
        subject="Test alert of the connection portal",
        headline="This is a test",
        paragraphs=[f"{facts['by']} asked for it. Alerts reach you here; nothing is broken."],
        facts=[],
        button="Open the portal",
        url=facts["url"],
        why=_WHY.get(reason, ""),
    )


def digest_subject(events: list[str]) -> str:
    """The subject of a message for several alerts: "12 alerts: 9 incidents opened, 3 healed"."""
    if set(events) == {"message"}:
        return f"{len(events)} messages of the connection portal"
    names = {"opened": "opened", "reminder": "not mended yet", "healed": "healed", "expiry": "about to expire"}
    names["message"] = "questions and answers"
    counts = [(events.count(event), word) for event, word in names.items() if event in events]
    return f"{len(events)} alerts: " + ", ".join(f"{count} {word}" for count, word in counts)


# --- Words for values -----------------------------------------------------------------------------


def format_time(text: str) -> datetime:
    """A frozen time."""
    return datetime.fromisoformat(text)


def format_exact_time(when: datetime) -> str:
    """A time for people who may be anywhere: "23 November 2026, 08:45 UTC"."""
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def format_duration(length: timedelta) -> str:
    """How long, in its largest unit: "3 days", "1 hour"; never less than a minute."""
    seconds = max(int(length.total_seconds()), 60)
    for size, unit in _UNITS:
        count = seconds // size
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "1 minute"


def one_line(text: str) -> str:
    """Text that somebody chose, as one line without control characters: for subjects and headers."""
    visible = "".join(" " if letter.isspace() else letter for letter in text)
    kept = (letter for letter in visible if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
    return " ".join("".join(kept).split())


def _subject(text: str) -> str:
    line_ = one_line(text)
    return line_ if len(line_) <= _SUBJECT_LENGTH else f"{line_[: _SUBJECT_LENGTH - 1]}…"
