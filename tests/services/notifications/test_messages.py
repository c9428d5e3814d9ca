"""Each message is sent once, to everybody it concerns who has not opted out."""

from datetime import UTC, datetime
from typing import Any, cast

from django.core import mail

from connections.models import Delivery, User
from connections.services.notifications import alerts, outbox

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def message(**more: Any) -> alerts.Message:
    values: dict[str, Any] = {
        "subject": "Bob asks for consent",
        "paragraphs": ("He needs it for invoices.",),
        "path": "/requests/7/",
        "button": "Look at the request",
        "why": "You received this email because you're an IT admin.",
        "facts": (("Connection", "Invoices"),),
        "lines": ("Mail.Read",),
        "lines_label": "Permissions",
    }
    return alerts.Message(**(values | more))


def test_it_reaches_everybody_once_with_a_link_to_the_page(alice: User, bob: User, settings: Any) -> None:
    for _ in range(2):
        alerts.notify([alice, bob, alice], message(), about="request:7:asked", now=NOW)
    assert outbox.deliver_due(NOW).delivered == 2
    assert outbox.deliver_due(NOW).claimed == 0
    assert {tuple(sent.to) for sent in mail.outbox} == {("alice@example.org",), ("bob@example.org",)}
    sent = cast(mail.EmailMultiAlternatives, mail.outbox[0])
    assert sent.subject == "Bob asks for consent"
    for text in (str(sent.body), str(sent.alternatives[0][0])):
        assert f"{settings.PORTAL_URL}/requests/7/" in text
        for part in ("He needs it for invoices.", "Invoices", "Mail.Read", "Look at the request", "IT admin"):
            assert part in text


def test_people_without_address_who_left_or_opted_out_get_nothing(alice: User, bob: User, dave: User) -> None:
    User.objects.filter(pk=alice.pk).update(email="")
    User.objects.filter(pk=bob.pk).update(is_active=False)
    alerts.set_preferences(dave, messages=False, actor=dave)
    alerts.notify(User.objects.all(), message(), about="x", now=NOW)
    assert not Delivery.objects.exists()


def test_it_admins_are_reached_by_their_role(alice: User, bob: User) -> None:
    alerts.notify_it_admins(message(), about="x", now=NOW)
    assert list(Delivery.objects.values_list("email", "subject")) == [("alice@example.org", "Bob asks for consent")]


def test_many_messages_share_a_mail_that_links_to_the_home_page(alice: User, settings: Any) -> None:
    for number in range(5):
        alerts.notify([alice], message(), about=f"request:{number}", now=NOW)
    outbox.deliver_due(NOW)
    (sent,) = mail.outbox
    assert sent.subject == "5 updates: 5 messages"
    assert f"Open portal:\n{settings.PORTAL_URL}/\n" in sent.body


def test_no_line_break_gets_into_the_subject(alice: User) -> None:
    alerts.notify([alice], message(subject="Asks\r\nBcc: x@example.org"), about="x", now=NOW)
    outbox.deliver_due(NOW)
    assert mail.outbox[0].subject == "Asks Bcc: x@example.org"
