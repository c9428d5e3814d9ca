"""The texts of alerts. ``facts`` come from services.notifications.payload: JSON values, times as ISO 8601 in UTC."""

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from connections.addressing import IT_ADMIN, OWNER, speak_to

SHOWN = 20  # affected connections that are listed by name; the others are only counted
_SUBJECT_LENGTH = 180

# What is wrong, as added to the connection's name in the subject.
_PROBLEMS = {
    "account": "sign-in required",
    "app_registration": "app credential rejected",
    "consent": "consent required",
    "policy": "blocked by policy",
    "mailbox": "shared mailbox unreachable",
    "encryption_key": "encryption key missing",
    "outage": "Microsoft unreachable",
    "audit_trail": "the audit trail needs attention",
    "credential_renewal": "credential not renewed",
    "portal_sign_in": "nobody can sign in with Microsoft",
}
# Tasks to complete before anything breaks; the title names them.
TASKS = ("hand_over", "leaver", "tenant")
_WHO = {"it_admin": "IT admins", "microsoft": "Microsoft", "nobody": "Nobody"}
_BUTTONS = {"account": "Sign in again", "hand_over": "Sign in", "leaver": "Transfer ownership", "tenant": "Add tenant"}
_WHY = {
    "owner": "You received this email because you own this connection.",
    "it_admin": "You received this email because you're an IT admin and this incident is assigned to IT admins.",
    "auditor": "You received this email because you're an auditor.",
    "copy": "You received this copy because you're an IT admin and chose to receive all incidents.",
    "list": "You received this copy because this address is on the portal's list of IT admins.",
    "expiry": "You received this email because you're an IT admin.",
    "channel": "This channel receives all of the organisation's alerts.",
    "test": "You received this message because a test was requested.",
}
_NEW_OWNER = "You received this email because you now own this connection."
_READERS = {"owner": OWNER, "it_admin": IT_ADMIN, "copy": IT_ADMIN, "expiry": IT_ADMIN}
_DIGEST_LABELS = {
    "opened": "new incident",
    "reminder": "unresolved incident",
    "healed": "resolved incident",
    "expiry": "expiring credential",
    "message": "message",
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
    """Build the texts of one alert. ``event`` is a value of Delivery.Event, and ``at`` is when the alert was raised."""
    if event == "test":
        return AlertText(
            tone="info",
            subject="Test alert from the connection portal",
            headline="Test alert",
            paragraphs=[f"{facts['by']} sent this test alert. No action needed."],
            facts=[],
            button="Open portal",
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
    listed = incident["connections"][:SHOWN]
    is_task, healed = incident["kind"] in TASKS, event == "healed"
    subject, headline, tone = _headlines(event, incident, format_duration(at - opened), is_owner=reason == "owner")
    label = "Connections" if is_task else "Resolved connections" if healed else "Affected connections"
    # Recipients other than the owner get no button for signing in, because only the owner can do that.
    is_elsewhere = healed or closed or (incident["kind"] == "account" and reason != "owner")
    return AlertText(
        tone=tone,
        subject=_subject(subject),
        headline=headline,
        paragraphs=[text for text in _paragraphs(event, facts, opened, closed, at, reason) if text],
        facts=_incident_facts(incident, opened, closed, healed=healed),
        button="View incident" if is_elsewhere else _BUTTONS.get(incident["kind"], "View incident"),
        url=incident["url"],
        why=_NEW_OWNER if reason == "owner" and is_task else _WHY.get(reason, ""),
        affected=[f"{connection['name']} (owner: {connection['owner']})" for connection in listed],
        affected_label=label,
        more=incident["connection_count"] - len(listed),
    )


def _paragraphs(
    event: str, facts: dict[str, Any], opened: datetime, closed: datetime | None, at: datetime, reason: str
) -> list[str]:
    incident = facts["incident"]
    if event == "healed":
        return [f"Resolved after {format_duration((closed or at) - opened)}. No action needed."]
    paragraphs = [incident["cause"]]
    if closed:
        paragraphs.append(f"Resolved on {format_exact_time(closed)}. No action needed.")
    elif incident["action"]:
        paragraphs.append(f"What to do: {speak_to(_READERS.get(reason, ''), incident['action'])}")
    if facts.get("nobody_else_was_told"):
        paragraphs.append(f"We can't email {incident['assignee']}, who needs to act. Please contact them.")
    return paragraphs


def _headlines(event: str, incident: dict[str, Any], age: str, *, is_owner: bool) -> tuple[str, str, str]:
    connections, count, title = incident["connections"], incident["connection_count"], incident["title"]
    is_task = incident["kind"] in TASKS
    name = connections[0]["name"] if count == 1 and connections else f"{count} connections" if count else ""
    subject = title if is_task else name
    if event == "healed":
        return f"Resolved: {subject or title}", f"Resolved: {title}", "ok"
    if name and not is_task:
        problem = _PROBLEMS.get(incident["kind"]) or str(title)
        if incident["kind"] == "account" and incident["who"] != "owner":
            problem = "account can't sign in"
        subject = f"{name}: {problem}"
        if incident["kind"] == "account" and is_owner:
            subject = f"{name} need{'s' if count == 1 else ''} you to sign in again"
    tone = "warning" if is_task else "broken"
    if event == "reminder":
        return f"Unresolved for {age}: {subject or title}", f"Unresolved for {age}: {title}", tone
    return subject or title, title, tone


def _incident_facts(
    incident: dict[str, Any], opened: datetime, closed: datetime | None, *, healed: bool
) -> list[tuple[str, str]]:
    facts = [("Opened", format_exact_time(opened))]
    if closed:
        facts.append(("Resolved", format_exact_time(closed)))
    if not healed:
        owner = f"{incident['assignee']} (owner)" if incident["assignee"] else "Owner"
        facts.append(("Assigned to", owner if incident["who"] == "owner" else _WHO.get(incident["who"], "IT admins")))
    if incident["code"]:
        facts.append(("Code", incident["code"]))
    return facts


def _expiry(credential: dict[str, Any], reason: str, at: datetime) -> AlertText:
    kind, app, days = credential["kind"], credential["app_registration"], credential["days"]
    expires = datetime.fromisoformat(credential["expires_at"]) if credential["expires_at"] else None
    when = expires_within(days)
    if expires and expires <= at:
        when = "has expired"
    rows = [("App registration", app), ("Credential", credential["name"])]
    if expires:
        rows.append(("Expires", format_exact_time(expires)))
    if credential.get("is_covered"):
        text = (
            "Another credential of this app registration expires later, so no connection is affected. You can retire "
            "this one at any time."
        )
    else:
        count = credential["connection_count"]
        affected = "1 connection is" if count == 1 else f"{count} connections are"
        effect = f"{affected} affected." if count else "No connection uses it."
        text = f"{effect} What to do: add a new credential now. The portal uses both, so no connection is interrupted."
    return AlertText(
        tone="warning",
        subject=_subject(f"{kind} for {app} {when}"),
        headline=f"{kind} for {app} {when}",
        paragraphs=[text],
        facts=rows,
        button="View app registration" if credential.get("is_covered") else "Add credential",
        url=credential["url"],
        why=_WHY.get(reason, ""),
    )


def expires_within(days: int) -> str:
    return "expires within 1 day" if days <= 1 else f"expires within {days} days"


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
    """Return the subject of a message about several alerts: "12 updates: 9 new incidents, 3 resolved incidents"."""
    counts = [(events.count(event), label) for event, label in _DIGEST_LABELS.items() if event in events]
    parts = [f"{count} {label}{'' if count == 1 else 's'}" for count, label in counts]
    return f"{len(events)} updates: {', '.join(parts)}"


def format_exact_time(when: datetime) -> str:
    """Format a time in the current time zone: "23 November 2026, 08:45 UTC"."""
    local = timezone.localtime(when)
    return f"{local.day} {local:%B %Y, %H:%M %Z}"


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
