"""The event stream: everything arrives at the receiver, in order, whatever happens to the receiver or to a worker."""

import json
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client

from connections import audit
from connections.models import AuditEvent, AuditSeal, Connection, SealPublication, User
from connections.models.audit import AuditAction
from connections.outbound import safe_http, syslog, webhooks
from connections.services.api_keys import api_keys
from connections.services.audit import cursors, sealing, serialization, streaming
from connections.services.operations import retention
from portal.sandbox.process import free_port
from tests import factories, tls
from tests.fake_receivers import Syslog, syslog_server, web_server
from tests.services.audit.test_sealing import thread

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
SECRET = webhooks.new_secret()
_STRUCTURED = re.compile(
    r"^<(\d+)>1 (\S+) (\S+) connection-portal - (\S+) \[audit@32473((?: \w+=\"(?:[^\"\\\]]|\\.)*\")*)\] (.*)$",
    re.DOTALL,
)


@pytest.fixture(autouse=True)
def unset(settings: Any) -> None:
    settings.AUDIT_STREAM_URL = ""
    settings.AUDIT_STREAM_PRIVATE_TARGET = True


def record(connection: Connection, count: int, **facts: Any) -> None:
    for number in range(count):
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=connection.owner, changes={"n": number, **facts})


@pytest.fixture
def trail(connection: Connection) -> list[str]:
    """Twelve events and a token request in four seals; returns what must arrive, as kind and id."""
    record(connection, 12)
    api_keys.record_token_request(factories.make_key(connection.owner)[0], connection, address=None, now=NOW)
    sealing.seal_due(NOW + timedelta(minutes=5), batch=4)
    events = [f"event {pk}" for pk in AuditEvent.objects.order_by("pk").values_list("pk", flat=True)]
    rows = [entry for seal in AuditSeal.objects.order_by("number") for entry in streaming._entries(seal)]
    expected = [f"{entry.fields['kind']} {entry.fields['id']}" for entry in rows]
    assert [name for name in expected if name.startswith("event")] == events
    assert len(expected) == len(events) + 1
    return expected


@pytest.fixture
def receiver(settings: Any) -> Iterator[Syslog]:
    with syslog_server() as log:
        settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{log.port}"
        yield log


def parsed(message: str) -> dict[str, Any]:
    """Return the JSON text of a message, whose form is checked."""
    match = _STRUCTURED.match(message)
    assert match, message
    line: dict[str, Any] = json.loads(match[6])
    return line


def names(messages: list[str]) -> list[str]:
    return [f"{line['kind']} {line['id']}" for line in map(parsed, messages)]


def test_without_a_receiver_nothing_happens(trail: list[str], max_queries: Any) -> None:
    with max_queries(0):
        assert streaming.stream_due(lambda: LATER) == 0
    assert streaming.states() == []
    assert streaming.arrived_upto() is None


def test_a_syslog_server_gets_everything_once_and_in_order(trail: list[str], receiver: Syslog) -> None:
    assert streaming.stream_due(lambda: LATER) == len(trail)
    assert names(receiver.messages) == trail
    assert streaming.stream_due(lambda: LATER) == 0
    assert streaming.lag(LATER) == timedelta(0)
    assert streaming.states()[0].upto == AuditSeal.objects.count()


def test_a_message_has_the_form_of_rfc_5424_and_carries_the_sealed_line(
    connection: Connection, receiver: Syslog, settings: Any
) -> None:
    connection.name = 'Ünvoices "x" ]\\\n2'
    outcome = AuditEvent.Outcome.DENIED
    event = audit.record(AuditAction.ACCESS_DENIED, connection, actor=connection.owner, outcome=outcome, at=NOW)
    sealing.seal_due(NOW)
    streaming.stream_due(lambda: LATER)
    (message,) = receiver.messages
    match = _STRUCTURED.match(message)
    assert match
    assert match.groups()[:4] == ("108", "2026-11-25T12:00:30.000000+00:00", "localhost", "access.denied")
    assert f' seal="1" kind="event" id="{event.pk}" outcome="denied" ' in match[5]
    assert r'target_name="Ünvoices \"x\" \]\\ 2' in match[5], "no line feed can begin a message of its own"
    line = serialization.lines(serialization.events(), serialization.rows(serialization.events(), "id > %s", [0]))
    assert match[6].encode() == line[0]


