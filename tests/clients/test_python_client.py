"""The Python client: requests, caching, retries and errors."""

import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import m365_portal
import pytest
import time_machine
from django.utils import timezone
from m365_portal import Portal, things, transport

from connections.models import Connection, TokenFetch, User
from connections.services.api_keys import api_keys
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories, tls
from tests.clients.conftest import Granted, issue_key
from tests.clients.scripted_server import PORTAL_TOKEN, Reply, serving
from tests.environment import ROOT

KEY = "m365p_abcdefghij_not-a-real-key"
TOKEN = Reply(200, PORTAL_TOKEN)
BUSY = Reply(503, {"code": "microsoft_unavailable", "title": "Microsoft is away."}, {"Retry-After": "7"})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client would have made."""
    waited: list[float] = []
    monkeypatch.setattr(transport, "sleep", waited.append)
    return waited


def in_threads(count: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


@pytest.mark.django_db(transaction=True)
def test_many_threads_and_many_calls_cost_one_request(portal: Portal, granted: Granted) -> None:
    connection = granted(name="Invoices & Mail?")
    got: list[str] = []
    in_threads(20, lambda: got.append(portal.token("Invoices & Mail?").access_token))
    stored = Connection.objects.get().access_token
    assert got == [stored] * 20
    assert sum(TokenFetch.objects.values_list("count", flat=True)) == 1
    assert portal.token(connection.pk).access_token == stored
    assert portal.headers(connection.pk) == {"Authorization": f"Bearer {stored}"}


@pytest.mark.django_db(transaction=True)
def test_threads_with_a_refused_token_get_a_new_one_with_a_single_request_to_microsoft(
    sandbox: Control, portal: Portal, granted: Granted
) -> None:
    granted(name="Invoices")
    before = portal.token("Invoices").access_token
    sandbox.clear_calls()
    got: list[str] = []
    in_threads(20, lambda: got.append(portal.token("Invoices", fresh=True).access_token))
    assert got == [Connection.objects.get().access_token] * 20
    assert before not in got
    assert sandbox.calls(limit=0)["by_endpoint"]["token"] == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["Sales / Europe", ".."])
def test_a_name_that_no_url_path_can_hold_is_found(portal: Portal, granted: Granted, name: str) -> None:
    connection = granted(name=name)
    assert portal.token(name).access_token
    assert portal.connection(name).id == connection.pk
    with pytest.raises(m365_portal.NotFound):
        portal.token("Sales / Nowhere")


@pytest.mark.django_db(transaction=True)
def test_each_state_of_an_unusable_connection_has_its_exception(portal: Portal, granted: Granted) -> None:
    expected = {
        Connection.Status.PENDING: m365_portal.SignInPending,
        Connection.Status.RECONNECT_NEEDED: m365_portal.ReconnectNeeded,
        Connection.Status.CONSENT_NEEDED: m365_portal.ConsentNeeded,
        Connection.Status.BLOCKED: m365_portal.Blocked,
        Connection.Status.DISABLED: m365_portal.Disabled,
    }
    for status, kind in expected.items():
        connection = granted(name=str(status), status=status, status_cause="Because.", status_action="Mend it.")
        with pytest.raises(kind) as refused:
            portal.token(connection.pk)
        assert isinstance(refused.value, m365_portal.ConnectionUnusable)
        assert (refused.value.code, refused.value.status) == (status, 409)
        assert "Mend it." in str(refused.value)
        assert f"/connections/{connection.pk}/" in str(refused.value)


@pytest.mark.django_db(transaction=True)
def test_a_rejected_app_secret_names_the_it_admin(sandbox: Control, portal: Portal, granted: Granted) -> None:
    connection = granted()
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    with pytest.raises(m365_portal.PortalError):
        portal.token(connection.pk)
    with pytest.raises(m365_portal.AppCredentialRejected) as refused:
        portal.token(connection.pk)
    assert refused.value.who == "it_admin"
    assert "an IT admin" in str(refused.value)


@pytest.mark.django_db(transaction=True)
def test_each_missing_permission_of_a_key_has_its_exception(
    portal_url: str, granted: Granted, alice: User, bob: User, dave: User
) -> None:
    connection = granted()
    with Portal(portal_url, issue_key(dave), patience=0) as stranger, pytest.raises(m365_portal.NotFound):
        stranger.token(connection.pk)
    with Portal(portal_url, issue_key(alice), patience=0) as admin, pytest.raises(m365_portal.NotAllowed):
        admin.token(connection.pk)
    narrow = issue_key(bob, name="Narrow", scopes=["connections:read"])
    with Portal(portal_url, narrow, patience=0) as reader, pytest.raises(m365_portal.NotAllowed, match="token:read"):
        reader.token(connection.pk)
    body = f"{api_keys.KEY_PREFIX}_abcdefghij_{'x' * 32}"
    with Portal(portal_url, body, patience=0) as nobody, pytest.raises(m365_portal.KeyRefused):
        nobody.token(connection.pk)


@pytest.mark.django_db(transaction=True)
def test_connections_are_listed_page_by_page(portal: Portal, granted: Granted) -> None:
    connections = [granted(name=f"Number {number}") for number in range(3)]
    names = [connection.name for connection in connections]
    assert [connection.name for connection in portal.connections()] == names
    assert [connection.name for connection in portal.connections(name="Number 1")] == ["Number 1"]
    second = portal.connection("Number 2")
    assert portal.connection(connections[2].pk) == second
    assert (second.status, second.is_well, second.account) == ("active", True, factories.ADA)


def token_until(seconds: float, **headers: str) -> Reply:
    ends = (timezone.now() + timedelta(seconds=seconds)).isoformat()
    return Reply(200, {**PORTAL_TOKEN, "expires_at": ends, "access_token": f"until.{seconds}"}, headers)


def test_a_token_is_cached_until_it_expires_too_soon() -> None:
    with serving(token_until(1000), token_until(2000)) as script, Portal(script.url, KEY) as portal:
        assert portal.kept_token("Invoices") is None
        first = portal.token("Invoices")
        assert portal.kept_token("Invoices") == first
        assert portal.token("Invoices", min_valid=900) == first
        assert portal.token("Invoices", min_valid=1100).access_token == "until.2000"
        portal.forget("Invoices")
        assert portal.kept_token("Invoices") is None
    assert [path for _, path, _ in script.requests] == [
        "/api/v1/connections/Invoices/token?min_valid=300",
        "/api/v1/connections/Invoices/token?min_valid=1100",
    ]
    assert script.connections == 1, "the connection is kept open"


def test_a_wrong_clock_on_this_machine_does_no_harm() -> None:
    # The portal's clock is a day behind: by this machine's clock the token has expired.
    ends = (timezone.now() - timedelta(hours=23, minutes=10)).isoformat()
    portal_date = (timezone.now() - timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    reply = Reply(200, {**PORTAL_TOKEN, "expires_at": ends}, {"X-Date": portal_date})
    with serving(reply) as script, Portal(script.url, KEY) as portal:
        portal.token("Invoices")
        assert portal.kept_token("Invoices", min_valid=2900) is not None
        assert portal.kept_token("Invoices", min_valid=3100) is None


def test_while_the_portal_is_away_a_short_lived_token_is_returned(pauses: list[float]) -> None:
    with serving(token_until(200), BUSY) as script, Portal(script.url, KEY) as portal:
        portal.token("Invoices", min_valid=100)
        worse = portal.token("Invoices", min_valid=300)
        assert (worse.access_token, worse.trouble) == ("until.200", "portal_unavailable")
        assert portal.token("Invoices", min_valid=300) == worse
        assert len(script.requests) == 2, "and the portal is not asked again at once"
        with time_machine.travel(timezone.now() + timedelta(seconds=20)):
            portal.token("Invoices", min_valid=300)
        assert len(script.requests) == 3
    assert pauses == []


def test_an_outage_of_microsoft_is_reported_with_the_token() -> None:
    reply = token_until(200, **{"Portal-Trouble": "microsoft_unavailable"})
    with serving(reply) as script, Portal(script.url, KEY) as portal:
        assert portal.token("Invoices").trouble == "microsoft_unavailable"
        portal.token("Invoices")
    assert len(script.requests) == 1


def test_a_token_that_cannot_last_as_long_as_requested_is_requested_once() -> None:
    """Microsoft's tokens may expire sooner than requested; repeating the request does not help."""
    with serving(*[token_until(200)] * 9) as script, Portal(script.url, KEY) as portal:
        in_threads(8, lambda: portal.token("Invoices"))
        assert portal.token("Invoices", min_valid=250).access_token == "until.200"
        assert len(script.requests) == 1
        portal.token("Invoices", min_valid=600)
        assert len(script.requests) == 2, "but not for one that lasts longer still"
        with time_machine.travel(timezone.now() + timedelta(seconds=20)):
            portal.token("Invoices")
        assert len(script.requests) == 3


