"""The outbox, with a real mail server and a real web server at the other end."""

import base64
import hashlib
import hmac
import json
import textwrap
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection as database

from connections.errors import NotAllowed
from connections.models import AlertChannel, AuditEvent, Delivery, User
from connections.outbound import webhooks
from connections.services.notifications import alerts, outbox
from tests import factories
from tests.api.api_client import at_once
from tests.environment import ROOT
from tests.fake_receivers import Hooks, Mailboxes, mail_server, use_mail_server, web_server
from tests.services.notifications.test_alerts import NOW, make_channel, make_incident
from tests.views.pages import assert_hides, assert_shows

BOB = "bob@example.org"


@pytest.fixture
def boxes(settings: Any) -> Mailboxes:
    """A mail server that is down until the test starts it."""
    return use_mail_server(settings)


@pytest.fixture
def hooks(settings: Any) -> Iterator[Hooks]:
    settings.ALERT_PRIVATE_TARGETS = True
    with web_server() as server:
        yield server


def open_incident(bob: User, **overrides: Any) -> Delivery:
    alerts.incident_opened(make_incident(affected=1, assignee=bob, **overrides), now=NOW)
    return Delivery.objects.get(email=BOB)


def wait_out(delivery: Delivery) -> Any:
    """Return the time when the delivery is due again."""
    return factories.reloaded(delivery).next_attempt_at


def test_a_mail_arrives_and_is_recorded(bob: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    with mail_server(boxes):
        summary = outbox.deliver_due(NOW)
        assert outbox.deliver_due(NOW + timedelta(days=1)).claimed == 0
    assert summary == outbox.Summary(claimed=1, delivered=1, failed=0)
    (mail,) = boxes.to(BOB)
    assert (mail["Subject"], mail["Auto-Submitted"]) == ("Flow 00 needs you to sign in again", "auto-generated")
    assert mail["Message-ID"] == f"<alert-{delivery.pk}-{int(NOW.timestamp())}@localhost>"
    assert mail["References"].startswith("<incident-")
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    delivery.refresh_from_db()
    assert (delivery.delivered_at, delivery.next_attempt_at, delivery.attempts) == (NOW, None, 1)


def test_a_dead_mail_server_loses_nothing_and_everything_arrives_once(bob: User, alice: User, boxes: Mailboxes) -> None:
    incidents = [make_incident(assignee=bob, title=f"No. {n}") for n in range(3)]
    for incident in incidents:
        alerts.incident_opened(incident, now=NOW)
    now = NOW
    for _ in range(200):  # about a day
        outbox.deliver_due(now)
        now += timedelta(minutes=7)
    alerts.incident_resolved(incidents[0], now=now)
    outbox.deliver_due(now)
    waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None)
    assert waiting.count() == Delivery.objects.count() == 8
    assert {row.last_error for row in waiting} == {"The mail server can't be reached."}
    with mail_server(boxes):
        for _ in range(300):
            outbox.deliver_due(now)
            now += timedelta(minutes=7)
    assert not Delivery.objects.filter(delivered_at=None).exists()
    sent = sorted((to, subject) for to, subject in zip(boxes.recipients, boxes.subjects, strict=True))
    assert len(sent) == len(set(sent))
    assert {to for to, _ in sent} == {BOB, "alice@example.org"}
    everything = "\n".join(part.get_content() for mail in boxes.to(BOB) for part in [mail.get_body(("plain",))] if part)
    for number in range(3):
        assert f"No. {number}" in everything or f"incidents/{incidents[number].pk}/" in everything


