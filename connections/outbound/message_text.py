"""The texts of alerts. ``facts`` come from services.notifications.payload: JSON values, times as ISO 8601 in UTC."""

import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SHOWN = 20  # number of affected connections listed by name; the others are only counted
_SUBJECT_LENGTH = 180

# Follows a colon in the subject: what to do if one person can do it, otherwise what is wrong.
_PHRASES = {
    "account": "sign in again",
    "app_registration": "app registration rejected",
    "consent": "consent is missing",
    "policy": "blocked by a policy",
    "mailbox": "shared mailbox not reachable",
    "encryption_key": "encryption key missing",
    "outage": "Microsoft cannot be reached",
}
# Tasks to complete before anything breaks; the title names them.
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
_DIGEST_LABELS = {
    "opened": "opened",
    "reminder": "not mended yet",
    "healed": "healed",
    "expiry": "about to expire",
    "message": "questions and answers",
}
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


@dataclass(frozen=True, slots=True)
class AlertText:
    tone: str  # broken, ok, warning or info
    subject: str
    headline: str
    paragraphs: list[str]
    facts: list[tuple[str, str]]
    button: str
    url: str
    why: str
    affected: list[str] = field(default_factory=list)  # at most SHOWN lines
    affected_label: str = ""
    more: int = 0  # number of affected connections beyond SHOWN

    @property
    def text(self) -> str:
        return "\n\n".join(self.paragraphs)


def build_alert(event: str, facts: dict[str, Any], *, reason: str, at: datetime) -> AlertText:
    """Build the texts of one alert. ``event`` is a Delivery.Event value, ``at`` the time when it was raised."""
    if event == "test":
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
    if event == "expiry":
        return _expiry(facts["credential"], reason, at)
    return _message(facts["message"]) if event == "message" else _incident(event, facts, reason, at)


def _incident(event: str, facts: dict[str, Any], reason: str, at: datetime) -> AlertText:
    incident = facts["incident"]
    opened = datetime.fromisoformat(incident["opened_at"])
    closed = datetime.fromisoformat(incident["closed_at"]) if incident["closed_at"] else None
    shown = incident["connections"][:SHOWN]
    is_task, healed = incident["kind"] in _TASKS, event == "healed"
    subject, headline, tone = _headlines(event, incident, format_duration(at - opened), is_task=is_task)
    label = "Connections" if is_task else "Works again" if healed else "Affected connections"
    # Only the account's owner can sign in again.
    is_elsewhere = healed or closed or (incident["kind"] == "account" and reason != "owner")
    return AlertText(
        tone=tone,
        subject=_subject(subject),
        headline=headline,
        paragraphs=[text for text in _paragraphs(event, facts, opened, closed, at) if text],
        facts=_incident_facts(incident, opened, closed, healed=healed),
        button="Look at the incident" if is_elsewhere else _BUTTONS.get(incident["kind"], "Open the repair page"),
        url=incident["url"],
        why=_NEW_OWNER if reason == "owner" and is_task else _WHY.get(reason, ""),
        affected=[f"{connection['name']} (of {connection['owner']})" for connection in shown],
        affected_label=label,
        more=incident["connection_count"] - len(shown),
    )


def _paragraphs(
    event: str, facts: dict[str, Any], opened: datetime, closed: datetime | None, at: datetime
) -> list[str]:
    incident = facts["incident"]
    if event == "healed":
        return [f"It was over after {format_duration((closed or at) - opened)}. Nothing is left to be done."]
    paragraphs = [incident["cause"]]
    if closed:
        paragraphs.append(f"Meanwhile, on {format_exact_time(closed)}, it has healed. Nothing is left to be done.")
    elif incident["action"]:
        paragraphs.append(f"What to do: {incident['action']}")
    if facts.get("nobody_else_was_told"):
        paragraphs.append(f"{incident['assignee']} must act but cannot be told by e-mail. Please pass it on.")
    return paragraphs


