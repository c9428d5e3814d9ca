"""How states, times, forms and recorded changes are shown, and the pages for failed sign-ins."""

from datetime import timedelta
from typing import Any

import pytest
from django import forms
from django.db import models
from django.template import Context, Template
from django.template.loader import render_to_string
from django.test import RequestFactory
from django.utils import timezone

from connections import audit_changes, audit_labels, errors, presentation
from connections.models import (
    AppConsent,
    AppCredential,
    AppRegistration,
    AuditEvent,
    Connection,
    ConsentLink,
    MailboxAccess,
    Tenant,
    User,
)
from connections.models.audit import AuditAction
from connections.templatetags import portal
from tests.views.pages import assert_hides, assert_shows


def make(status: str, **values: Any) -> Connection:
    """Create a connection that needs no database."""
    owner = User(pk=7, username="bob", first_name="Bob", last_name="Jones")
    values.setdefault("authentication_type", "authorization_code")
    app = values.pop("app_registration", None) or AppRegistration(name="Contoso app", verified_at=timezone.now())
    return Connection(
        name="Invoices", owner=owner, app_registration=app, app_consent=AppConsent(), status=status, **values
    )


@pytest.mark.parametrize("status", list(Connection.Status))
def test_every_status_has_a_word_and_unless_all_is_well_a_cause(status: Connection.Status) -> None:
    state = presentation.connection_state(make(status))
    assert state.badge.word == status.label
    assert bool(state.cause) is (status != Connection.Status.ACTIVE)
    assert state.is_broken is (status in ("reconnect_needed", "consent_needed", "blocked"))
    if state.is_broken:
        assert state.action
        assert state.who


def test_what_the_row_says_goes_before_the_general_sentences() -> None:
    state = presentation.connection_state(
        make("blocked", status_cause="Because.", status_action="Do this.", status_who=Connection.Who.OWNER)
    )
    assert (state.cause, state.action, state.who) == ("Because.", "Do this.", "Bob Jones (owner)")


def test_an_unfinished_connection_says_how_far_it_got() -> None:
    assert presentation.connection_state(make("pending")).cause == "The sign-in isn't complete."
    started = make("pending", sign_in_started_at=timezone.now())
    assert "started but not completed" in presentation.connection_state(started).cause
    waiting = make("pending", status_code="approval_needed", status_cause="The policy wants it.")
    assert presentation.connection_state(waiting).badge.word == "Approval required"


def test_the_owner_reads_you() -> None:
    connection = make("reconnect_needed")
    assert presentation.connection_state(connection, connection.owner).who == "you"
    assert presentation.connection_state(connection, User(pk=8)).who == "Bob Jones (owner)"


@pytest.mark.parametrize(
    ("status_who", "words"),
    [("it_admin", "IT admins"), ("microsoft", "Microsoft"), ("nobody", ""), ("owner", "Bob Jones (owner)")],
)
def test_who_must_act_is_part_of_a_sentence(status_who: str, words: str) -> None:
    assert presentation.assigned_to(make("blocked", status_who=status_who)) == words


def test_an_active_connection_of_a_rejected_app_registration_waits_for_an_admin() -> None:
    rejected = AppRegistration(name="Expired", rejected_at=timezone.now(), rejected_cause="Its secret has expired.")
    state = presentation.connection_state(make("active", app_registration=rejected))
    assert state.badge.word == "App credential rejected"
    assert state.cause.endswith("Its secret has expired.")
    assert state.who == "IT admins"
    flagged = presentation.connection_state(make("reconnect_needed", app_registration=rejected))
    assert flagged.badge.word == "Sign-in required"


