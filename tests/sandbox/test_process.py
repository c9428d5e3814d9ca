"""Start, stop and saved state."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from portal.sandbox import process, seed
from tests import tls
from tests.sandbox.conftest import Client

ADA = "ada@contoso.example"


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_restarted_sandbox_remembers_its_world_and_its_tokens(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.json"
    with process.start(state=state) as first:
        grant = first.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["Mail.Read"])["refresh_tokens"][0]
        answer = Client(first.url).refresh(grant).json()
        secret = first.control.add_secret(seed.CONNECTIONS_APP)
        first.control.set_person("alan@contoso.example", disabled=True)
        keys = requests.get(f"{first.url}/common/discovery/v2.0/keys", timeout=20).json()
    assert state.stat().st_mode & 0o077 == 0, "the file holds a signing key"
    with process.start(state=state) as second:
        client = Client(second.url)
        assert client.refresh(grant, client_secret=secret["value"]).status_code == 200
        assert client.graph("me/messages", answer["access_token"]).status_code == 200
        people = {person["upn"]: person for person in second.control.state()["people"]}
        assert people["alan@contoso.example"]["disabled"]
        assert requests.get(f"{second.url}/common/discovery/v2.0/keys", timeout=20).json() == keys
    assert [path.name for path in tmp_path.iterdir()] == ["sandbox.json"]


def test_stopping_frees_the_port_even_while_requests_hang() -> None:
    sandbox = process.start()
    sandbox.control.weather("hang", "token")
    hanging = socket.create_connection(("127.0.0.1", sandbox.port))
    hanging.sendall(b"GET /common/oauth2/v2.0/token HTTP/1.1\r\nHost: localhost\r\n\r\n")
    sandbox.stop()
    assert not reachable(sandbox.port)
    assert sandbox.child.returncode is not None
    sandbox.stop()
    hanging.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    sandbox = process.start()
    try:
        sandbox.child.send_signal(number)
        assert sandbox.child.wait(timeout=10) == 0
        assert not reachable(sandbox.port)
    finally:
        sandbox.stop()


def test_it_dies_with_the_process_that_started_it() -> None:
    program = (
        "import os, sys; sys.path.insert(0, os.getcwd()); from portal.sandbox import process;"
        "s = process.start(); print(s.child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", program], cwd=process.ROOT, capture_output=True, text=True, timeout=60
    )
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)
    try:
        descriptor = os.pidfd_open(child)
    except ProcessLookupError:
        return
    import select

    try:
        ended, _, _ = select.select([descriptor], [], [], 10)
        assert ended, "the sandbox outlived the process that started it"
    finally:
        os.close(descriptor)


def test_it_speaks_tls(tmp_path: Path) -> None:
    cert, secret = tls.self_signed(tmp_path)
    with process.start(tls=(cert, secret)) as sandbox:
        assert sandbox.url.startswith("https://")
        assert sandbox.control.state()["public_url"] == sandbox.url
        address = f"{sandbox.url}/common/v2.0/.well-known/openid-configuration"
        answer = requests.get(address, verify=str(cert), timeout=20).json()
        assert answer["token_endpoint"].startswith("https://")


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--host", "example.org"], ["--state", "/nowhere/x.json"]])
def test_it_refuses_what_would_be_unsafe_or_impossible(options: list[str]) -> None:
    command = [sys.executable, "-m", "portal.sandbox", *options]
    done = subprocess.run(command, cwd=process.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error:" in done.stderr


def test_a_start_on_a_taken_port_fails_with_the_reason() -> None:
    with process.start() as first, pytest.raises(process.SandboxDidNotStart):
        process.start(first.port)
