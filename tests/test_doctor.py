"""manage.py doctor finds each misconfiguration that is planted here, and says what to do about it."""

import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection as database
from django.utils import timezone

from connections import audit
from connections.management.commands import doctor as command
from connections.microsoft import clouds
from connections.models import RunningProcess
from connections.models.audit import AuditAction
from connections.services.api_keys import rate_limit
from connections.services.audit import sealing, streaming
from connections.services.operations import (
    checks,
    clocks,
    doctor,
    health,
    host_checks,
    redis_checks,
    running_keys,
    write_check,
)
from connections.services.operations.checks import Result, State
from portal.sandbox.process import free_port
from tests import factories, tls
from tests.conftest import portal_environment
from tests.environment import ROOT
from tests.fake_receivers import mail_server, use_mail_server
from tests.stored_secrets import new_key, using_keys
from tests.test_database_outage import outage

pytestmark = pytest.mark.django_db


def examine(name: str) -> Result:
    """Run one check by its name."""
    (finding,) = checks.run(check for check in doctor.CHECKS if check.name == name)
    return finding.result


def assert_found(name: str, says: str, *, advises: str, state: State = State.PROBLEM) -> None:
    result = examine(name)
    assert (result.state, says in result.detail, advises in result.action) == (state, True, True), result


# --- Settings -------------------------------------------------------------------------------------

