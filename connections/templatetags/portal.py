"""Template tags and filters. They make no queries and don't know about roles."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django import template
from django.contrib.messages.storage.base import Message
from django.db import models
from django.forms import BaseForm, BoundField
from django.forms import widgets as form_widgets
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from connections import audit, audit_changes, audit_sentences, help_links, presentation
from connections.access import counts
from connections.audit_labels import action_label, type_label
from connections.microsoft import pasted_errors
from connections.models import Connection, Incident, User
from connections.services.policy import next_steps

register = template.Library()

_UNITS = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))
_MESSAGE_COLOURS = {"success": "success", "warning": "warning", "error": "danger"}
_MESSAGE_ICONS = {"success": "circle-check", "warning": "alert-triangle", "error": "alert-circle"}


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """Render an icon from the sprite, hidden from screen readers unless it has a ``label``."""
    aria = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    return format_html(
        '<svg class="icon" width="20" height="20" fill="none" stroke="currentColor" stroke-width="1.75" '
        'stroke-linecap="round" stroke-linejoin="round" {}><use href="{}#{}"/></svg>',
        aria,
        static("vendor/tabler/icons.svg"),
        name,
    )


@register.simple_tag(takes_context=True)
def help_link(context: template.RequestContext) -> SafeString:
    """Render the link to the documentation of this page; nothing if there is none, or nobody has signed in."""
    match = getattr(context.get("request"), "resolver_match", None)
    target = help_links.target_of(match.view_name) if match and context.get("may") else None
    if target is None:
        return SafeString("")
    page, heading = target
    url = reverse("documentation_page", args=[page]) + (f"#{heading}" if heading else "")
    return format_html('<a class="help-link d-print-none" href="{}">{} Help</a>', url, icon("info-circle"))


@register.simple_tag(takes_context=True)
def nav_item(
    context: template.RequestContext,
    url_name: str,
    label: str,
    icon_name: str,
    waiting: str = "",
    besides: str = "",
    also: str = "",
) -> SafeString:
    """Render a navigation entry. ``waiting`` is its counter, which may be empty.

    ``besides`` names subpages that have their own entries, ``also`` other pages that belong to this one.
    """
    url, path = reverse(url_name), context["request"].path
    here = path == url or (url != "/" and path.startswith(url))
    here = here or any(path.startswith(reverse(name)) for name in also.split())
    here = here and not any(path.startswith(reverse(name)) for name in besides.split())
    return format_html(
        '<li class="nav-item"><a class="nav-link" href="{}"{}>{}<span class="nav-link-title">{}</span>{}</a></li>',
        url,
        SafeString(' aria-current="page"') if here else "",
        icon(icon_name),
        label,
        format_html(' <span class="badge nav-count">{}<span class="visually-hidden"> open</span></span>', waiting)
        if waiting
        else "",
    )


@register.simple_block_tag
def empty_state(
    content: str, *, title: str, icon: str = "inbox", action_url: str = "", action_label: str = ""
) -> SafeString:
    """Render the text between the tags as a page's content instead of an empty list."""
    context = {"title": title, "icon": icon, "action_url": action_url, "action_label": action_label, "text": content}
    return render_to_string("partials/empty.html", context)


@register.simple_tag
def request_id() -> str:
    """Return the request's ID in the logs and the audit trail. This also works on error pages without context."""
    return audit.origin.get().request_id


@register.simple_tag
def state_badge(badge: presentation.Badge) -> SafeString:
    return format_html('<span class="badge state state-{}">{}{}</span>', badge.tone, icon(badge.sign), badge.word)


@register.simple_tag
def status_badge(row: models.Model) -> SafeString:
    """Render the state of a connection, app registration, credential, mailbox access, consent request or event."""
    return state_badge(presentation.badge(row))


@register.simple_tag
def badge(word: str, tone: str = presentation.OFF) -> SafeString:
    """Render any other badge. Tones: ok, waiting, warning, broken, off."""
    return state_badge(presentation.Badge(word, tone))


@register.simple_tag(takes_context=True)
def state_of(context: template.RequestContext, connection: Connection) -> presentation.State:
    user = getattr(context.get("request"), "user", None)
    # Pages that list many connections load the facts for all of them at once.
    advice = next_steps.advice(connection, facts=context.get("connection_facts"))
    replaced = {"action": advice.action, "who": advice.who} if advice is not None else {}
    return presentation.connection_state(connection, user if isinstance(user, User) else None, **replaced)


@register.inclusion_tag("microsoft_errors/_box.html", takes_context=True)
def microsoft_error_box(context: template.Context, during: str, heading: str = "h2") -> dict[str, Any]:
    """Render the box that explains pasted errors. ``during`` is sign_in or consent."""
    return {"csrf_token": context.get("csrf_token"), "errors": pasted_errors.shown_errors(during), "heading": heading}


@register.filter
def must_act(incident: Incident) -> str:
    """Return to whom an incident is assigned: "Bob Jones", "IT admins", "Microsoft" or "No one"."""
    if incident.who == Connection.Who.OWNER:
        return incident.assignee_name or "Owner"
    return {Connection.Who.IT_ADMIN: presentation.IT_ADMINS, Connection.Who.MICROSOFT: "Microsoft"}.get(
        Connection.Who(incident.who), "No one"
    )


