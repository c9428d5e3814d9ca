"""Run the code samples in the documentation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.utils import timezone

from connections.models import Connection, User
from connections.services.tokens import resource_tokens
from portal.sandbox.client import Control
from tests import factories
from tests.clients.conftest import Granted, issue_key
from tests.environment import ROOT

DOCUMENTS = ROOT / "docs" / "clients"
GRAPH = "https://graph.microsoft.com"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """Return a document's code blocks in one language."""
    return [code for kind, code in _BLOCK.findall((DOCUMENTS / document).read_text()) if kind == language]


@pytest.fixture
def environment(portal_url: str, sandbox: Control, granted: Granted, alice: User, tmp_path: Path) -> dict[str, str]:
    """A reader's environment: a portal, a key file, a working and a failed connection."""
    invoices = granted(name="Invoices", owner=alice, capabilities=["mail.read", "imap.access", "azure.manage"])
    sandbox.issue_grant(
        factories.CLIENT_ID, factories.ADA, ["exchange/IMAP.AccessAsUser.All", "azure/user_impersonation"]
    )
    resource_tokens.arrange(invoices, forget_tokens=False, now=timezone.now())
    granted(name="Forgotten", owner=alice, status="reconnect_needed", status_cause="The sign-in has ended.")
    key, command = tmp_path / "key", tmp_path / "portalctl"
    key.write_text(issue_key(alice))
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m m365_portal "$@"\n')
    command.chmod(0o700)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "clients" / "python" / "src"),
        "PORTAL_URL": portal_url,
        "PORTAL_API_KEY_FILE": str(key),
        "NO_PROXY": "*",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
    }


def run(document: str, environment: dict[str, str], graph: str) -> subprocess.CompletedProcess[str]:
    """Run all shell lines of a document as one script that stops at the first failure."""
    script = "set -euo pipefail\n" + "\n".join(blocks(document, "sh")).replace(GRAPH, graph)
    shell = ["bash", "-c", f"cd ~\n{script}"]
    return subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.mark.django_db(transaction=True)
def test_every_curl_line_works(environment: dict[str, str], sandbox: Control) -> None:
    process = run("curl.md", environment, sandbox.base_url)
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()
    assert len(lines[:3]) == 3, "three subjects of Ada's mail"
    assert f'"{factories.ADA}"' in lines
    assert "active" in lines
    links = [line for line in lines if line.startswith(environment["PORTAL_URL"])]
    assert len(set(links)) == 2
    assert "reconnect_needed: The sign-in has ended." in process.stderr
    assert Connection.objects.get(name="Reports").status == "pending"


@pytest.mark.django_db(transaction=True)
def test_every_portalctl_line_works(environment: dict[str, str], sandbox: Control) -> None:
    process = run("portalctl.md", environment, sandbox.base_url)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    assert "Invoices: active" in process.stdout
    assert process.stdout.count("Send this link") == 2
    assert "exit code" not in process.stdout


@pytest.mark.django_db(transaction=True)
def test_python_lines_work(environment: dict[str, str]) -> None:
    for code in blocks("python.md", "python"):
        shell = [sys.executable, "-c", code]
        process = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr


def test_every_documented_command_is_run() -> None:
    shown = [
        (document.name, kind)
        for document in sorted(DOCUMENTS.glob("*.md"))
        for kind, code in _BLOCK.findall(document.read_text())
        if "curl" in code or "portalctl" in code
    ]
    assert {kind for _, kind in shown} == {"sh"}
    assert {name for name, _ in shown} == {"curl.md", "portalctl.md"}
