"""The bell and the list behind it: who gets which notification, and what marks it as read."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import AlertChoice, Delivery, Incident, Notification, User
from connections.services.incidents import incidents
from connections.services.notifications import alerts, notifications
from connections.services.operations import retention
from tests import factories
from tests.views.pages import assert_hides, assert_shows, text

MESSAGE = alerts.Message(
    subject="Approved: Invoices", paragraphs=("By Alice.",), path="/approvals/7/", button="View request",
    why="You received this email because you sent this request.", tone="ok",
)  # fmt: skip


def tell(*people: User, about: str = "approval:7:approved", message: alerts.Message = MESSAGE) -> None:
    alerts.notify(people, message, about=about, now=timezone.now())


def bell(client: Client) -> str:
    part = text(client.get("/teams/")).partition('href="/notifications/"')[2].partition("</a>")[0]
    return part.partition('nav-count">')[2].partition("<")[0]


def test_a_message_is_an_email_and_a_notification_once(bob: User, member: Client) -> None:
    assert "No notifications" in text(member.get("/notifications/"))
    tell(bob, bob)
    tell(bob)
    assert (Delivery.objects.count(), Notification.objects.count()) == (1, 1)
    assert bell(member) == "1"
    assert_shows(text(member.get("/notifications/")), "Approved: Invoices", "Unread", "Mark all as read")


def test_people_without_an_address_get_notifications_and_two_who_share_one_get_one_each(bob: User, dave: User) -> None:
    User.objects.filter(pk=dave.pk).update(email="")
    una = factories.make_person("una", email=bob.email)
    dave.refresh_from_db()
    tell(bob, dave, una)
    assert Delivery.objects.count() == 1
    assert set(Notification.objects.values_list("user", flat=True)) == {bob.pk, dave.pk, una.pk}


def test_what_somebody_does_not_want_to_know_is_no_notification_either(bob: User) -> None:
    AlertChoice.objects.create(user=bob, messages=False)
    bob.refresh_from_db()
    tell(bob)
    assert not Notification.objects.exists()
    alerts.notify([bob], MESSAGE, about="alarm", now=timezone.now(), is_alarm=True)
    assert Notification.objects.count() == 1


def test_an_incident_is_told_and_its_end_to_the_same_people(alice: User, bob: User) -> None:
    User.objects.update(email="")
    mailbox = factories.make_mailbox_access(factories.make_connection(owner=bob), factories.make_mailbox())
    incident = incidents.report_mailbox(mailbox, now=timezone.now())
    assert incident is not None
    opened = Notification.objects.get(user=alice)
    assert (opened.text, opened.path) == (incident.title, f"/incidents/{incident.pk}/")
    alerts.incident_resolved(incident, now=timezone.now())
    assert Notification.objects.filter(user=alice).first().text == f"Resolved: {incident.title}"  # type: ignore[union-attr]
    assert not Delivery.objects.exists()


def test_opening_marks_as_read_and_leads_there(bob: User, member: Client) -> None:
    tell(bob)
    notification = Notification.objects.get()
    answer = member.post(f"/notifications/{notification.pk}/open/")
    assert answer["Location"] == "/approvals/7/"
    assert bell(member) == ""
    assert_hides(text(member.get("/notifications/")), "Mark as read", "Mark all as read")
    assert "No results found" in text(member.get("/notifications/?show=unread"))


@pytest.mark.parametrize("path", ["https://example.org/", "//example.org/", "/\\example.org", "javascript:alert(1)"])
def test_a_notification_leads_nowhere_else(path: str, bob: User, member: Client) -> None:
    """Also if somebody has written to the database."""
    tell(bob)
    Notification.objects.update(path=path)
    assert member.post(f"/notifications/{Notification.objects.get().pk}/open/")["Location"] == "/notifications/"


def test_marking_all_as_read_spares_what_arrived_since(bob: User, dave: User, member: Client) -> None:
    tell(bob, dave)
    shown = Notification.objects.filter(user=bob).get()
    tell(bob, about="approval:8:approved")
    member.post("/notifications/read/", {"upto": shown.pk})
    assert set(Notification.objects.filter(read_at=None).values_list("user", "key")) == {
        (bob.pk, "approval:8:approved"),
        (dave.pk, "approval:7:approved"),
    }
    for wrong in ("", "x", "9" * 30, "-1"):
        assert member.post("/notifications/read/", {"upto": wrong}).status_code == 302


def test_nobody_reads_or_marks_those_of_others(bob: User, stranger: Client, admin: Client) -> None:
    tell(bob)
    notification = Notification.objects.get()
    for client in (stranger, admin):
        assert "Approved: Invoices" not in text(client.get("/notifications/"))
        for verb in ("open", "read"):
            assert client.post(f"/notifications/{notification.pk}/{verb}/").status_code == 404
    notifications.mark_read(notification, actor=User.objects.get(username="dave"), now=timezone.now())
    notification.refresh_from_db()
    assert notification.read_at is None


def test_the_bell_counts_up_to_twenty_and_costs_one_query(bob: User, member: Client, max_queries: Any) -> None:
    for number in range(25):
        tell(bob, about=f"event:{number}")
    assert bell(member) == "20+"
    with max_queries(8):
        assert "25 entries" in text(member.get("/notifications/"))


def test_old_notifications_are_removed_unless_their_incident_is_open(alice: User, bob: User, settings: Any) -> None:
    settings.AUDIT_RETENTION_DAYS = 30
    tell(bob)
    mailbox = factories.make_mailbox_access(factories.make_connection(owner=bob), factories.make_mailbox())
    incidents.report_mailbox(mailbox, now=timezone.now())
    old = timezone.now() - timedelta(days=31)
    Notification.objects.update(created_at=old)
    retention.prune(timezone.now())
    assert set(Notification.objects.values_list("incident", flat=True)) == {Incident.objects.get().pk}
