"""The box "What did Microsoft show?" and where it is."""

import logging

import pytest
from django.test import Client
from django.urls import reverse

from connections.models import AuditEvent, Connection
from tests.views.pages import assert_answer, assert_hides, assert_shows, text

URL = "/microsoft-errors/"


def test_it_answers_cause_action_and_who_without_a_sign_in(client: Client) -> None:
    page = client.post(URL, {"shown": "AADSTS50105"})
    assert_answer(
        page, 200, "assigned to the app", "assign the account to the app in Entra", "IT admins", "AADSTS50105"
    )
    assert "What did Microsoft show?" in text(client.get(URL))


def test_htmx_gets_the_answer_alone(member: Client) -> None:
    page = text(member.post(URL, {"shown": "50011"}, headers={"HX-Request": "true"}))
    assert_shows(page, "redirect URI", "AADSTS50011")
    assert "<html" not in page


def test_what_was_pasted_is_neither_shown_nor_logged_nor_stored(
    member: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events = AuditEvent.objects.count()
    shown = "https://x.example/?error=access_denied&code=1.AVAA-very-secret-sign-in-code <script>alert(1)</script>"
    page = text(member.post(URL, {"shown": shown}))
    assert_shows(page, "access_denied", "contained a sign-in code or token")
    assert_hides(page + caplog.text, "very-secret", "alert(1)")
    assert AuditEvent.objects.count() == events


@pytest.mark.parametrize(
    ("status", "has_box"), [("pending", True), ("reconnect_needed", True), ("blocked", True), ("active", False)]
)
def test_unfinished_connections_have_the_box(
    member: Client, status: str, has_box: bool, connection: Connection
) -> None:
    Connection.objects.filter(pk=connection.pk).update(status=status)
    page = text(member.get(reverse("connection", args=[connection.pk])))
    assert ("What did Microsoft show?" in page) is has_box
    if has_box:
        assert_shows(page, "Errors that Microsoft doesn't report to this portal", "AADSTS50020")