def _headlines(event: str, incident: dict[str, Any], age: str, *, is_task: bool) -> tuple[str, str, str]:
    connections, count, title = incident["connections"], incident["connection_count"], incident["title"]
    if is_task and event == "healed":
        return f"Done: {title}", f"Done: {title}", "ok"
    if is_task and event == "reminder":
        return f"Still to do after {age}: {title}", f"Still to do: {title}", "warning"
    if is_task:
        return title, title, "warning"
    subject = connections[0]["name"] if count == 1 and connections else f"{count} connections" if count else ""
    phrase = _PHRASES.get(incident["kind"]) or str(title)
    if incident["kind"] == "account" and incident["who"] != "owner":
        phrase = "its account cannot sign in"
    if event == "healed":
        return f"Works again: {subject or title}", f"Works again: {title}", "ok"
    if event == "reminder":
        lasting = f"Still stopped after {age}: {subject}, {phrase}" if subject else f"Still open after {age}: {phrase}"
        return lasting, f"Still not mended after {age}: {title}", "broken"
    return (f"{subject} stopped: {phrase}" if subject else title), title, "broken"


def _incident_facts(
    incident: dict[str, Any], opened: datetime, closed: datetime | None, *, healed: bool
) -> list[tuple[str, str]]:
    facts = [("Since", format_exact_time(opened))]
    if closed:
        facts.append(("Until", format_exact_time(closed)))
    if not healed:
        owner = f"the owner, {incident['assignee']}" if incident["assignee"] else "the owner"
        facts.append(("Must act", owner if incident["who"] == "owner" else _WHO.get(incident["who"], "an IT admin")))
    if incident["code"]:
        facts.append(("Code", incident["code"]))
    return facts


def _expiry(credential: dict[str, Any], reason: str, at: datetime) -> AlertText:
    kind, app, days = credential["kind"], credential["app_registration"], credential["days"]
    expires = datetime.fromisoformat(credential["expires_at"]) if credential["expires_at"] else None
    when = "expires within a day" if days <= 1 else f"expires within {days} days"
    if expires and expires <= at:
        when = "has expired"
    rows = [("App registration", app), ("Credential", credential["name"])]
    if expires:
        rows.append(("Expires", format_exact_time(expires)))
    if credential.get("is_covered"):
        text = (
            "Another credential of the app registration lasts longer, so nothing stops. Retire this one when it suits."
        )
    else:
        count = credential["connection_count"]
        stopping = "1 connection stops" if count == 1 else f"{count} connections stop"
        effect = f"Then {stopping}." if count else "No connection uses it just now."
        text = (
            f"{effect} What to do: add a new credential now. The portal uses it beside the old one, so nothing stops."
        )
    return AlertText(
        tone="warning",
        subject=_subject(f"{kind} of {app} {when}"),
        headline=f"A {kind.lower()} of {app} {when}",
        paragraphs=[text],
        facts=rows,
        button="Open the app registration" if credential.get("is_covered") else "Add a credential",
        url=credential["url"],
        why=_WHY.get(reason, ""),
    )


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


def digest_subject(events: list[str]) -> str:
    """Return the subject of one message about several alerts: "12 alerts: 9 opened, 3 healed"."""
    if set(events) == {"message"}:
        return f"{len(events)} messages of the connection portal"
    counts = [f"{events.count(event)} {label}" for event, label in _DIGEST_LABELS.items() if event in events]
    return f"{len(events)} alerts: {', '.join(counts)}"


def format_exact_time(when: datetime) -> str:
    """Format a time in UTC: "23 November 2026, 08:45 UTC"."""
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def format_duration(length: timedelta) -> str:
    """Format a duration in its largest unit, but at least one minute: "3 days", "1 hour"."""
    seconds = max(int(length.total_seconds()), 60)
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    count = seconds // size
    return f"{count} {unit}{'' if count == 1 else 's'}"


def one_line(text: str) -> str:
    """Return user-supplied text as one line without control characters, for subjects and headers."""
    visible = "".join(" " if letter.isspace() else letter for letter in text)
    kept = (letter for letter in visible if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
    return " ".join("".join(kept).split())


def _subject(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _SUBJECT_LENGTH else f"{line[: _SUBJECT_LENGTH - 1]}…"
