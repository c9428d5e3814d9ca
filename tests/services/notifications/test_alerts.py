"""Who is notified of what, how often, and in which words."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection as database
from django.db import transaction
from django.test.utils import CaptureQueriesContext

from connections.errors import InvalidInput, NotAllowed
from connections.models import (
    AffectedConnection,
    AlertChannel,
    AlertChoice,
    AppRegistration,
    AuditEvent,
    Connection,
    Delivery,
    Incident,
    User,
)
from connections.services.notifications import alerts, outbox
from tests import factories
from tests.views.pages import assert_shows

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
Event = Delivery.Event


def make_incident(*, affected: int = 0, **overrides: Any) -> Incident:
    values: dict[str, Any] = {
        "kind": Incident.Kind.ACCOUNT,
        "key": f"test:{Incident.objects.count()}",
        "title": "ada@contoso.example needs to sign in again",
        "code": "AADSTS50173",
        "cause": "The password was changed.",
        "action": "Sign in again with the same account.",
        "who": Connection.Who.OWNER,
        "opened_at": NOW,
        "seen_at": NOW,
    }
    incident = Incident.objects.create(**(values | overrides))
    for number in range(AffectedConnection.objects.count(), AffectedConnection.objects.count() + affected):
        connection = factories.make_connection(name=f"Flow {number:02}")
        AffectedConnection.objects.create(
            incident=incident,
            connection=connection,
            connection_name=connection.name,
            owner=connection.owner,
            owner_name=str(connection.owner),
            since=NOW,
        )
    return incident


def make_channel(**overrides: Any) -> AlertChannel:
    values = {
        "name": "Tickets",
        "kind": AlertChannel.Kind.WEBHOOK,
        # These are documentation addresses (RFC 5737), so nothing can be sent to anyone by mistake.
        "url": "https://192.0.2.1/hook",
        "host": "192.0.2.1",
        "signing_secret": "whsec_c2VjcmV0",
    }
    return AlertChannel.objects.create(**(values | overrides))


def recipients(event: str) -> dict[str, str]:
    """Return each recipient of an event with the reason why they were notified."""
    rows = Delivery.objects.filter(event=event).order_by("pk")
    return {str(row.email or row.channel): row.payload["reason"] for row in rows}


def choose(user: User, **wanted: bool) -> None:
    AlertChoice.objects.update_or_create(user=user, defaults=wanted)


def test_the_owner_is_alerted_admins_and_channels_get_a_copy(alice: User, bob: User, carol: User, dave: User) -> None:
    make_channel()
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    assert recipients(Event.OPENED) == {"bob@example.org": "owner", "alice@example.org": "copy", "Tickets": "channel"}


def test_it_admins_are_alerted_of_what_they_must_fix(alice: User, bob: User) -> None:
    root = User.objects.create_superuser("root", "Root@Example.org", factories.PASSWORD)
    assert root.is_active
    alerts.incident_opened(make_incident(who=Connection.Who.IT_ADMIN), now=NOW)
    assert recipients(Event.OPENED) == {"alice@example.org": "it_admin", "root@example.org": "it_admin"}


def test_an_admin_who_owns_the_connection_is_alerted_once_as_its_owner(alice: User) -> None:
    alerts.incident_opened(make_incident(assignee=alice), now=NOW)
    assert recipients(Event.OPENED) == {"alice@example.org": "owner"}


def test_incidents_at_microsoft_are_only_copied_to_admins(alice: User, bob: User) -> None:
    incident = make_incident(kind=Incident.Kind.OUTAGE, who=Connection.Who.MICROSOFT)
    alerts.incident_opened(incident, now=NOW)
    assert recipients(Event.OPENED) == {"alice@example.org": "copy"}
    assert incident.remind_after is None


def test_the_list_of_the_it_admins_replaces_their_copies(alice: User, bob: User, settings: Any) -> None:
    settings.ALERT_COPY_TO = ["IT@example.org"]
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    assert recipients(Event.OPENED) == {"bob@example.org": "owner", "it@example.org": "list"}
    Delivery.objects.all().delete()
    alerts.incident_opened(make_incident(who=Connection.Who.IT_ADMIN), now=NOW)
    assert recipients(Event.OPENED) == {"alice@example.org": "it_admin", "it@example.org": "list"}


def test_preferences_are_respected(alice: User, bob: User) -> None:
    choose(bob, own_incidents=False)
    choose(alice, organisation_incidents=False)
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    assert recipients(Event.OPENED) == {}
    alerts.incident_opened(make_incident(who=Connection.Who.IT_ADMIN), now=NOW)
    assert recipients(Event.OPENED) == {"alice@example.org": "it_admin"}


def test_people_who_left_and_disabled_channels_get_nothing(alice: User, bob: User) -> None:
    make_channel(disabled_at=NOW)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    bob.is_active = False
    bob.save()
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    assert recipients(Event.OPENED) == {}


def test_the_copy_says_when_the_owner_is_unreachable(alice: User, bob: User) -> None:
    bob.email = ""
    bob.save()
    alerts.incident_opened(make_incident(assignee=bob, assignee_name="Bob Member"), now=NOW)
    outbox.deliver_due(NOW)
    assert "We can't email Bob Member, who needs to act." in mail_to("alice@example.org").body


def test_opening_twice_alerts_once_and_a_new_owner_is_alerted_too(bob: User, dave: User) -> None:
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    alerts.incident_opened(incident, now=NOW + timedelta(minutes=1))
    assert Delivery.objects.count() == 1
    incident.assignee = dave
    alerts.incident_opened(incident, now=NOW + timedelta(hours=1))
    assert set(recipients(Event.OPENED)) == {"bob@example.org", "dave@example.org"}


def test_an_incident_with_a_thousand_connections_needs_few_queries(alice: User, bob: User) -> None:
    incident = make_incident(who=Connection.Who.IT_ADMIN)
    connection = factories.make_connection()
    AffectedConnection.objects.bulk_create(
        AffectedConnection(incident=incident, connection_name=f"Flow {n}", owner=bob, owner_name="Bob", since=NOW)
        for n in range(1000)
    )
    assert connection.owner == bob
    with CaptureQueriesContext(database) as queries:
        alerts.incident_opened(incident, now=NOW)
    assert len(queries) <= 8
    outbox.deliver_due(NOW)
    sent = mail_to("alice@example.org")
    assert sent.subject == "1000 connections: account can't sign in"
    assert sent.body.count("- Flow") == 20
    assert "- and 980 more" in sent.body


def test_a_rolled_back_incident_sends_nothing(bob: User) -> None:
    incident = make_incident(assignee=bob)
    with transaction.atomic():
        alerts.incident_opened(incident, now=NOW)
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()


def test_everybody_alerted_learns_once_that_it_is_resolved(alice: User, bob: User) -> None:
    channel = make_channel()
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    User.objects.create_superuser("late", "late@example.org", factories.PASSWORD)
    for _ in range(2):
        alerts.incident_resolved(incident, now=NOW + timedelta(hours=2))
    assert set(recipients(Event.HEALED)) == {"bob@example.org", "alice@example.org", str(channel)}


def test_people_who_left_or_opted_out_do_not_learn_of_the_resolution(alice: User, bob: User) -> None:
    channel = make_channel()
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    choose(bob, recoveries=False)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    AlertChannel.objects.filter(pk=channel.pk).update(disabled_at=NOW)
    alerts.incident_resolved(incident, now=NOW + timedelta(hours=2))
    assert recipients(Event.HEALED) == {}


def test_an_address_in_another_case_is_the_same_person(bob: User) -> None:
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    User.objects.filter(pk=bob.pk).update(email="BOB@example.org", is_active=False)
    alerts.incident_resolved(incident, now=NOW)
    assert recipients(Event.HEALED) == {}


def remind_after_everything_arrived(now: datetime) -> int:
    Delivery.objects.filter(delivered_at=None).update(delivered_at=now, next_attempt_at=None)
    return alerts.remind_due(now)


def test_reminders_become_less_frequent(bob: User) -> None:
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    sent_after = []
    for hour in range(24 * 30):
        if remind_after_everything_arrived(NOW + timedelta(hours=hour)):
            sent_after.append(hour)
    assert sent_after == [4, 24, 72, 168, 336, 504, 672]
    assert Delivery.objects.filter(event=Event.REMINDER).count() == 7


def test_missed_reminders_are_skipped(bob: User) -> None:
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    assert remind_after_everything_arrived(NOW + timedelta(days=5)) == 1
    assert factories.reloaded(incident).remind_after == NOW + timedelta(days=7)
    assert alerts.remind_due(NOW + timedelta(days=5)) == 0


def test_a_resolved_incident_sends_no_reminder(bob: User) -> None:
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    alerts.incident_resolved(incident, now=NOW)
    assert remind_after_everything_arrived(NOW + timedelta(days=2)) == 0


def test_two_workers_remind_once(bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    incident = make_incident(assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    later = NOW + timedelta(hours=5)
    calls: list[Any] = []
    real = alerts._next_reminder

    def meanwhile(*args: Any) -> datetime:
        if not calls:
            calls.append(1)
            remind_after_everything_arrived(later)  # the other worker, after our query and before our claim
        return real(*args)

    monkeypatch.setattr(alerts, "_next_reminder", meanwhile)
    assert remind_after_everything_arrived(later) == 0
    assert Delivery.objects.filter(event=Event.REMINDER).count() == 1
    assert factories.reloaded(incident).reminders == 1


def test_no_reminder_is_sent_before_the_first_alert_arrived(bob: User, alice: User) -> None:
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    Delivery.objects.filter(email="alice@example.org").update(delivered_at=NOW, next_attempt_at=None)
    alerts.remind_due(NOW + timedelta(hours=4))
    assert recipients(Event.REMINDER) == {"alice@example.org": "copy"}


def test_people_can_opt_out_of_reminders(bob: User) -> None:
    choose(bob, reminders=False)
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    remind_after_everything_arrived(NOW + timedelta(hours=4))
    assert recipients(Event.REMINDER) == {}


def test_a_thousand_incidents_become_a_few_messages_per_recipient(alice: User, bob: User) -> None:
    teams = make_channel(name="Teams", kind=AlertChannel.Kind.CHAT)
    hook = make_channel(name="Hook", disabled_at=None)
    for number in range(200):
        alerts.incident_opened(make_incident(assignee=bob, title=f"No. {number}"), now=NOW)
    held = NOW + alerts.WINDOW
    for channel in (teams, hook):
        AlertChannel.objects.filter(pk=channel.pk).update(disabled_at=NOW)  # only the emails are sent here
    assert hook.deliveries.filter(next_attempt_at=NOW).count() == 200
    assert teams.deliveries.filter(next_attempt_at=held).count() == 200 - alerts.BURST
    outbox.deliver_due(NOW)
    outbox.deliver_due(held - timedelta(seconds=1))
    assert sorted(sent.to[0] for sent in mail.outbox) == ["alice@example.org", "bob@example.org"]
    outbox.deliver_due(held, limit=500)
    assert len(mail.outbox) == 4
    assert mail.outbox[-1].subject == "195 updates: 195 new incidents"
    assert not Delivery.objects.filter(channel=None, delivered_at=None).exists()


def test_it_admins_are_warned_once_for_each_number_of_days(alice: User, bob: User) -> None:
    make_channel()
    credential = factories.make_app_registration().credentials.get()
    for days in (30, 30, 14):
        alerts.credential_expires(credential, days=days, now=NOW)
    rows = Delivery.objects.filter(event=Event.EXPIRY)
    expected = {("", 14): 1, ("", 30): 1, ("alice@example.org", 14): 1, ("alice@example.org", 30): 1}
    assert Counter((row.email, row.payload["number"]) for row in rows) == expected


def test_the_warning_explains_what_stops_and_when(alice: User, app: AppRegistration) -> None:
    factories.make_connection(app_registration=app)
    credential = app.credentials.get()
    credential.expires_at = datetime(2026, 12, 7, tzinfo=UTC)
    credential.save()
    alerts.credential_expires(credential, days=14, now=NOW)
    outbox.deliver_due(NOW)
    sent = mail_to("alice@example.org")
    assert sent.subject == "Client secret for Contoso Connections expires within 14 days"
    assert "1 connection is affected." in sent.body
    assert "7 December 2026, 00:00 UTC" in sent.body
    assert f"http://localhost:8000/apps/{app.pk}/" in sent.body


def test_a_corrected_date_is_warned_of_again(alice: User) -> None:
    credential = factories.make_app_registration().credentials.get()
    for year in (2026, 2027, 2027):
        credential.expires_at = datetime(year, 12, 7, tzinfo=UTC)
        alerts.credential_expires(credential, days=30, now=NOW)
    assert Delivery.objects.filter(event=Event.EXPIRY).count() == 2


def test_the_warning_is_calm_when_another_credential_lasts_longer(alice: User, app: AppRegistration) -> None:
    old = app.credentials.get()
    old.expires_at = NOW - timedelta(hours=1)
    old.save()
    factories.make_secret(app, "another-secret", expires_at=NOW + timedelta(days=300))
    alerts.credential_expires(old, days=1, now=NOW)
    outbox.deliver_due(NOW)
    sent = mail_to("alice@example.org")
    assert sent.subject == "Client secret for Contoso Connections has expired"
    assert "Another credential of this app registration expires later, so no connection is affected." in sent.body


def test_people_can_opt_out_of_warnings(alice: User) -> None:
    choose(alice, expiry_warnings=False)
    alerts.credential_expires(factories.make_app_registration().credentials.get(), days=7, now=NOW)
    assert not Delivery.objects.exists()


def mail_to(address: str) -> Any:
    mails = [sent for sent in mail.outbox if sent.to == [address]]
    assert mails, f"no mail to {address}"
    return mails[-1]


def test_the_mail_explains_what_why_since_when_who_and_what_breaks(alice: User, bob: User) -> None:
    incident = make_incident(affected=1, assignee=bob, assignee_name="Bob Member")
    alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW)
    sent = mail_to("bob@example.org")
    assert sent.subject == "Flow 00 needs you to sign in again"
    html = sent.alternatives[0].content
    for text in (sent.body, html):
        assert_shows(text, "ada@contoso.example needs to sign in again", "The password was changed.", "AADSTS50173")
        assert_shows(text, "What to do: Sign in again with the same account.", "23 November 2026, 09:00 UTC")
        assert_shows(text, "Bob Member (owner)", "Flow 00 (owner: Bob Member)", "because you own this connection")
        assert_shows(text, f"http://localhost:8000/incidents/{incident.pk}/", "http://localhost:8000/account/alerts/")
    assert sent.extra_headers["Auto-Submitted"] == "auto-generated"
    assert sent.extra_headers["List-Unsubscribe"] == "<http://localhost:8000/account/alerts/>"
    assert "because you're an IT admin and chose to receive" in mail_to("alice@example.org").body


def test_the_owner_and_the_it_admin_read_you(alice: User, bob: User) -> None:
    action = "The owner needs to sign in again. Otherwise an IT admin needs to unblock the account."
    alerts.incident_opened(make_incident(affected=1, assignee=bob, action=action), now=NOW)
    action = "An IT admin needs to grant consent. If user consent is allowed, the owner can sign in again instead."
    alerts.incident_opened(make_incident(affected=1, who=Connection.Who.IT_ADMIN, action=action), now=NOW)
    outbox.deliver_due(NOW)
    assert "What to do: You need to sign in again. Otherwise an IT admin needs" in mail_to("bob@example.org").body
    copy, assigned = [sent.body for sent in mail.outbox if sent.to == ["alice@example.org"]]
    assert "What to do: The owner needs to sign in again. Otherwise you need to unblock the account." in copy
    assert "What to do: Grant consent. If user consent is allowed, the owner can sign in" in assigned


def test_the_mail_about_the_end_says_how_long_it_took(bob: User) -> None:
    incident = make_incident(affected=3, assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    incident.closed_at = NOW + timedelta(hours=3, minutes=5)
    incident.save()
    alerts.incident_resolved(incident, now=incident.closed_at)
    outbox.deliver_due(incident.closed_at)
    sent = mail_to("bob@example.org")
    assert sent.subject == "Resolved: 3 connections"
    assert "Resolved after 3 hours. No action needed." in sent.body


def test_a_late_alert_says_that_it_is_resolved(bob: User) -> None:
    incident = make_incident(affected=1, assignee=bob, closed_at=NOW + timedelta(minutes=5))
    alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW + timedelta(hours=1))
    assert "Resolved on 23 November 2026, 09:05 UTC. No action needed." in mail.outbox[0].body
    assert "What to do" not in mail.outbox[0].body


def test_names_cannot_break_out_of_subject_header_html_or_card(bob: User) -> None:
    incident = make_incident(affected=1, assignee=bob)
    nasty = "Mail\r\nBcc: eve@example.org\u202e <script>alert(1)</script>"
    incident.affected.update(connection_name=nasty)
    alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW)
    sent = mail_to("bob@example.org")
    assert sent.subject.startswith("Mail Bcc: eve@example.org <script>")
    assert sent.message()["Bcc"] is None
    assert "<script>" not in sent.alternatives[0].content


@pytest.mark.parametrize(
    ("kind", "who", "count", "subject"),
    [
        ("app_registration", "it_admin", 2, "2 connections: app credential rejected"),
        ("account", "it_admin", 1, "Flow 00: account can't sign in"),
        ("consent", "it_admin", 1, "Flow 00: consent required"),
        ("policy", "it_admin", 2, "2 connections: blocked by policy"),
        ("mailbox", "it_admin", 1, "Flow 00: shared mailbox unreachable"),
        ("encryption_key", "it_admin", 2, "2 connections: encryption key missing"),
        ("outage", "microsoft", 0, "ada@contoso.example needs to sign in again"),
    ],
)
def test_the_subject_names_what_stopped_and_why(alice: User, kind: str, who: str, count: int, subject: str) -> None:
    alerts.incident_opened(make_incident(affected=count, kind=kind, who=who), now=NOW)
    outbox.deliver_due(NOW)
    assert mail_to("alice@example.org").subject == subject


def test_a_reminder_says_how_long_it_has_lasted(bob: User) -> None:
    alerts.incident_opened(make_incident(affected=1, assignee=bob), now=NOW)
    later = NOW + timedelta(days=3)
    remind_after_everything_arrived(later)
    outbox.deliver_due(later)
    assert mail_to("bob@example.org").subject == "Unresolved for 3 days: Flow 00 needs you to sign in again"


@pytest.mark.parametrize("kind", ["hand_over", "leaver"])
def test_warnings_before_anything_breaks_name_the_task(bob: User, kind: str) -> None:
    incident = make_incident(affected=1, assignee=bob, kind=kind, title="Sign in for Flow 00")
    alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW)
    assert mail_to("bob@example.org").subject == "Sign in for Flow 00"
    later = NOW + timedelta(days=3)
    remind_after_everything_arrived(later)
    outbox.deliver_due(later)
    assert mail_to("bob@example.org").subject == "Unresolved for 3 days: Sign in for Flow 00"
    alerts.incident_resolved(incident, now=later)
    outbox.deliver_due(later)
    assert mail_to("bob@example.org").subject == "Resolved: Sign in for Flow 00"


def test_preferences_are_saved_and_audited_once(bob: User) -> None:
    for _ in range(2):
        alerts.set_preferences(User.objects.get(pk=bob.pk), actor=bob, own_incidents=True, reminders=False)
    assert AlertChoice.objects.get().reminders is False
    assert AuditEvent.objects.get(action="account.alerts_chosen").changes == {"reminders": [True, False]}


def test_nobody_sets_another_persons_preferences(alice: User, bob: User) -> None:
    with pytest.raises(NotAllowed):
        alerts.set_preferences(bob, actor=alice, own_incidents=False)


def test_a_test_goes_to_ones_own_address_only(alice: User, bob: User) -> None:
    with pytest.raises(NotAllowed):
        alerts.send_test(bob, actor=alice, now=NOW)
    bob.email = ""
    with pytest.raises(InvalidInput, match="no email address"):
        alerts.send_test(bob, actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        alerts.send_test(make_channel(), actor=bob, now=NOW)
    assert not Delivery.objects.exists()
    delivery = alerts.send_test(alice, actor=alice, now=NOW)
    assert outbox.send_now(delivery, actor=alice, now=NOW).delivered_at == NOW
    assert "Alice Admin sent this test alert. No action needed." in mail_to("alice@example.org").body