@pytest.mark.parametrize(
    ("row", "word", "tone"),
    [
        (AppRegistration(), "Not tested yet", "waiting"),
        (AppRegistration(verified_at=timezone.now()), "Ready", "ok"),
        (AppRegistration(verified_at=timezone.now(), rejected_at=timezone.now()), "Rejected by Microsoft", "broken"),
        (AppCredential(), "Not tested yet", "waiting"),
        (AppCredential(verified_at=timezone.now()), "Accepted", "ok"),
        (AppCredential(rejected_at=timezone.now()), "Rejected by Microsoft", "broken"),
        (AppCredential(expires_at=timezone.now() + timedelta(days=3)), "Expires soon", "warning"),
        (AppCredential(expires_at=timezone.now() - timedelta(days=3)), "Expired", "broken"),
        (AppCredential(retired_at=timezone.now(), rejected_at=timezone.now()), "Retired", "off"),
        (MailboxAccess(state="reachable"), "Reachable", "ok"),
        (MailboxAccess(state="unreachable"), "Not reachable", "broken"),
        (ConsentLink(state="open"), "Awaiting administrator", "waiting"),
        (ConsentLink(state="verified"), "Granted and verified", "ok"),
        (AuditEvent(outcome="denied"), "Denied", "warning"),
    ],
)
def test_badges(row: models.Model, word: str, tone: str) -> None:
    shown = presentation.badge(row)
    assert (shown.word, shown.tone) == (word, tone)
    html = portal.status_badge(row)
    assert word in html
    assert_shows(html, f"state-{tone}", f"icons.svg#{shown.sign}")


@pytest.mark.parametrize("model", [MailboxAccess, ConsentLink, AuditEvent])
def test_no_state_is_without_a_badge(model: type[models.Model]) -> None:
    column = "outcome" if model is AuditEvent else "state"
    field: Any = model._meta.get_field(column)
    for value, label in field.choices:
        assert presentation.badge(model(**{column: value})).word == label


def test_every_icon_the_portal_names_is_in_the_sprite() -> None:
    import re
    from pathlib import Path

    from django.conf import settings
    from django.contrib.staticfiles import finders

    sprite = Path(finders.find("vendor/tabler/icons.svg") or "").read_text()
    drawn = set(re.findall(r'<symbol id="([^"]+)"', sprite))
    named = set(presentation.SIGNS.values()) | set(portal._MESSAGE_ICONS.values()) | {"info-circle", "inbox"}
    for page in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = page.read_text()
        named |= set(re.findall(r'{% icon "([^"]+)"', text)) | set(re.findall(r'\bicon="([^"]+)"', text))
        named |= set(re.findall(r'{% nav_item "[^"]+" "[^"]+" "([^"]+)"', text))
    assert named - drawn == set()


def test_a_thing_without_a_state_is_refused() -> None:
    with pytest.raises(TypeError):
        presentation.badge(Tenant())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a minute ago"),
        (59, "less than a minute ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400, "1 day ago"),
        (400 * 86400, "1 year ago"),
        (-10, "in 1 minute"),
        (-899.9, "in 15 minutes"),
        (-3 * 86400 + 1, "in 3 days"),
    ],
)
def test_relative_times(seconds: float, words: str) -> None:
    assert portal.relative(seconds) == words


def test_a_time_carries_its_exact_self() -> None:
    when = timezone.now() - timedelta(hours=5)
    html = portal.ago(when)
    assert_shows(html, "5 hours ago", f'datetime="{when.isoformat()}"', f'title="{when:%Y-%m-%d %H:%M:%S} UTC"')
    assert "never" in portal.ago(None)
    assert "less than a minute ago" in portal.ago(timezone.now() + timedelta(seconds=30)), "clocks differ by moments"


class Sample(forms.Form):
    name = forms.CharField(help_text="As in Entra.")
    kind = forms.ChoiceField(choices=[("a", "Alpha"), ("b", "Beta")], widget=forms.RadioSelect)
    wishes = forms.MultipleChoiceField(
        choices=[("x", "<Mail>")], widget=forms.CheckboxSelectMultiple, required=False, help_text="Some."
    )
    pick = forms.ChoiceField(choices=[("1", "One")])
    agreed = forms.BooleanField(required=False)
    intent = forms.CharField(widget=forms.HiddenInput)


