"""Alerts as emails. Their headers prevent automatic replies (RFC 3834) and duplicates, and group them by incident."""

import hashlib
from typing import Any
from urllib.parse import urlsplit

from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from connections.outbound import message_text
from connections.outbound.message_text import SHOWN, AlertText

_COLOURS = {"broken": "#b42318", "ok": "#1a7f37", "warning": "#9a6700", "info": "#0b5cad"}


def incident_email(
    alert_text: AlertText, *, to: str, message_id: str, thread: str, portal_url: str
) -> EmailMultiAlternatives:
    """Build the email about one alert. ``thread`` identifies its conversation and may be empty."""
    context = {"alert": alert_text, "colour": _COLOURS[alert_text.tone]}
    return _mail("one", context, alert_text.subject, to, message_id, thread, portal_url)


def digest_email(
    subject: str, alerts: list[AlertText], *, to: str, message_ids: list[str], portal_url: str
) -> EmailMultiAlternatives:
    about_incidents = any(alert.url.startswith(f"{portal_url}/incidents/") for alert in alerts)
    digest = hashlib.sha256(" ".join(message_ids).encode()).hexdigest()[:32]
    context = {
        "subject": subject,
        "alerts": [(alert, _COLOURS[alert.tone]) for alert in alerts[:SHOWN]],
        "more": len(alerts) - SHOWN,
        "url": f"{portal_url}/incidents/" if about_incidents else f"{portal_url}/",
        "button": "View incidents" if about_incidents else "Open portal",
        "why": alerts[0].why,
    }
    return _mail("many", context, subject, to, f"several-{digest}", "", portal_url)


def _mail(
    template: str, context: dict[str, Any], subject: str, to: str, message_id: str, thread: str, portal_url: str
) -> EmailMultiAlternatives:
    settings_url = f"{portal_url}/account/alerts/"
    host = urlsplit(portal_url).hostname or "localhost"
    headers = {
        "Message-ID": f"<{message_id}@{host}>",
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "List-Unsubscribe": f"<{settings_url}>",
    }
    if thread:
        headers["References"] = f"<{thread}@{host}>"
    context = {**context, "portal_url": portal_url, "choices_url": settings_url}
    text = render_to_string(f"alerts/mail/{template}.txt", context)
    mail = EmailMultiAlternatives(message_text.one_line(subject), text, to=[to], headers=headers)
    mail.attach_alternative(render_to_string(f"alerts/mail/{template}.html", context), "text/html")
    return mail
