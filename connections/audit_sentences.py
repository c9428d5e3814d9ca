"""Audit events as sentences: "Bob Jones shared Invoices with Una User until 28 February 2027"."""

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from connections.audit_labels import action_label
from connections.models import AuditEvent

SENTENCES: dict[str, list[str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_FAILURE = re.compile(r"\b(couldn't|denied|failed|declined)\b")
_LONGEST = 80  # characters of a recorded value that are shown


def sentence(action: str, *, actor_name: str, target_name: str, changes: Mapping[str, Any], outcome: str) -> str:
    """Return an event as a sentence.

    For unknown actions (from older versions) and unsuccessful attempts, this is only the action with its object.
    """
    for text in SENTENCES.get(action, ()):
        if outcome != AuditEvent.Outcome.DONE and not _FAILURE.search(text):
            break
        values = {"target": target_name} | {name: _value(name, changes.get(name)) for name in _names(text)}
        if all(values.values()):
            return f"{_person(actor_name)} {text.format_map(values)}"
    return f"{_person(actor_name)}: {action_label(action)}, {target_name}"


def _names(text: str) -> list[str]:
    return [name for name in _PLACEHOLDER.findall(text) if name != "target"]


def _value(name: str, recorded: Any) -> str:
    """Return the value to show: the new one or, if something was removed, the old one."""
    if isinstance(recorded, list) and len(recorded) == 2:
        recorded = recorded[0] if recorded[1] is None and name != "until" else recorded[1]
    if recorded is None or recorded == "":
        return ""
    if name == "until":
        return _day(str(recorded))
    text = _person(str(recorded))
    text = f"the {text}" if text.startswith("team ") else text
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _day(text: str) -> str:
    """Return the last day of a period that ends at this time. Text that is not a time is returned unchanged."""
    try:
        last = datetime.fromisoformat(text).astimezone(UTC) - timedelta(seconds=1)
    except (ValueError, OverflowError):
        return text
    return f"{last.day} {last:%B %Y}"


def _person(name: str) -> str:
    """Return a recorded name without the user name: "Una User <una>" → "Una User"."""
    return "The portal" if name == "Portal" else name.partition(" <")[0] or name