def test_a_form_ties_labels_help_and_errors_to_its_fields() -> None:
    html = render_to_string("partials/form.html", {"form": Sample({"name": "", "kind": "zzz"})})
    assert '<label class="form-label" for="id_name">' in html
    assert_shows(html, 'aria-describedby="id_name_helptext id_name_error"', 'id="id_name_helptext"')
    assert_shows(html, 'id="id_name_error"', 'aria-invalid="true"', 'class="form-select')
    assert html.count('class="form-check-input') == 4
    assert_shows(html, "<legend", "&lt;Mail&gt;", "(optional)")
    assert 'href="#id_name"' in html, "the summary leads to the field"
    assert 'type="hidden" name="intent"' in html


def test_nothing_is_said_about_errors_before_anything_was_sent() -> None:
    assert_hides(render_to_string("partials/form.html", {"form": Sample()}), "is-invalid", 'role="alert"')


def test_changes_are_described_in_words() -> None:
    changes = {"name": ["Old", "New"], "scopes": ["a", "b", "c"], "secret_set": [False, True]}
    assert audit_changes.lines(changes) == ["Name: Old → New", "Scopes: a, b, c", "Secret set: no → yes"]
    assert audit_changes.lines({}) == []
    empty = {"state": [None, "ok"], "code": "", "connections": [], "until": [None, None]}
    assert audit_changes.lines(empty) == ["Status: ok"]
    assert audit_changes.lines({"expires_at": "2026-12-01 09:39:38.763942+00:00"}) == [
        "Expires at: 2026-12-01 09:39 UTC"
    ]
    assert audit_changes.lines({"cause": "x" * 500})[0].endswith("…")
    assert audit_changes.lines({"client_id": "c1"}) == ["Client ID: c1"]


def test_lists_show_names_of_people_without_what_only_machines_need() -> None:
    changes = {"with": "Una User <una>", "member_id": 7, "level": ["use", "manage"]}
    assert audit_changes.lines(changes) == ["Shared with: Una User", "Role: can use → can manage"]
    assert [change.after for change in audit_changes.described(changes)] == ["Una User <una>", "7", "can manage"]


@pytest.mark.parametrize(
    ("name", "letters"), [("Bob Jones", "BJ"), ("bob", "B"), ("", "?"), ("ada.lovelace", "AL"), ("Ünal Ölçer", "ÜÖ")]
)
def test_initials(name: str, letters: str) -> None:
    assert portal.initials(name) == letters


def test_words_of_the_trail() -> None:
    assert audit_labels.action_label("connection.reconnect_needed") == "Connection: reconnect needed"
    assert audit_labels.action_label("odd") == "odd"
    assert audit_labels.action_label("connection.handed_over") == "Connection: ownership transferred"
    assert set(audit_labels._ACTION_VERBS) <= set(AuditAction)
    assert audit_labels.type_label("AppRegistration") == "App registration"
    assert audit_labels.type_label("ApiKey") == "API key"
    assert audit_labels.action_label("api_key.issued") == "API key: created"
    assert portal.person_name("Bob Jones <bob>") == "Bob Jones"
    assert portal.person_name("Portal") == "Portal"


def test_names_are_escaped_in_badges() -> None:
    assert "&lt;b&gt;" in Template("{% load portal %}{% badge name %}").render(Context({"name": "<b>"}))


@pytest.mark.django_db
def test_a_failed_sign_in_says_cause_action_and_the_way_back(
    rf: RequestFactory, bob: User, connection: Connection
) -> None:
    request = rf.get("/auth/complete/microsoft-connect/")
    request.user = bob
    page = render_to_string(
        "accounts/sign_in_failed.html", {"error": errors.SignInCancelled(), "connection": connection}, request
    )
    assert_shows(page, "You cancelled the sign-in at Microsoft", "You can start again at any time.", "Invoices wasn't")
    assert f'href="/connections/{connection.pk}/"' in page


def test_a_failed_sign_in_to_the_portal_leads_back_to_the_sign_in_page(rf: RequestFactory) -> None:
    page = render_to_string("accounts/sign_in_failed.html", {"error": errors.SignInExpired()}, rf.get("/"))
    assert_shows(page, "This sign-in was already used", 'href="/sign-in/"', "sign_in_lost")