def test_retries_slow_down_and_end_after_three_days(bob: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    due, waits = NOW, []
    outbox.deliver_due(due)
    while following := wait_out(delivery):
        waits.append((following - due).total_seconds())
        due = following
        outbox.deliver_due(due)
    assert len(waits) == len(outbox.WAITS)
    for wait, planned in zip(waits, outbox.WAITS, strict=True):
        assert 0.8 * planned <= wait <= 1.2 * planned
    assert 2.2 < sum(waits) / 86400 < 3.5
    assert factories.reloaded(delivery).given_up_at is not None
    assert delivery.attempts == len(outbox.WAITS) + 1


def test_a_hanging_mail_server_costs_one_time_out_per_batch(bob: User, alice: User, boxes: Mailboxes) -> None:
    open_incident(bob)
    boxes.silent.set()
    with mail_server(boxes):
        assert outbox.deliver_due(NOW).failed == 2
        assert boxes.sessions == 1
        boxes.silent.clear()
        assert outbox.deliver_due(NOW + timedelta(minutes=2)).delivered == 2
    assert len(boxes.mails) == 2


def test_a_refused_address_does_not_hold_up_the_others(bob: User, alice: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    boxes.refused[BOB] = "550 5.1.1 no such person"
    with mail_server(boxes):
        summary = outbox.deliver_due(NOW)
    assert (summary.delivered, summary.failed) == (1, 1)
    assert factories.reloaded(delivery).last_error == "The mail server rejected the address: 550 5.1.1 no such person"
    assert boxes.recipients == ["alice@example.org"]


def test_a_refused_message_is_tried_again(bob: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    boxes.refuse_data = "451 try later"
    with mail_server(boxes):
        outbox.deliver_due(NOW)
        assert "451 try later" in Delivery.objects.get(pk=delivery.pk).last_error
        boxes.refuse_data = ""
        outbox.deliver_due(wait_out(delivery))
    assert len(boxes.mails) == 1


def test_an_unusable_address_does_not_stop_the_batch(bob: User, alice: User, boxes: Mailboxes) -> None:
    User.objects.filter(pk=bob.pk).update(email="bob@example.org\nBcc: eve@example.org")
    alerts.incident_opened(make_incident(assignee=User.objects.get(pk=bob.pk)), now=NOW)
    with mail_server(boxes):
        summary = outbox.deliver_due(NOW)
    assert (summary.delivered, summary.failed) == (1, 1)
    assert boxes.recipients == ["alice@example.org"]


def test_all_mails_go_over_one_connection(bob: User, alice: User, boxes: Mailboxes) -> None:
    open_incident(bob)
    with mail_server(boxes):
        outbox.deliver_due(NOW)
    assert (len(boxes.mails), boxes.sessions) == (2, 1)


def test_a_worker_that_dies_after_sending_sends_again_under_the_same_id(
    bob: User, boxes: Mailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = open_incident(bob)

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with mail_server(boxes):
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "_record_outcome", die)
            with pytest.raises(KeyboardInterrupt):
                outbox.deliver_due(NOW)
        assert outbox.deliver_due(NOW + outbox.LEASE - timedelta(seconds=1)).claimed == 0
        assert outbox.deliver_due(NOW + outbox.LEASE).delivered == 1
    first, second = boxes.to(BOB)
    assert first["Message-ID"] == second["Message-ID"]
    assert Delivery.objects.get(pk=delivery.pk).attempts == 2


def test_every_attempt_sends_the_same_facts(bob: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    outbox.deliver_due(NOW)
    assert delivery.incident is not None
    delivery.incident.affected.update(connection_name="Renamed")
    with mail_server(boxes):
        outbox.deliver_due(wait_out(delivery))
    assert boxes.subjects == ["Flow 00 needs you to sign in again"]


@pytest.mark.django_db(transaction=True)
def test_two_workers_share_the_outbox(bob: User, boxes: Mailboxes) -> None:
    rows = [
        Delivery(key=f"k{n}", event="test", email=f"p{n}@example.org", created_at=NOW, next_attempt_at=NOW)
        for n in range(60)
    ]
    Delivery.objects.bulk_create(rows)
    with mail_server(boxes):
        at_once(*[partial(outbox.deliver_due, NOW, limit=5)] * 3)
    assert sorted(boxes.recipients) == sorted(row.email for row in rows)
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


def test_a_webhook_is_signed_and_keeps_its_id_over_retries(alice: User, bob: User, hooks: Hooks) -> None:
    secret = webhooks.new_secret()
    channel = make_channel(url=hooks.url, host="127.0.0.1", signing_secret=secret)
    incident = make_incident(affected=2, assignee=bob)
    alerts.incident_opened(incident, now=NOW)
    delivery = Delivery.objects.get(channel=channel)
    hooks.status = 500
    outbox.deliver_due(NOW)
    assert Delivery.objects.get(pk=delivery.pk).last_error == "The receiver responded with status 500."
    hooks.status = 202
    later = wait_out(delivery)
    outbox.deliver_due(later)
    first, second = hooks.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert second.headers["webhook-timestamp"] == str(int(later.timestamp()))
    # Verified by hand rather than with our own code, as a receiver would do it.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{second.headers['webhook-id']}.{second.headers['webhook-timestamp']}.".encode() + second.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert second.headers["webhook-signature"] == f"v1,{expected}"
    assert second.headers["content-type"] == "application/json"
    document = json.loads(second.body)
    assert (document["type"], document["timestamp"]) == ("incident.opened", NOW.isoformat())
    facts = document["data"]["incident"]
    assert facts["id"] == incident.pk
    assert facts["url"] == f"http://localhost:8000/incidents/{incident.pk}/"
    assert [connection["name"] for connection in facts["connections"]] == ["Flow 00", "Flow 01"]
    assert (facts["who"], facts["closed_at"], facts["connection_count"]) == ("owner", None, 2)


def test_the_signature_is_the_one_of_the_specification() -> None:
    """This is the example in the specification."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = webhooks.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330, secret)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_receiver_in_the_documentation_tells_genuine_from_forged() -> None:
    text = (ROOT / "docs/alerts.md").read_text()
    code = text[text.index("    import base64") : text.index("The signing secret is shown once")]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    is_genuine, now = names["is_genuine"], int(time.time())
    secret, old = webhooks.new_secret(), webhooks.new_secret()
    headers = webhooks.headers("alert-1-2", b"{}", timestamp=now, signing_secrets=[secret, old])
    assert is_genuine(headers, b"{}", secret)
    assert is_genuine(headers, b"{}", old)
    assert not is_genuine(headers, b"{ }", secret)
    assert not is_genuine(headers, b"{}", webhooks.new_secret())
    late = webhooks.headers("alert-1-2", b"{}", timestamp=now - 301, signing_secrets=[secret])
    assert not is_genuine(late, b"{}", secret)


def test_a_webhook_gets_every_alert_of_a_burst(alice: User, bob: User, hooks: Hooks) -> None:
    make_channel(url=hooks.url, host="127.0.0.1")
    for number in range(12):
        alerts.incident_opened(make_incident(assignee=bob, title=f"No. {number}"), now=NOW)
    outbox.deliver_due(NOW)
    assert len(hooks.requests) == len({request.headers["webhook-id"] for request in hooks.requests}) == 12


def test_a_chat_gets_an_adaptive_card(alice: User, bob: User, hooks: Hooks) -> None:
    make_channel(kind=AlertChannel.Kind.CHAT, url=hooks.url, host="127.0.0.1", signing_secret=None)
    incident = make_incident(affected=25, assignee=bob, assignee_name="Bob Member")
    alerts.incident_opened(incident, now=NOW)
    outbox.deliver_due(NOW)
    (request,) = hooks.requests
    message = json.loads(request.body)
    (attachment,) = message["attachments"]
    assert message["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert card["actions"] == [
        {
            "type": "Action.OpenUrl",
            "title": "View incident",
            "url": f"http://localhost:8000/incidents/{incident.pk}/",
        }
    ]
    runs = [run["text"] for block in card["body"] for run in block["inlines"]]
    assert runs[0] == "ada@contoso.example needs to sign in again"
    assert_shows(" ".join(runs), "Bob Member (owner)", "and 5 more")
    assert len(request.body) < 28_000


def test_many_alerts_to_a_chat_are_one_card(alice: User, bob: User, hooks: Hooks) -> None:
    make_channel(kind=AlertChannel.Kind.CHAT, url=hooks.url, host="127.0.0.1", signing_secret=None)
    for number in range(5):
        alerts.incident_opened(make_incident(assignee=bob, title=f"No. {number}"), now=NOW)
    outbox.deliver_due(NOW)
    (request,) = hooks.requests
    assert b"5 updates: 5 new incidents" in request.body


def test_a_silent_channel_costs_one_time_out_per_batch(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    from connections.outbound import safe_http

    make_channel()
    for number in range(3):
        alerts.incident_opened(make_incident(assignee=bob, title=f"No. {number}"), now=NOW)
    calls = []

    def post(url: str, *args: Any, **kwargs: Any) -> safe_http.PostResult:
        calls.append(url)
        return safe_http.PostResult(0, "The receiver didn't respond in time.")

    monkeypatch.setattr(safe_http, "post", post)
    assert outbox.deliver_due(NOW).failed == 3
    assert len(calls) == 1
    rows = Delivery.objects.exclude(channel=None)
    assert set(rows.values_list("last_error", flat=True)) == {"The receiver didn't respond in time."}


def test_nothing_goes_to_a_private_address_unless_allowed(alice: User, bob: User, hooks: Hooks, settings: Any) -> None:
    channel = make_channel(url=hooks.url.replace("http://", "https://"), host="127.0.0.1")
    settings.ALERT_PRIVATE_TARGETS = False
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    outbox.deliver_due(NOW)
    assert hooks.requests == []
    assert "on a private network" in Delivery.objects.get(channel=channel).last_error


def test_a_disabled_channel_gets_nothing_more(alice: User, bob: User, hooks: Hooks) -> None:
    channel = make_channel(url=hooks.url, host="127.0.0.1")
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    AlertChannel.objects.filter(pk=channel.pk).update(disabled_at=NOW)
    outbox.deliver_due(NOW)
    assert hooks.requests == []
    row = Delivery.objects.get(channel=channel)
    assert (row.given_up_at, row.last_error) == (NOW, "The channel is disabled.")


def test_without_the_encryption_key_the_alert_waits_and_mails_still_go(
    alice: User, bob: User, hooks: Hooks, boxes: Mailboxes
) -> None:
    channel = make_channel(url=hooks.url, host="127.0.0.1")
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_alertchannel SET url = 'gAAAA-no-key-opens-this'")
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    with mail_server(boxes):
        summary = outbox.deliver_due(NOW)
    assert (summary.delivered, summary.failed) == (2, 1)
    row = Delivery.objects.get(channel=channel)
    assert "encryption keys" in row.last_error
    assert row.next_attempt_at is not None
    assert hooks.requests == []


def test_no_secret_is_kept_with_the_delivery(alice: User, bob: User, hooks: Hooks) -> None:
    channel = make_channel(url=hooks.url, host="127.0.0.1", signing_secret="whsec_cmVjb2duaXNhYmxl")
    hooks.status = 418
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    outbox.deliver_due(NOW)
    row = Delivery.objects.get(channel=channel)
    text = f"{row.payload} {row.last_error} {row.key} {row!r}"
    assert_hides(text, "a-secret-part", "whsec_")


def test_an_it_admin_retries_what_was_given_up(alice: User, bob: User, boxes: Mailboxes) -> None:
    delivery = open_incident(bob)
    Delivery.objects.filter(pk=delivery.pk).update(given_up_at=NOW, next_attempt_at=None, attempts=14, last_error="x")
    with pytest.raises(NotAllowed):
        outbox.send_now(delivery, actor=bob, now=NOW)
    with mail_server(boxes):
        summary = outbox.send_now(delivery, actor=alice, now=NOW)
        assert (summary.delivered_at, summary.given_up_at, summary.last_error) == (NOW, None, "")
        with pytest.raises(outbox.NothingToRetry):
            outbox.send_now(summary, actor=alice, now=NOW)
    assert len(boxes.mails) == 1
    assert AuditEvent.objects.get(action="delivery.tried_again").actor == alice


def test_everything_given_up_is_retried_except_for_disabled_channels(alice: User, bob: User, boxes: Mailboxes) -> None:
    make_channel(name="Off")
    open_incident(bob)
    AlertChannel.objects.update(disabled_at=NOW)
    Delivery.objects.update(given_up_at=NOW, next_attempt_at=None)
    with pytest.raises(NotAllowed):
        outbox.retry_failed(actor=bob, now=NOW)
    assert outbox.retry_failed(actor=alice, now=NOW) == 2
    with mail_server(boxes):
        assert outbox.deliver_due(NOW).delivered == 2
