"""Published seals: every seal arrives at every destination."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from connections import audit
from connections.models import AuditSeal, SealPublication, User
from connections.models.audit import AuditAction
from connections.outbound import safe_http, webhooks
from connections.services.audit import publishing, sealing
from tests import factories

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
SECRET = webhooks.new_secret()


@pytest.fixture(autouse=True)
def no_destinations(settings: Any) -> None:
    """Each test configures its own destination."""
    settings.AUDIT_SEAL_FILE = settings.AUDIT_SEAL_WEBHOOK = ""
    settings.AUDIT_SEAL_LOG = False


@pytest.fixture
def sealed(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    for _ in range(5):
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob)
    assert sealing.seal_due(NOW, batch=1) == 5


def test_a_file_gets_every_seal_once(sealed: None, settings: Any, tmp_path: Path) -> None:
    file = tmp_path / "seals.jsonl"
    settings.AUDIT_SEAL_FILE = str(file)
    assert publishing.publish_due(NOW) == 5
    assert publishing.publish_due(NOW) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[4]["hash"] == AuditSeal.objects.get(number=5).hash
    call_command("audit_verify", published=str(file), read_only=True)


def test_a_file_that_cannot_be_written_is_retried_and_reported(sealed: None, settings: Any, tmp_path: Path) -> None:
    folder = tmp_path / "not-there-yet"
    settings.AUDIT_SEAL_FILE = str(folder / "seals.jsonl")
    assert publishing.publish_due(NOW) == 0
    (state,) = publishing.publication_states()
    assert (state.upto, state.attempts) == (0, 1)
    assert "No such file" in state.last_error
    folder.mkdir()
    assert publishing.publish_due(NOW + timedelta(seconds=5)) == 0
    assert publishing.publish_due(NOW + timedelta(seconds=60)) == 5
    (state,) = publishing.publication_states()
    assert (state.upto, state.attempts, state.last_error) == (5, 0, "")


def test_an_incomplete_line_is_not_continued(sealed: None, settings: Any, tmp_path: Path) -> None:
    file = tmp_path / "seals.jsonl"
    file.write_text('{"number":1,"ha')
    settings.AUDIT_SEAL_FILE = str(file)
    publishing.publish_due(NOW)
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()[1:]] == [1, 2, 3, 4, 5]


def test_a_webhook_receives_signed_seals_after_a_failure(sealed: None, settings: Any, monkeypatch: Any) -> None:
    settings.AUDIT_SEAL_WEBHOOK, settings.AUDIT_SEAL_WEBHOOK_SECRET = "https://archive.example/seals", SECRET
    answers = [safe_http.PostResult(503), safe_http.PostResult(204)]
    sent: list[tuple[bytes, dict[str, str]]] = []

    def post(url: str, body: bytes, headers: dict[str, str], **options: Any) -> safe_http.PostResult:
        assert options["allow_private"] is settings.ALERT_PRIVATE_TARGETS
        sent.append((body, headers))
        return answers.pop(0)

    monkeypatch.setattr(safe_http, "post", post)
    assert publishing.publish_due(NOW) == 0
    assert publishing.publication_states()[0].last_error == "The receiver responded with status 503."
    later = NOW + timedelta(minutes=5)
    assert publishing.publish_due(later) == 5
    body, headers = sent[1]
    document = json.loads(body)
    assert document["type"] == "audit.sealed"
    assert [seal["number"] for seal in document["data"]["seals"]] == [1, 2, 3, 4, 5]
    signature = webhooks.sign(headers["webhook-id"], body, int(later.timestamp()), SECRET)
    assert headers["webhook-signature"] == signature
    assert sent[0][1]["webhook-id"] == headers["webhook-id"]


def test_a_private_address_is_refused(sealed: None, settings: Any) -> None:
    settings.AUDIT_SEAL_WEBHOOK = "https://127.0.0.1/seals"
    settings.ALERT_PRIVATE_TARGETS = False
    assert publishing.publish_due(NOW) == 0
    assert "private network" in publishing.publication_states()[0].last_error


def test_a_destination_is_leased_by_one_worker(sealed: None, settings: Any) -> None:
    settings.AUDIT_SEAL_LOG = True
    SealPublication.objects.create(place="log", next_attempt_at=NOW + timedelta(minutes=2))
    assert publishing.publish_due(NOW) == 0
    assert publishing.publish_due(NOW + timedelta(minutes=3)) == 5
