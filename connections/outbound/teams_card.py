"""Chat messages: an adaptive card, as the webhooks of Teams take it (also Power Automate's "Workflows").

Format: learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using. All words go into
text runs, which know no markdown: a connection named "[click](https://…)" stays what it is.
"""

from __future__ import annotations

import json
from typing import Any

from connections.outbound.message_text import SHOWN, AlertText

_COLOURS = {"broken": "attention", "ok": "good", "warning": "warning", "info": "accent"}
_TEXT_LENGTH = 1000  # a card may have 28 KB in all


def single_card(alert_text: AlertText) -> bytes:
    """The card of one alert."""
    content = [_text(alert_text.headline, weight="bolder", size="large", color=_COLOURS[alert_text.tone])]
    content += [_text(paragraph) for paragraph in alert_text.paragraphs]
    content += [_fact(label, value) for label, value in alert_text.facts]
    if alert_text.affected:
        content.append(_text(alert_text.affected_label, weight="bolder", spacing="medium"))
        content += [_text(f"• {line}", spacing="none") for line in alert_text.affected]
    if alert_text.more > 0:
        content.append(_text(f"and {alert_text.more} more", spacing="none", isSubtle=True))
    return _message(content, button=alert_text.button, url=alert_text.url)


def digest_card(subject: str, alerts: list[AlertText], *, url: str) -> bytes:
    """One card for several alerts."""
    content = [_text(subject, weight="bolder", size="large")]
    content += [_text(f"• {alert.subject}", color=_COLOURS[alert.tone], spacing="none") for alert in alerts[:SHOWN]]
    if len(alerts) > SHOWN:
        content.append(_text(f"and {len(alerts) - SHOWN} more", spacing="none", isSubtle=True))
    return _message(content, button="Open the incidents", url=url)


def _message(content: list[dict[str, Any]], *, button: str, url: str) -> bytes:
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": content,
        "actions": [{"type": "Action.OpenUrl", "title": button, "url": url}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return json.dumps({"type": "message", "attachments": [attachment]}, ensure_ascii=False).encode()


def _text(text: str, *, spacing: str = "default", **style: Any) -> dict[str, Any]:
    run = {"type": "TextRun", "text": text[:_TEXT_LENGTH], **style}
    return {"type": "RichTextBlock", "spacing": spacing, "inlines": [run]}


def _fact(label: str, value: str) -> dict[str, Any]:
    runs = [
        {"type": "TextRun", "text": f"{label}: ", "weight": "bolder"},
        {"type": "TextRun", "text": value[:_TEXT_LENGTH]},
    ]
    return {"type": "RichTextBlock", "spacing": "small", "inlines": runs}