def test_a_refusal_discards_the_cached_token() -> None:
    gone = Reply(409, {"code": "disabled", "title": "Switched off."})
    with serving(token_until(200), gone) as script, Portal(script.url, KEY) as portal:
        portal.token("Invoices", min_valid=0)
        with pytest.raises(m365_portal.Disabled):
            portal.token("Invoices")
        assert portal.kept_token("Invoices", min_valid=0) is None


def test_every_thread_that_waits_for_a_request_gets_its_error() -> None:
    hold = threading.Event()
    refused = Reply(409, {"code": "reconnect_needed", "title": "Sign in again."}, wait_for=hold)
    errors: list[BaseException] = []
    with serving(refused) as script, Portal(script.url, KEY, patience=0) as portal:

        def ask() -> None:
            try:
                portal.token("Invoices")
            except m365_portal.ReconnectNeeded as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        while len(portal._flights) < 1 or sum(thread.is_alive() for thread in threads) < 5:
            assert not errors
        hold.set()
        for thread in threads:
            thread.join(20)
    assert len(errors) == 5
    assert len({id(error) for error in errors}) == 5
    assert len(script.requests) <= 5


def test_a_busy_portal_is_retried_after_its_retry_after(pauses: list[float]) -> None:
    limited = Reply(429, {"code": "rate_limited", "title": "Too often."}, {"Retry-After": "2"})
    with serving(BUSY, limited, Reply(502, b"<html>proxy</html>"), TOKEN) as script, Portal(script.url, KEY) as portal:
        assert portal.token("Invoices").scope == "Mail.Read"
    assert pauses[:2] == [7.0, 2.0]
    assert 0 < pauses[2] <= 2