SIGN_IN = {"environment": "global", "tenant": "t", "client_id": "c", "client_secret": "s", "admins": [], "auditors": []}
HTTPS = {"HTTPS": True, "PORTAL_URL": "https://portal.example.org", "ALLOWED_HOSTS": ["portal.example.org"]}


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ({"DEBUG": True}, "security.W018"),
        ({"PORTAL_URL": "http://portal.example.org"}, "connections.W001"),
        ({"UNKNOWN_SETTINGS": {"PORTAL_ULR": "PORTAL_URL"}}, "PORTAL_ULR isn't a setting"),
        ({**HTTPS, "TRUSTED_PROXIES": 0}, "TRUSTED_PROXIES is 0"),
        ({"AUDIT_SEAL_KEYS": []}, "AUDIT_SEAL_KEYS is not set"),
        ({"AUDIT_SEAL_KEYS": ["short"]}, "shorter than 32 characters"),
        ({"AUDIT_SEAL_FILE": "", "AUDIT_SEAL_WEBHOOK": ""}, "neither to a file nor to a webhook"),
        ({"AUDIT_SEAL_FILE": "/nowhere/seals"}, "which doesn't exist"),
        ({"AUDIT_STREAM_URL": "syslog+tcp://siem.example.org"}, "sent without encryption"),
        ({"AUDIT_STREAM_URL": "https://siem.example.org/in"}, "AUDIT_STREAM_SECRET is not set"),
        ({"AUDIT_STREAM_CLIENT_CERTIFICATE": "/nowhere/me.pem"}, "AUDIT_STREAM_CLIENT_CERTIFICATE is /nowhere/me.pem"),
        ({"MICROSOFT_CA_BUNDLE": "/nowhere/ca.pem"}, "MICROSOFT_CA_BUNDLE is /nowhere/ca.pem"),
        ({"LOGIN_MICROSOFT": {**SIGN_IN, "client_secret": ""}}, "LOGIN_MICROSOFT_CLIENT_SECRET missing"),
        ({"LOGIN_MICROSOFT": {**SIGN_IN, "tenant": "common"}}, "lets anyone with a Microsoft account sign in"),
        ({"LOGIN_MICROSOFT": {**SIGN_IN, "environment": "germany"}}, "LOGIN_MICROSOFT_ENVIRONMENT is germany"),
        ({**HTTPS, "ALLOWED_HOSTS": ["elsewhere.example.org"]}, "doesn't contain portal.example.org"),
        ({"ALLOWED_HOSTS": ["*"]}, "accepts every host name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings(planted: dict[str, Any], says: str, settings: Any) -> None:
    for name, value in planted.items():
        setattr(settings, name, value)
    results = [finding.result for finding in command._settings() if says in finding.result.detail]
    assert [result.is_working or result.state == State.PROBLEM for result in results] == [True]


# --- The database ---------------------------------------------------------------------------------


def execute(statement: str) -> None:
    with database.cursor() as cursor:
        cursor.execute(statement)


def test_a_migration_that_was_not_applied() -> None:
    execute("DELETE FROM django_migrations WHERE app = 'connections' AND name = '0016_connect'")
    assert_found("migrations", "first connections.0016_connect", advises="manage.py migrate")


def test_a_program_that_is_older_than_the_database() -> None:
    execute(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('connections', '9999_next', '2030-01-01 00:00:00Z')"
    )
    assert_found("migrations", "9999_next", advises="Install the version")


def test_a_database_that_can_only_be_read() -> None:
    write_check._last_success.clear()
    with outage(writes_only=True):
        assert_found("database", "not writable (OperationalError)", advises="primary server")


def test_a_database_that_cannot_be_reached_hides_no_other_problem() -> None:
    with outage():
        findings = {finding.name: finding.result for finding in checks.run(doctor.CHECKS[:6])}
    assert findings["database"].detail == "not reachable (OperationalError)"
    assert findings["migrations"].state == State.SKIPPED


DROPPED = {
    "sqlite": (
        "DROP TRIGGER connections_auditevent_no_delete",
        "DROP TRIGGER connections_connection_keep_identity",
    ),
    "postgresql": (
        "DROP TRIGGER portal_audit_guard ON connections_auditevent",
        "DROP TRIGGER portal_identity_guard ON connections_connection",
    ),
}


def test_a_restore_whose_connections_are_not_checked_yet() -> None:
    assert examine("restore").state == State.OK
    factories.make_connection(refresh_after=timezone.now() - timedelta(hours=1))
    audit.record(AuditAction.AUDIT_RESTORE_DECLARED, audit.TRAIL, actor=None)
    assert_found("restore", "haven't been checked since the restore", advises="Wait", state=State.WARNING)


def test_triggers_that_somebody_has_dropped() -> None:
    assert examine("audit_guards").state == State.OK
    audit, identity = DROPPED[database.vendor]
    execute(identity)
    assert_found("audit_guards", "be moved to other rows in connections_connection", advises="manage.py audit_guards")
    execute(audit)
    assert_found("audit_guards", "rows of connections_auditevent", advises="manage.py audit_guards")


@pytest.mark.only_on("sqlite")
def test_sqlite_in_production() -> None:
    assert_found("database_version", "SQLite", advises="PostgreSQL", state=State.WARNING)


@pytest.mark.only_on("postgres")
def test_a_role_that_passes_every_trigger() -> None:
    assert_found("database_role", "a superuser", advises="without SUPERUSER", state=State.WARNING)
    assert examine("database_version").state == State.OK


@pytest.mark.only_on("postgres")
def test_more_connections_than_postgresql_allows(settings: Any) -> None:
    assert examine("database_connections").state == State.OK
    settings.WEB_WORKERS = 50
    assert_found("database_connections", "may need 1300 connections", advises="PgBouncer")


def test_an_event_stream_that_does_not_arrive(settings: Any) -> None:
    assert examine("audit_stream").state == State.OK
    settings.AUDIT_STREAM_URL = "https://127.0.0.1/in/a-secret-part"
    now, portal = timezone.now(), audit.Subject("Portal", "", "portal")
    audit.record(AuditAction.CONFIGURATION_APPLIED, portal, actor=None, at=now - timedelta(hours=1))
    sealing.seal_due(now - timedelta(minutes=10))
    streaming.stream_due(timezone.now)
    assert_found("audit_stream", "private network", advises="AUDIT_STREAM_URL", state=State.WARNING)
    with time_machine.travel(now + timedelta(minutes=10)):
        assert_found("audit_stream", "waiting for 20 minutes", advises="Nothing is lost")
    assert "a-secret-part" not in str(examine("audit_stream"))


# --- Redis ----------------------------------------------------------------------------------------


@pytest.fixture
def valkey(settings: Any) -> Iterator["redis.Redis"]:
    rate_limit.client.cache_clear()
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.replicaof("NO", "ONE")
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    client.flushdb()
    client.close()
    rate_limit.client.cache_clear()


def test_a_redis_that_does_not_answer(settings: Any) -> None:
    location = "redis://:hunter2@127.0.0.1:1/0"
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": location}}
    assert_found("broker", "not reachable (ConnectionError)", advises="Check REDIS_URL")


def test_a_redis_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine("redis_version").state == State.OK
    monkeypatch.setattr(redis_checks, "_info", lambda section: {"redis_version": "5.0.14"})
    assert_found("redis_version", "Redis 5.0.14", advises="6.2", state=State.WARNING)


@pytest.mark.parametrize(("policy", "state"), [("allkeys-lru", State.PROBLEM), ("volatile-ttl", State.WARNING)])
def test_a_redis_that_drops_keys(policy: str, state: State, valkey: "redis.Redis") -> None:
    valkey.config_set("maxmemory-policy", policy)
    assert_found("redis_memory", policy, advises="noeviction", state=state)


def test_a_redis_that_is_full(valkey: "redis.Redis") -> None:
    valkey.config_set("maxmemory", "500kb")
    assert_found("redis_memory", "nearly full", advises="Raise maxmemory")


def test_a_redis_that_is_a_replica(valkey: "redis.Redis") -> None:
    assert examine("redis_memory").state == State.OK
    valkey.replicaof("127.0.0.1", 1)
    assert_found("redis_memory", "a replica", advises="primary")


@pytest.mark.parametrize(
    ("url", "says", "state"),
    [
        ("redis://redis.example.org:6379/0", "no password protects the server on the network", State.PROBLEM),
        ("redis://127.0.0.1:6379/0", "no password protects the server on this machine", State.WARNING),
        ("redis://:secret@redis.example.org:6379/0", "without TLS", State.WARNING),
    ],
)
def test_a_redis_that_strangers_can_use(url: str, says: str, state: State, settings: Any) -> None:
    settings.REDIS_URL = url
    assert_found("redis_access", says, advises="REDIS_URL", state=state)


def test_ticks_that_no_worker_takes(valkey: "redis.Redis", settings: Any) -> None:
    assert examine("queue").state == State.OK
    valkey.lpush(f"{settings.REDIS_PREFIX}:{settings.CELERY_TASK_DEFAULT_QUEUE}", *range(100))
    assert_found("queue", "100 ticks wait", advises="Start a worker")


# --- Processes, keys and clocks -------------------------------------------------------------------


def test_a_worker_that_is_missing() -> None:
    for kind in ("web", "beat"):
        running_keys.announce(f"{kind} here:1", now=timezone.now())
    assert_found("processes", "not running: worker", advises="Start it")
    running_keys.announce("worker here:1", now=timezone.now())
    assert examine("processes").detail == "1 beat, 1 web, 1 worker"
    RunningProcess.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert_found("processes", "not running: web, worker, beat", advises="Start it")


def test_a_sweep_that_is_long_ago(valkey: "redis.Redis") -> None:
    cache.set(health.LAST_SWEEP, time.time() - 3600)
    assert_found("sweep", "3600 seconds ago", advises="Start a worker and beat")


def test_a_process_that_runs_with_old_keys() -> None:
    with using_keys(new_key()):
        running_keys.announce("web elsewhere:1", now=timezone.now())
    assert_found("encryption_keys", "runs with old keys", advises="FIELD_ENCRYPTION_KEYS")


def test_a_clock_that_differs(valkey: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks._Due, "at", 0.0)
    with time_machine.travel(datetime.now(UTC) - timedelta(seconds=30)):
        clocks.report("worker")
    assert_found("clocks", "seconds behind", advises="NTP", state=State.WARNING)


# --- Mail and Microsoft ---------------------------------------------------------------------------


def test_a_mail_server_that_is_down_or_refuses_the_password(settings: Any) -> None:
    boxes = use_mail_server(settings)
    assert_found("mail", "doesn't accept mail (ConnectionRefusedError)", advises="EMAIL_URL")
    with mail_server(boxes):
        assert examine("mail").state == State.OK
        settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = "hunter2"
        assert_found("mail", "doesn't accept mail", advises="EMAIL_URL")
        assert "hunter2" not in str(examine("mail"))


def test_no_mail_server() -> None:
    assert_found("mail", "contains no mail server", advises="EMAIL_URL", state=State.WARNING)


@pytest.fixture
def sandbox_at() -> Iterator[Callable[[str], None]]:
    """Let one tenant be in a cloud at a certain address."""
    factories.make_tenant()
    yield clouds.add_sandbox
    clouds.add_sandbox("")


def test_a_firewall_before_microsoft(sandbox_at: Callable[[str], None]) -> None:
    sandbox_at(f"http://127.0.0.1:{free_port()}")
    assert_found("microsoft", "no connection can be opened", advises="firewall")


def test_a_proxy_that_inspects_tls(sandbox_at: Callable[[str], None], site: Callable[..., str]) -> None:
    sandbox_at(site({}, is_https=True))
    assert_found("microsoft", "certificate isn't trusted", advises="MICROSOFT_CA_BUNDLE")


def test_a_proxy_that_wants_a_password(sandbox_at: Callable[[str], None], site: Callable[..., str]) -> None:
    sandbox_at(site({"": (407, {}, "")}))
    assert_found("microsoft", "returns 407", advises="proxy")


# --- The public URL -------------------------------------------------------------------------------

Page = tuple[int, dict[str, str], str]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``site({path: (status, headers, text)})`` starts a web server and returns its address; "" is any other path."""
    servers: list[ThreadingHTTPServer] = []

    def start(pages: dict[str, Page], *, is_https: bool = False) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, text = pages.get(self.path) or pages[""]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if is_https:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls.self_signed(tmp_path))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"{'https' if is_https else 'http'}://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


HEALTHY: Page = (200, {}, "ok\n")


@pytest.mark.parametrize(
    ("pages", "says", "advises"),
    [
        ({"": (200, {}, "<h1>It works!</h1>")}, "not the portal's response", "forward this host"),
        ({"": (502, {}, "")}, "returns 502", "forward this host"),
        ({"/healthz": HEALTHY, "": (400, {}, "")}, "a different host name", "proxy_set_header Host"),
        ({"/healthz": HEALTHY, "": (301, {"Location": "/"}, "")}, "doesn't see that browsers use https", "X-Forwarded"),
        ({"/healthz": HEALTHY, "": (200, {}, "")}, "doesn't see that browsers use https", "TRUSTED_PROXIES"),
        ({"/healthz": HEALTHY, "": (500, {"Strict-Transport-Security": "max-age=1"}, "")}, "returns 500", "log"),
    ],
)  # fmt: skip
def test_a_proxy_in_front(
    pages: dict[str, Page], says: str, advises: str, site: Callable[..., str], settings: Any
) -> None:
    settings.HTTPS, settings.PORTAL_URL = True, site(pages)
    assert_found("public_url", says, advises=advises)


def test_a_public_url_that_leads_nowhere_or_to_a_wrong_certificate(site: Callable[..., str], settings: Any) -> None:
    settings.PORTAL_URL = f"http://127.0.0.1:{free_port()}"
    assert_found("public_url", "can't be reached", advises="DNS")
    settings.PORTAL_URL = site({"": HEALTHY}, is_https=True)
    assert_found("public_url", "certificate that isn't trusted", advises="certificate")


def test_metrics_that_anybody_can_read(site: Callable[..., str], settings: Any) -> None:
    settings.PORTAL_URL = site({"/metrics": (200, {}, "portal_connections 1\n")})
    assert_found("public_metrics", "anyone can read", advises="METRICS_TOKEN")
    settings.PORTAL_URL = site({"": (401, {}, "")})
    assert examine("public_metrics").state == State.OK


@pytest.mark.django_db(transaction=True)
def test_a_portal_that_answers_at_its_public_url(portal_url: str) -> None:
    assert examine("public_url") == checks.ok(f"{portal_url} leads to the portal; redirect URIs in Entra begin with it")


# --- This machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires", "says", "state"),
    [
        (None, "not recorded", State.WARNING),
        (date(2026, 3, 1), "expired on 2026-03-01", State.PROBLEM),
        (date(2026, 3, 20), "expires in 19 days", State.WARNING),
        (date(2027, 3, 1), "expires on 2027-03-01", State.OK),
    ],
)
def test_the_secret_of_the_sign_in_app(expires: date | None, says: str, state: State, settings: Any) -> None:
    settings.LOGIN_MICROSOFT, settings.LOGIN_MICROSOFT_SECRET_EXPIRES = SIGN_IN, expires
    result = host_checks.sign_in_app(datetime(2026, 3, 1, tzinfo=UTC))
    assert (result.state, says in result.detail) == (state, True)


def test_no_way_in_without_microsoft() -> None:
    assert_found("break_glass", "no operator", advises="createsuperuser")
    factories.make_person("eve", is_superuser=True)
    assert examine("break_glass").state == State.OK


def test_a_secret_that_every_user_of_the_machine_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret_key"
    path.write_text("secret")
    path.chmod(0o644)
    monkeypatch.setenv("SECRET_KEY_FILE", str(path))
    assert_found("secret_files", f"{path} (SECRET_KEY_FILE)", advises="chmod o-r", state=State.WARNING)
    path.chmod(0o640)
    assert examine("secret_files").state == State.OK


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert_found("disk", "has 3 MB left", advises="Free space")


def test_every_check_has_its_misconfiguration_here() -> None:
    text = Path(__file__).read_text()
    for check in doctor.CHECKS:
        assert f'assert_found("{check.name}"' in text or f".{check.run.__name__}(" in text, check.name


# --- The command ----------------------------------------------------------------------------------


def test_the_command_prints_each_result_and_fails_if_something_is_wrong(settings: Any) -> None:
    boxes, out = use_mail_server(settings), io.StringIO()
    with mail_server(boxes), pytest.raises(SystemExit) as ended:
        call_command("doctor", mail_to="ops@example.org", stdout=out)
    assert ended.value.code == 1
    lines = out.getvalue().splitlines()
    assert any(line.startswith("ok       migrations ") for line in lines), out.getvalue()
    assert any("What to do: Run manage.py createsuperuser." in line for line in lines)
    assert boxes.recipients == ["ops@example.org"]


@pytest.mark.only_on("sqlite")
def test_an_empty_database_is_no_reason_to_crash(tmp_path: Path) -> None:
    environment = {**portal_environment(), "DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite3"}
    process = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (1, "")
    checks = {check["name"]: check for check in json.loads(process.stdout)["checks"]}
    assert (checks["database"]["state"], checks["database"]["action"]) == ("problem", "Run manage.py migrate.")
    assert checks["migrations"]["state"] == "skipped"


@pytest.mark.only_on("postgres")
def test_missing_search_indexes_are_found_and_created_again(db: None) -> None:
    assert examine("search_indexes").state == State.OK
    with database.cursor() as cursor:
        cursor.execute("DROP EXTENSION pg_trgm CASCADE")
    assert_found("search_indexes", "18 indexes for", advises="CREATE EXTENSION pg_trgm", state=State.WARNING)
    call_command("search_indexes")
    assert examine("search_indexes").state == State.OK