def test_a_receiver_that_stops_pauses_the_stream(trail: list[str], connection: Connection, settings: Any) -> None:
    settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{free_port()}"
    assert streaming.stream_due(lambda: NOW) == 0
    (state,) = streaming.states()
    assert (state.upto, state.attempts, state.last_error) == (0, 1, "The receiver refused the connection.")
    assert streaming.lag(LATER) == LATER - (NOW + timedelta(minutes=5))
    record(connection, 3)
    sealing.seal_due(LATER)
    with syslog_server() as log:
        settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{log.port}"
        assert streaming.stream_due(lambda: NOW + timedelta(seconds=5)) == 0, "not due yet"
        assert streaming.stream_due(lambda: LATER) == len(trail) + 3
        assert names(log.messages)[: len(trail)] == trail


_DYING = """
import os, signal, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
{before}
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "before",
    ["peer.recv(700)", "import time; time.sleep(0.2)", "peer.shutdown(socket.SHUT_WR); peer.recv(10)"],
    ids=["half read", "nothing read", "ends its side early"],
)
def test_a_receiver_that_is_killed_half_way_gets_everything_again(
    before: str, connection: Connection, settings: Any
) -> None:
    record(connection, 1500, padding="x" * 300)
    sealing.seal_due(NOW)
    with subprocess.Popen([sys.executable, "-c", _DYING.format(before=before)], stdout=subprocess.PIPE) as dying:
        assert dying.stdout
        settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{int(dying.stdout.readline())}"
        assert streaming.stream_due(lambda: NOW) == 0
        assert dying.wait(20) == -signal.SIGKILL
    assert streaming.states()[0].upto == 0
    with syslog_server() as log:
        settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{log.port}"
        assert streaming.stream_due(lambda: LATER) == 1500
        assert [line["changes"]["n"] for line in map(parsed, log.messages)] == list(range(1500))


def test_a_receiver_that_never_ends_its_side_has_not_confirmed(
    trail: list[str], receiver: Syslog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "TRANSFER", 0.2)
    receiver.silent.set()
    assert streaming.stream_due(lambda: LATER) == 0
    assert streaming.states()[0].last_error == "The receiver didn't respond in time."
    receiver.silent.clear()


@pytest.mark.django_db(transaction=True)
def test_two_ticks_at_once_send_everything_once(trail: list[str], receiver: Syslog, settings: Any) -> None:
    start = threading.Barrier(2)

    def tick() -> None:
        start.wait(20)
        streaming.stream_due(lambda: LATER)

    with thread(tick), thread(tick):
        pass
    streaming.stream_due(lambda: LATER)
    assert names(receiver.messages) == trail


def test_a_worker_that_was_killed_while_sending_loses_nothing(trail: list[str], receiver: Syslog) -> None:
    assert cursors.claim(cursors.of(streaming.PLACE), NOW), "and then it is killed"
    assert streaming.stream_due(lambda: NOW + timedelta(seconds=60)) == 0
    assert streaming.stream_due(lambda: NOW + timedelta(minutes=6)) == len(trail)


@pytest.mark.only_on("postgres")  # SQLite commits ids in order
@pytest.mark.django_db(transaction=True)
def test_an_event_that_is_committed_late_is_not_skipped(connection: Connection, receiver: Syslog) -> None:
    began, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            record(connection, 1, late=True)
            began.set()
            assert may_end.wait(20)

    with thread(slow):
        assert began.wait(20)
        record(connection, 2)
        sealing.seal_due(NOW)
        assert streaming.stream_due(lambda: NOW) == 0, "a lower id may still appear"
        may_end.set()
    sealing.seal_due(NOW)
    assert streaming.stream_due(lambda: NOW) == 3
    lines = [parsed(message) for message in receiver.messages]
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    assert "late" in lines[0]["changes"]


def test_tls_is_verified_and_a_client_certificate_is_shown(trail: list[str], settings: Any, tmp_path: Path) -> None:
    certificate, key = tls.self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    with syslog_server(context) as log:
        settings.AUDIT_STREAM_URL = f"syslog+tls://localhost:{log.port}"
        assert streaming.stream_due(lambda: NOW) == 0
        assert streaming.states()[0].last_error == "The receiver's certificate isn't trusted."
        settings.AUDIT_STREAM_CA_BUNDLE = str(certificate)
        assert streaming.stream_due(lambda: LATER) == 0, "it asks for a certificate"
        settings.AUDIT_STREAM_CLIENT_CERTIFICATE = str(both)
        assert streaming.stream_due(lambda: LATER + timedelta(hours=2)) == len(trail)
        assert names(log.messages) == trail
    settings.AUDIT_STREAM_CA_BUNDLE = "/nowhere/ca.pem"
    assert syslog.send(settings.AUDIT_STREAM_URL, [], allow_private=True, trust=syslog.Trust("/nowhere")) == (
        "The files for TLS can't be read."
    )


def test_a_webhook_gets_signed_batches(trail: list[str], settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_BYTES", 2000)
    settings.AUDIT_STREAM_SECRET = SECRET
    with web_server() as hooks:
        settings.AUDIT_STREAM_URL, hooks.status = hooks.url, 503
        assert streaming.stream_due(lambda: NOW) == 0
        assert streaming.states()[0].last_error == "The receiver responded with status 503."
        hooks.status = 204
        assert streaming.stream_due(lambda: LATER) == len(trail)
    first, *requests = hooks.requests
    assert (first.body, first.headers["webhook-id"]) == (requests[0].body, requests[0].headers["webhook-id"])
    assert len(requests) > 1
    assert all(len(request.body) < 4000 for request in requests)
    documents = [json.loads(request.body) for request in requests]
    assert {document["type"] for document in documents} == {"audit.events"}
    entries = [entry for document in documents for entry in document["data"]["events"]]
    assert [f"{entry['kind']} {entry['id']}" for entry in entries] == trail
    assert [entry["seal"] for entry in entries] == sorted(entry["seal"] for entry in entries)
    for request in requests:
        timestamp = int(request.headers["webhook-timestamp"])
        signature = webhooks.sign(request.headers["webhook-id"], request.body, timestamp, SECRET)
        assert request.headers["webhook-signature"] == signature


@pytest.mark.parametrize("url", ["syslog+tcp://127.0.0.1:514", "https://127.0.0.1/in"])
def test_a_private_address_needs_its_setting(url: str, trail: list[str], settings: Any) -> None:
    settings.AUDIT_STREAM_URL, settings.AUDIT_STREAM_PRIVATE_TARGET = url, False
    settings.ALERT_PRIVATE_TARGETS = True
    assert streaming.stream_due(lambda: NOW) == 0
    assert "private network" in streaming.states()[0].last_error


def test_retention_keeps_what_has_not_arrived(connection: Connection, receiver: Syslog, settings: Any) -> None:
    settings.AUDIT_RETENTION_DAYS = 10
    for age in (40, 30):
        day = NOW - timedelta(days=age)
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=connection.owner, at=day)
        sealing.seal_due(day + timedelta(minutes=10))
    assert retention.prune(NOW) == 0
    streaming.stream_due(lambda: NOW)
    assert retention.prune(NOW) == 2
    assert len(receiver.messages) == 2


def test_the_command_moves_the_stream_and_the_trail_records_it(
    trail: list[str], receiver: Syslog, settings: Any, alice: User, capsys: Any
) -> None:
    streaming.stream_due(lambda: LATER)
    newest = AuditSeal.objects.count()
    call_command("audit_stream")
    call_command("audit_stream", after=1, actor="alice")
    assert capsys.readouterr().out.splitlines() == [
        f"Everything up to seal {newest} has arrived. Oldest waiting: 0 seconds.",
        f"The stream continues after seal 1 instead of {newest}.",
    ]
    event = AuditEvent.objects.get(action=AuditAction.AUDIT_STREAM_MOVED)
    assert (event.actor, event.changes) == (alice, {"seal": [newest, 1]})
    again = sum(' seal="1" ' not in message for message in receiver.messages)
    assert streaming.stream_due(lambda: LATER) == again
    call_command("audit_stream", after=10**12)
    assert SealPublication.objects.get(pk="stream").upto == newest
    settings.AUDIT_STREAM_URL = ""
    with pytest.raises(CommandError, match="AUDIT_STREAM_URL"):
        call_command("audit_stream")


def test_auditors_see_how_far_the_stream_is(trail: list[str], settings: Any, carol: User, signed_in: Any) -> None:
    settings.AUDIT_STREAM_URL = f"syslog+tcp://127.0.0.1:{free_port()}"
    streaming.stream_due(lambda: NOW)
    browser: Client = signed_in(carol)
    for page in ("/audit/", "/audit/seals/"):
        html = browser.get(page).content.decode()
        assert "Event stream" in html, page
        assert "The receiver refused the connection." in html.replace("&#x27;", "'"), page
        assert str(settings.AUDIT_STREAM_URL) not in html


def test_a_name_cannot_pass_as_a_field(connection: Connection) -> None:
    message = syslog.message(
        severity=5, at="now or never", host="a b", kind="x y]", data={"name": 'a" id="9'}, text="{}"
    ).decode()
    assert message == '<109>1 now_or_never a_b connection-portal - x_y] [audit@32473 name="a\\" id=\\"9"] {}'
    assert cursors.LEASE.total_seconds() > safe_http.TIMEOUT * 2 + 2 * syslog.TRANSFER + syslog.TIMEOUT * 2