def test_a_retry_after_beyond_the_patience_ends_the_retries(pauses: list[float]) -> None:
    away = Reply(503, {"code": "microsoft_unavailable", "title": "Away."}, {"Retry-After": "3600"})
    with serving(away) as script, Portal(script.url, KEY) as portal, pytest.raises(m365_portal.Unavailable) as error:
        portal.token("Invoices")
    assert (error.value.retry_after, error.value.code) == (3600.0, "microsoft_unavailable")
    assert pauses == []
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "reply", [Reply(409, {"code": "blocked", "title": "No."}), Reply(500, {"code": "error", "title": "x"})]
)
def test_errors_that_waiting_cannot_fix_are_not_retried(pauses: list[float], reply: Reply) -> None:
    with (
        serving(reply) as script,
        Portal(script.url, KEY, patience=0) as portal,
        pytest.raises(m365_portal.PortalError),
    ):
        portal.token("Invoices")
    assert len(script.requests) == 1


def test_a_connection_the_portal_closed_is_opened_again_without_a_pause(pauses: list[float]) -> None:
    drop = Reply(drop=True)
    with serving(TOKEN, drop, TOKEN) as script, Portal(script.url, KEY) as portal:
        portal.token("Invoices")
        portal.token("Other")
    assert script.connections == 2
    assert pauses == []


