"""Times in the reader's zone: the chosen one, or else the browser's, on pages; the chosen one in emails."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections import time_zones
from connections.models import AuditEvent, Incident, User
from connections.services.notifications import alerts, outbox
from tests import factories
from tests.services.notifications.test_alerts import NOW, make_incident
from tests.views.pages import text

WINTER = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


@pytest.fixture
def incident(alice: User) -> Incident:
    return Incident.objects.create(
        kind=Incident.Kind.OUTAGE, key="outage:global", title="Outage", opened_at=WINTER, seen_at=WINTER
    )


def exact_time(client: Client, incident: Incident) -> str:
    page = text(client.get(f"/incidents/{incident.pk}/"))
    return page.partition('datetime="2026-01-05T12:00:00+00:00" title="')[2].partition('"')[0]


@pytest.mark.parametrize(
    ("chosen", "of_browser", "shown"),
    [
        ("", "", "2026-01-05 12:00:00 UTC"),
        ("", "Europe/Berlin", "2026-01-05 13:00:00 CET"),
        ("Asia/Tokyo", "Europe/Berlin", "2026-01-05 21:00:00 JST"),
        ("UTC", "Europe/Berlin", "2026-01-05 12:00:00 UTC"),
        ("", "../../etc/passwd", "2026-01-05 12:00:00 UTC"),
    ],
)
def test_pages_use_the_chosen_zone_before_the_browsers(
    alice: User, incident: Incident, chosen: str, of_browser: str, shown: str
) -> None:
    User.objects.filter(pk=alice.pk).update(time_zone=chosen)
    client = factories.signed_in(alice)
    client.cookies[time_zones.COOKIE] = of_browser
    assert exact_time(client, incident) == shown
    assert timezone.get_current_timezone_name() == "UTC", "the next request starts anew"


def test_a_person_chooses_their_zone_on_their_account_page(alice: User, incident: Incident) -> None:
    client = factories.signed_in(alice)
    assert client.post("/account/", {"time_zone": "Nowhere/Else"}).status_code == 422
    assert client.post("/account/", {"time_zone": "America/New_York"}).status_code == 302
    assert factories.reloaded(alice).time_zone == "America/New_York"
    assert AuditEvent.objects.get(action="account.changed").changes == {"time_zone": ["", "America/New_York"]}
    assert exact_time(client, incident) == "2026-01-05 07:00:00 EST"
    assert 'data-time-zone="America/New_York"' in text(client.get("/account/"))
    client.post("/account/", {"time_zone": ""})
    assert factories.reloaded(alice).time_zone == ""


def test_evidence_stays_in_utc(carol: User) -> None:
    User.objects.filter(pk=carol.pk).update(time_zone="Asia/Tokyo")
    client = factories.signed_in(carol)
    assert "(UTC" in text(client.get(reverse("access_history")))
    review = factories.make_review(started_at=WINTER + timedelta(hours=10))
    assert "2026-01-05 22:00 UTC" in text(client.get(f"/reviews/{review.pk}/report/"))


def test_each_email_has_times_in_the_zone_of_its_reader(bob: User, alice: User, settings: Any) -> None:
    User.objects.filter(pk=alice.pk).update(time_zone="Asia/Tokyo")
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    opened_at = NOW.replace(hour=20, minute=30)
    for person in (alice, bob):
        incident = make_incident(affected=1, assignee=person, key=f"account:{person.pk}", opened_at=opened_at)
        alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW)
    bodies = {message.to[0]: message.body for message in mail.outbox}
    assert "20:30 UTC" in bodies["bob@example.org"]
    assert "05:30 JST" in bodies["alice@example.org"]
