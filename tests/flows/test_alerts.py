"""Alerts, all the way from Microsoft's response to the email that is sent."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from connections.models import Delivery, Incident, User
from connections.services.notifications import alerts, outbox
from connections.services.tokens import scheduler
from portal.processes import Process
from portal.sandbox import seed
from portal.sandbox.client import Control
from portal.sandbox.process import free_port
from tests import factories
from tests.fake_receivers import Mailboxes, mail_server, use_mail_server
from tests.flows.conftest import Meet


def connected(sandbox: Control, count: int) -> None:
    """Create connections of bob's that use the same account and are all due for a refresh."""
    for number in range(count):
        factories.make_granted_connection(sandbox, name=f"Flow {number}", refresh_after=timezone.now())


def test_revoking_a_person_with_three_connections_sends_one_alert(
    person: Meet, alice: User, bob: User, sandbox: Control
) -> None:
    connected(sandbox, 3)
    sandbox.revoke_sessions(factories.ADA)
    now = timezone.now()
    for minute in range(5):
        scheduler.sweep(now=now + timedelta(minutes=minute))
        outbox.deliver_due(now + timedelta(minutes=minute))
    sent = [message for message in mail.outbox if message.to == ["bob@example.org"]]
    assert [message.subject for message in sent] == ["3 connections need you to sign in again"]

    # The link in the email leads to the button that fixes it. The recovery is emailed once as well.
    path = re.search(r"http://localhost:8000(/incidents/\d+/)", str(sent[0].body))
    assert path is not None
    member = person(bob)
    assert "Sign in again as ada@contoso.example" in member.get(path[1]).content.decode()
    for pk in Incident.objects.get().affected.values_list("connection_id", flat=True):
        member.connect(member.post(f"/connections/{pk}/sign-in/"), factories.ADA)
    assert Incident.objects.get().closed_at is not None
    for _ in range(3):
        outbox.deliver_due(timezone.now())
        alerts.remind_due(timezone.now() + timedelta(days=30))
    subjects = [message.subject for message in mail.outbox if message.to == ["bob@example.org"]]
    assert subjects[1:] == ["Resolved: 3 connections"]


def test_an_expired_app_secret_is_one_alert_for_all_its_connections(alice: User, bob: User, sandbox: Control) -> None:
    connected(sandbox, 20)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    now = timezone.now()
    for minute in range(3):
        scheduler.sweep(now=now + timedelta(minutes=minute, seconds=1))
        outbox.deliver_due(now + timedelta(minutes=minute, seconds=1))
    assert [(message.to, message.subject) for message in mail.outbox] == [
        (["alice@example.org"], "20 connections: app credential rejected")
    ]


def test_a_mail_server_that_is_down_the_whole_time_loses_nothing(
    alice: User, bob: User, sandbox: Control, settings: Any
) -> None:
    boxes = use_mail_server(settings)
    connected(sandbox, 3)
    sandbox.revoke_sessions(factories.ADA)
    now = timezone.now()
    for hour in range(30):
        scheduler.sweep(now=now + timedelta(hours=hour))
        alerts.remind_due(now + timedelta(hours=hour))
        outbox.deliver_due(now + timedelta(hours=hour))
    assert Delivery.objects.count() == 2, "no reminder for whom the first alert has not reached"
    with mail_server(boxes):
        for hour in range(30, 60):
            outbox.deliver_due(now + timedelta(hours=hour))
    assert sorted(boxes.recipients) == ["alice@example.org", "bob@example.org"]


@pytest.mark.django_db(transaction=True)
def test_worker_and_beat_deliver_by_themselves(
    alice: User, bob: User, celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> None:
    from tests.services.notifications.test_alerts import make_incident

    alerts.incident_opened(make_incident(affected=1, assignee=bob), now=timezone.now())
    boxes = Mailboxes(free_port())
    with mail_server(boxes):
        workers = celery_worker(EMAIL_URL=f"smtp://127.0.0.1:{boxes.port}")
        celery_beat(ALERT_INTERVAL="0.5", SWEEP_INTERVAL="60", PROBE_INTERVAL="60")
        workers[0].wait_for_line('"delivered": 2', seconds=30)
    assert sorted(boxes.recipients) == ["alice@example.org", "bob@example.org"]
    assert not Delivery.objects.filter(delivered_at=None).exists()