def test_a_post_is_retried_with_the_same_idempotency_key(pauses: list[float]) -> None:
    reply = Reply(201, {"url": "https://portal.example.org/x", "expires_at": "2030-01-01T00:00:00Z"})
    with serving(Reply(drop=True), BUSY, reply) as script, Portal(script.url, KEY) as portal:
        assert portal.sign_in_link("Invoices").url.endswith("/x")
    keys = {headers["idempotency-key"] for _, _, headers in script.requests}
    assert len(script.requests) == 3
    assert len(keys) == 1


def test_a_change_without_such_a_key_is_never_sent_twice(pauses: list[float]) -> None:
    changing = serving(Reply(drop=True), TOKEN)
    with changing as script, Portal(script.url, KEY) as portal, pytest.raises(m365_portal.Unavailable):
        portal.request("PATCH", "/connections/1", json={"name": "New"})
    assert len(script.requests) == 1


def test_an_unreachable_address_is_explained(pauses: list[float]) -> None:
    with pytest.raises(m365_portal.Unavailable, match="can't be reached") as error:
        Portal("http://127.0.0.1:9", KEY, patience=0).token("Invoices")
    assert error.value.code == "unreachable"


@pytest.mark.parametrize(
    "url",
    [
        "http://portal.example.org",
        "http://10.0.0.1",
        "ftp://x",
        "",
        "portal.example.org",
        "https://a:b@x",
        "http://localhost.evil.example",
        "https://x/?a=1",
        "https://[::1",
    ],
)
def test_an_address_that_would_give_the_key_away_is_refused(url: str) -> None:
    with pytest.raises(m365_portal.ConfigurationError):
        Portal(url, KEY)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/", "http://localhost:8000", "http://[::1]:8000", "https://portal.example.org/m365/"]
)
def test_https_and_this_machine_are_accepted(url: str) -> None:
    assert Portal(url, KEY).url == url.rstrip("/")


@pytest.mark.parametrize("key", ["", "  ", "with space", "line\r\nX-Evil: 1", "kéy"])
def test_an_invalid_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(m365_portal.ConfigurationError) as error:
        Portal("https://portal.example.org", key)
    assert "Evil" not in str(error.value)


def test_a_redirect_is_not_followed_with_the_key() -> None:
    leads_away = Reply(302, None, {"Location": "https://evil.example/api"})
    with serving(leads_away) as script, pytest.raises(m365_portal.UnexpectedAnswer, match=r"evil\.example"):
        Portal(script.url, KEY, patience=0).token("Invoices")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>"),
        Reply(404, b"<html>"),
        Reply(200, []),
        Reply(200, {"access_token": 1}),
        Reply(200, {**PORTAL_TOKEN, "expires_at": "soon"}),
    ],
)
def test_responses_that_are_not_from_a_portal_are_recognised(reply: Reply) -> None:
    with serving(reply) as script, pytest.raises(m365_portal.UnexpectedAnswer):
        Portal(script.url, KEY, patience=0).token("Invoices")