@register.filter
def action_for(incident: Incident, user: User) -> str:
    """Return what to do about an incident, as a sentence addressed to this user."""
    return presentation.address(incident.action, to_owner=incident.assignee_id == user.pk)


@register.filter
def for_owner(action: str, is_owner: bool) -> str:
    """Return the sentence addressed to the owner, if that is the reader."""
    return presentation.address(action, to_owner=is_owner)


@register.filter
def lasted(incident: Incident) -> str:
    """Return how long a resolved incident was open; "" if it is still open."""
    if incident.closed_at is None:
        return ""
    words = relative((incident.closed_at - incident.opened_at).total_seconds())
    return words.removesuffix(" ago")


@register.filter
def lookup(mapping: dict[Any, Any], key: Any) -> Any:
    """Return the value of ``mapping`` for ``key``, or 0."""
    return mapping.get(key, 0)


@register.filter
def ago(when: datetime | None) -> SafeString:
    """Render a past time as relative ("3 days ago"). The exact time is its title."""
    return _time(when, in_past=True)


@register.filter
def lasting(when: datetime | None) -> SafeString:
    """Render how long something has lasted ("for 3 days"). The time when it began is its title."""
    return _time(when, in_past=True, worded=lambda words: re.sub(r"^(.*) ago$", r"for \1", words))


@register.filter
def until(when: datetime | None) -> SafeString:
    """Render a future time as relative ("in 3 days", or "2 hours ago" once it has passed)."""
    return _time(when, in_past=False)


def _time(when: datetime | None, *, in_past: bool, worded: Callable[[str], str] = str) -> SafeString:
    if when is None:
        return SafeString('<span class="text-secondary">never</span>')
    seconds = (timezone.now() - when).total_seconds()
    # Clocks differ slightly, but a past event must never be "in 2 seconds".
    words = relative(max(seconds, 0.0) if in_past else seconds)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        when.astimezone(UTC).isoformat(),
        timezone.localtime(when).strftime("%Y-%m-%d %H:%M:%S %Z"),
        worded(words),
    )


def relative(seconds: float) -> str:
    """Return a time span in words. Positive seconds are in the past."""
    # Round future spans up, because "in 15 minutes" must not become 14 a moment later.
    distance = seconds if seconds > 0 else 59 - seconds
    for size, unit in _UNITS:
        count = int(distance // size)
        if count:
            text = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "less than a minute ago"


@register.inclusion_tag("partials/field.html")
def render_field(field: BoundField) -> dict[str, Any]:
    """Render a field with its label, widget, errors and help text in the portal's style."""
    return {"field": field, "kind": _dress(field)}


@register.simple_tag
def styled(field: BoundField) -> BoundField:
    _dress(field)
    return field


def _dress(field: BoundField) -> str:
    """Add Tabler's classes to the widget, and return the field's layout: plain, check or group."""
    widget = field.field.widget
    kind = "plain"
    if isinstance(widget, form_widgets.RadioSelect | form_widgets.CheckboxSelectMultiple):
        kind, css = "group", "form-check-input"
    elif isinstance(widget, form_widgets.CheckboxInput):
        kind, css = "check", "form-check-input"
    elif isinstance(widget, form_widgets.Select):
        css = "form-select"
    else:
        css = "form-control"
    own = widget.attrs.get("class", "")
    if css not in own:
        widget.attrs["class"] = f"{css}{' is-invalid' if field.errors else ''} {own}".strip()
    return kind


@register.filter
def fields_with_errors(form: BaseForm) -> list[BoundField]:
    return [field for field in form.visible_fields() if field.errors]


@register.filter
def initials(user: Any) -> str:
    """Return one or two letters for a person's avatar."""
    words = [word for word in str(user).replace(".", " ").split() if word[0].isalnum()]
    return "".join(word[0] for word in (words[:1] + words[-1:] if len(words) > 1 else words)).upper() or "?"


@register.filter
def capped(number: int) -> str:
    """Return a number that was counted up to counts.MOST as text, such as "37" or "1,000+"."""
    return f"{counts.MOST:,}+" if number > counts.MOST else f"{number:,}"


@register.filter
def person_name(actor_name: str) -> str:
    """Return the name from the audit trail's "Name <username>"."""
    return actor_name.partition(" <")[0] or actor_name


register.filter(action_label)
register.filter(type_label)


register.filter("plain", audit_changes.plain)
register.filter("fact_label", audit_changes.label)
register.filter("changes_list", audit_changes.lines)


@register.filter
def event_sentence(event: Any) -> str:
    return audit_sentences.sentence(
        event.action,
        actor_name=event.actor_name,
        target_name=event.target_name,
        changes=event.changes,
        outcome=event.outcome,
    )


@register.filter
def message_colour(message: Message) -> str:
    return _MESSAGE_COLOURS.get(message.level_tag, "info")


@register.filter
def message_icon(message: Message) -> str:
    return _MESSAGE_ICONS.get(message.level_tag, "info-circle")
