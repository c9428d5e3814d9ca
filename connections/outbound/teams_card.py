"""Chat messages: adaptive cards for the webhooks of Teams and of Power Automate's "Workflows".

Format: learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using. All text is in text
runs, which don't support Markdown, so that a connection named "[click](https://…)" does not become a link.
"""

import json
from typing import Any

from connections.outbound.message_text import SHOWN, AlertText

_COLOURS = {"broken": "attention", "ok": "good", "warning": "warning", "info": "accent"}
_TEXT_LENGTH = 1000  # characters; a card may have at most 28 KB


def single_card(alert_text: AlertText) -> bytes:
    content = [_text(alert_text.headline, weight="bolder", size="large", color=_COLOURS[alert_text.tone])]
    content += [_text(paragraph) for paragraph in alert_text.paragraphs]
    for label, value in alert_text.facts:
        content.append(_text(value, spacing="small"))
        content[-1]["inlines"].insert(0, {"type": "TextRun", "text": f"{label}: ", "weight": "bolder"})
    if alert_text.affected:
        content.append(_text(alert_text.affected_label, weight="bolder", spacing="medium"))
        content += [_text(f"• {line}", spacing="none") for line in alert_text.affected]
    return _message(content, alert_text.more, button=alert_text.button, url=alert_text.url)


def digest_card(subject: str, alerts: list[AlertText], *, url: str) -> bytes:
    content = [_text(subject, weight="bolder", size="large")]
    content += [_text(f"• {alert.subject}", color=_COLOURS[alert.tone], spacing="none") for alert in alerts[:SHOWN]]
    return _message(content, len(alerts) - SHOWN, button="View incidents", url=url)


def _message(content: list[dict[str, Any]], more: int, *, button: str, url: str) -> bytes:
    if more > 0:
        content.append(_text(f"and {more} more", spacing="none", isSubtle=True))
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