def test_neither_key_nor_token_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(TOKEN) as script, Portal(script.url, KEY) as portal:
        shown = repr(portal) + repr(portal.token("Invoices")) + str(portal.token("Invoices"))
        shown += repr(m365_portal.PortalCredential("Invoices", portal)) + repr(portal._transport)
    assert KEY not in shown
    assert PORTAL_TOKEN["access_token"] not in shown


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    with serving(TOKEN) as script:
        monkeypatch.setenv("PORTAL_URL", script.url)
        monkeypatch.setenv("PORTAL_API_KEY_FILE", str(file))
        monkeypatch.delenv("PORTAL_API_KEY", raising=False)
        Portal().token("Invoices")
        monkeypatch.setenv("PORTAL_API_KEY", "another")
        with pytest.raises(m365_portal.ConfigurationError, match="Both"):
            Portal()
        monkeypatch.delenv("PORTAL_API_KEY")
        monkeypatch.setenv("PORTAL_API_KEY_FILE", str(tmp_path / "missing"))
        with pytest.raises(m365_portal.ConfigurationError, match="can't be read"):
            Portal()
    assert script.requests[0][2]["authorization"] == f"Bearer {KEY}"


def test_only_a_certificate_it_trusts_gets_the_key(tmp_path: Path) -> None:
    files = tls.self_signed(tmp_path)
    with serving(TOKEN, tls=files) as script:
        url = script.url.replace("http://", "https://")
        with Portal(url, KEY, patience=0) as portal, pytest.raises(m365_portal.ConfigurationError, match="certificate"):
            portal.token("Invoices")
        assert script.requests == []
        with Portal(url, KEY, ca_file=str(files[0])) as portal:
            assert portal.token("Invoices").scope == "Mail.Read"
    with pytest.raises(m365_portal.ConfigurationError, match="no valid PEM certificates"):
        Portal(url, KEY, ca_file=str(files[1]))


def test_a_proxy_learns_the_host_and_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Reply(403)) as script:
        monkeypatch.setenv("https_proxy", f"http://robot:a%20word@127.0.0.1:{script.port}")
        with pytest.raises(m365_portal.Unavailable, match="can't be reached"):
            Portal("https://portal.example.org", KEY, patience=0).token("Invoices")
        method, target, headers = script.requests[0]
        monkeypatch.setenv("no_proxy", "portal.example.org")
        assert Portal("https://portal.example.org", KEY)._transport._proxy is None
    assert (method, target) == ("CONNECT", "portal.example.org:443")
    assert headers["proxy-authorization"] == f"Basic {b64encode(b'robot:a word').decode()}"
    assert KEY not in str(headers)


def test_an_answer_that_is_still_being_made_is_waited_for(pauses: list[float]) -> None:
    running = Reply(409, {"code": "in_progress", "title": "Still running."})
    reply = Reply(201, {"url": "https://portal.example.org/x", "expires_at": "2030-01-01T00:00:00Z"})
    with serving(running, running, reply) as script, Portal(script.url, KEY) as portal:
        assert portal.sign_in_link("Invoices").url
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05.1234567+02:00", "2030-01-02T01:04:05.123456+00:00"),
    ],
)
def test_times_are_read_in_every_form(text: str, expected: str) -> None:
    assert things.moment(text).isoformat() == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("12", 12.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("", None)]
)
def test_retry_after_is_seconds_or_a_date(text: str, expected: Any) -> None:
    assert transport.retry_after(text) == expected


def test_the_package_keeps_to_the_python_it_promises() -> None:
    files = sorted((ROOT / "clients/python/src").rglob("*.py"))
    assert len(files) > 5
    # In a separate process, because Python 3.11 miscounts the depth while another thread compiles.
    code = "import ast, sys; [ast.parse(open(one).read(), feature_version=(3, 9)) for one in sys.argv[1:]]"
    process = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr


def test_it_installs_and_needs_nothing_else(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    process = subprocess.run(
        [*install, "--target", str(tmp_path), str(ROOT / "clients/python")], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    # -S: without site-packages, so that only the standard library is available.
    code = (
        "import m365_portal, sys; print(m365_portal.PortalCredential(1, m365_portal.Portal('http://localhost', 'k')))"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.strip() == "<PortalCredential 1 of http://localhost>", ran.stderr
    assert (tmp_path / "bin" / "portalctl").exists()
