"""The deployment kit at work: nginx with the shipped file in front of the processes of the unit files.

There is no Docker engine here. What of the image and compose.yaml can be checked without one is in test_image.py.
"""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connections.models import RunningProcess
from connections.services.operations import health
from portal.body_limits import limit_of
from portal.processes import Process, stop_all
from portal.sandbox.process import free_port
from tests import factories, tls
from tests.conftest import portal_environment
from tests.environment import ROOT
from tests.fake_receivers import Hooks, web_server
from tests.faults.test_many_workers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.only_on("postgres")]

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
UNITS = ROOT / "deploy" / "systemd"
# The site file is included in this one. The user is set only because pytest's directories belong to whoever runs it.
_MAIN = """
{user}
pid {directory}/nginx.pid;
error_log stderr;
daemon off;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/portal.conf;
}}
"""


@dataclass(frozen=True)
class Site:
    directory: Path
    plain: int  # ports
    https: int
    portal: int
    environment: dict[str, str]
    traces: Hooks

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request to nginx from 127.0.0.2, so that the client's address can be told from nginx's own."""
        trust = ssl.create_default_context(cafile=str(self.directory / "cert.pem"))
        connection = http.client.HTTPSConnection(
            "localhost", self.https, context=trust, timeout=60, source_address=("127.0.0.2", 0)
        )
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def access_log(self) -> str:
        return (self.directory / "access.log").read_text()

    def log_of_web(self) -> str:
        return (self.directory / "web.log").read_text()


def exec_start(unit: str) -> list[str]:
    """Return the command of a unit file, with this environment's programs in place of /srv/portal/.venv/bin."""
    (command,) = re.findall(r"^ExecStart=(.*)$", (UNITS / f"portal-{unit}.service").read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program.startswith("/srv/portal/.venv/bin/")
    return [str(Path(sys.executable).parent / Path(program).name), *arguments]


def write_nginx_configuration(directory: Path, *, plain: int, https: int, portal: int) -> None:
    """Write the shipped file with other ports and paths, and one that includes it."""
    (directory / "portal.conf").write_text(nginx_site(directory, plain=plain, https=https, portal=portal))
    write_nginx_main(directory)


def write_nginx_main(directory: Path) -> None:
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(_MAIN.format(directory=directory, user=user))


def nginx_site(directory: Path, *, plain: int, https: int, portal: int) -> str:
    """Return the shipped file with other ports and paths; everything else stays as it is."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new, times in (
        ("listen 80;", f"listen 127.0.0.1:{plain};", 1),
        ("listen [::]:80;", "", 1),
        ("listen 443 ssl;", f"listen 127.0.0.1:{https} ssl;", 1),
        ("listen [::]:443 ssl;", "", 1),
        ("127.0.0.1:8000", f"127.0.0.1:{portal}", 1),
        ("/etc/portal/tls/certificate.pem", f"{directory}/cert.pem", 1),
        ("/etc/portal/tls/key.pem", f"{directory}/key.pem", 1),
        ("/var/log/nginx/portal.log", f"{directory}/access.log", 2),
        ("portal.example.org", "localhost", 4),
    ):
        assert text.count(old) == times, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def traces() -> Iterator[Hooks]:
    """A receiver of OTLP over HTTP."""
    with web_server() as hooks:
        hooks.status = 200
        yield hooks


@pytest.fixture
def site(tmp_path: Path, transactional_db: None, traces: Hooks) -> Iterator[Site]:
    """nginx, web, worker and beat, started as the kit does."""
    tls.self_signed(tmp_path)
    ports = {name: free_port() for name in ("plain", "https", "portal")}
    environment = portal_environment(
        PORTAL_URL=f"https://localhost:{ports['https']}", BIND=f"127.0.0.1:{ports['portal']}", TRUSTED_PROXIES="1",
        DJANGO_SETTINGS_MODULE="tests.browser.settings", REDIS_PREFIX="kit", SWEEP_INTERVAL="1",
        OTEL_EXPORTER_OTLP_ENDPOINT=traces.url.partition("/hook")[0], OTEL_BSP_SCHEDULE_DELAY="200",
    )  # fmt: skip
    write_nginx_configuration(tmp_path, **ports)
    tmp_path.chmod(0o755)
    commands = {unit: exec_start(unit) for unit in ("web", "worker", "beat")}
    commands["nginx"] = [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    processes = {
        name: Process(name, command, log=tmp_path / f"{name}.log", environment=environment, directory=ROOT)
        for name, command in commands.items()
    }
    try:
        processes["web"].wait_for_line("Listening at", seconds=90)
        processes["nginx"].wait_until(lambda: _listens(ports["https"]), seconds=20)
        yield Site(tmp_path, ports["plain"], ports["https"], ports["portal"], environment, traces)
    finally:
        stop_all(list(processes.values()), seconds=20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_person_and_an_automation_come_through_the_proxy(site: Site, settings: object) -> None:
    _check_sign_in_page(site)
    _check_token_call(site)
    _check_limits(site)
    _check_internal_pages(site)
    _check_doctor(site)
    _check_traces(site)


def _check_sign_in_page(site: Site) -> None:
    status, headers, body = site.request("GET", "/sign-in/?code=a-secret-code", X_Forwarded_For="203.0.113.9")
    assert (status, b"<form" in body) == (200, True)
    assert "max-age" in headers["Strict-Transport-Security"], "the portal knows that this is https"
    assert "__Host-csrftoken" in headers["Set-Cookie"]
    assert "nginx/" not in headers["Server"]
    wait_until(lambda: headers["X-Request-ID"] in site.access_log(), seconds=10)  # written after the response
    line = json.loads(site.access_log().splitlines()[-1])
    assert (line["event"], line["client"], line["status"]) == ("GET /sign-in/", "127.0.0.2", 200)
    assert line["request_id"] == headers["X-Request-ID"]
    wait_until(lambda: headers["X-Request-ID"] in site.log_of_web(), seconds=10)
    lines = [json.loads(text) for text in site.log_of_web().splitlines()]
    assert [line["client"] for line in lines if line.get("request_id") == headers["X-Request-ID"]] == ["127.0.0.2"]
    site.request("GET", "/sign-in-link/a-secret-link/")
    wait_until(lambda: "/sign-in-link/[hidden]/" in site.access_log(), seconds=10)
    assert "a-secret" not in site.access_log()
    plain = http.client.HTTPConnection("localhost", site.plain, timeout=20)
    plain.request("GET", "/sign-in/")
    response = plain.getresponse()
    assert (response.status, response.headers["Location"]) == (301, "https://localhost/sign-in/")
    plain.close()


def _check_token_call(site: Site) -> None:
    connection = factories.make_connection()
    _, key = factories.make_key(connection.owner)
    status, headers, body = site.request(
        "GET", f"/api/v1/connections/{connection.pk}/token", Authorization=f"Bearer {key}"
    )
    assert (status, json.loads(body)["access_token"]) == (200, connection.access_token)
    assert headers["Cache-Control"] == "no-store, private"
    assert site.request("GET", f"/api/v1/connections/{connection.pk}", Authorization=f"Bearer {key}")[0] == 200


def _check_limits(site: Site) -> None:
    for path in ("/sign-in/", "/auth/complete/microsoft/", "/apps/add/", "/apps/7/credentials/add/", "/teams/"):
        limit = limit_of(path)
        assert site.request("POST", path, b"x" * (limit + 1))[0] == 413, path
        assert site.request("POST", path, b"x" * limit)[0] != 413, path
    text = (site.directory / "portal.conf").read_text()
    seconds = {name: int(value) for name, value in re.findall(r"(\w+_timeout) (\d+)s;", text)}
    assert seconds["proxy_read_timeout"] > 10, "a token request takes up to ten seconds"
    assert "client_header_timeout" in seconds
    assert "client_body_timeout" in seconds


def _check_internal_pages(site: Site) -> None:
    assert [site.request("GET", path)[0] for path in ("/metrics", "/readyz", "/healthz")] == [404, 404, 200]
    direct = http.client.HTTPConnection("127.0.0.1", site.portal, timeout=60)
    direct.request("GET", "/metrics", headers={"Host": "10.0.0.7"})
    response = direct.getresponse()
    assert (response.status, b"portal_connections{" in response.read()) == (200, True)
    direct.close()


def _check_doctor(site: Site) -> None:
    """Everything that the kit is responsible for is in order; people and mail have not been set up here."""
    wait_until(lambda: RunningProcess.objects.count() == 3, seconds=60)
    process = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"], cwd=ROOT,
        env={**os.environ, **site.environment, "SSL_CERT_FILE": f"{site.directory}/cert.pem"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(process.stdout)["checks"] if check["name"] != "settings"}
    for name in ("database", "database_version", "migrations", "broker", "processes", "public_url", "public_metrics"):
        assert checks[name]["state"] == "ok", checks[name]
    cache.delete(health.LAST_SWEEP)


def _check_traces(site: Site) -> None:
    """Requests, tasks and statements have spans, which contain nothing of what the requests above contained."""

    def spans() -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(request.body) for request in list(site.traces.requests)]
        groups = [group for request in requests for group in request.resource_spans]
        return [span for group in groups for scope in group.scope_spans for span in scope.spans]

    wanted = {"GET /sign-in/", "GET /api/v1/connections/<ref>/token", "answer token requests", "task sweep", "SELECT"}
    wait_until(lambda: wanted <= {span.name for span in spans()}, seconds=20)
    sent = b"".join(request.body for request in site.traces.requests)
    assert {request.path for request in site.traces.requests} == {"/v1/traces"}
    for secret in (b"a-secret", b"m365p_", b"Bearer", b"203.0.113.9"):
        assert secret not in sent, secret
    by_id = {span.span_id: span for span in spans()}
    parents = {by_id[span.parent_span_id].name for span in spans() if span.parent_span_id in by_id}
    assert {"GET /api/v1/connections/<ref>", "answer token requests", "task sweep"} <= parents


@pytest.mark.parametrize("unit", ["web", "worker", "beat", "backup"])
def test_systemd_accepts_the_unit_files(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd-analyze")
    text = (UNITS / f"portal-{unit}.service").read_text()
    command = shlex.join(exec_start(unit))
    copy = tmp_path / f"portal-{unit}.service"
    copy.write_text(re.sub(r"^ExecStart=.*$", f"ExecStart={command}", text, flags=re.MULTILINE))
    process = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
