"""portalctl as a process: output, exit codes and messages."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from connections.models import Connection, User
from connections.services.sharing import references
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.clients.conftest import Granted, issue_key
from tests.clients.scripted_server import PORTAL_TOKEN, Reply, serving
from tests.environment import ROOT

OK, NOT_WELL, USAGE, REFUSED, AWAY = range(5)
Ran = subprocess.CompletedProcess[str]


def run(*arguments: str, **environment: str) -> Ran:
    """Run ``portalctl arguments`` in a separate environment."""
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "clients" / "python" / "src"), "NO_PROXY": "*"}
    command = [sys.executable, "-m", "m365_portal", *arguments]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def portalctl(portal_url: str, key: str) -> Callable[..., Ran]:
    """portalctl with bob's key, without retries."""
    return lambda *arguments: run("--wait", "0", *arguments, PORTAL_URL=portal_url, PORTAL_API_KEY=key)


pytestmark = pytest.mark.django_db(transaction=True)


def test_token_prints_the_token_alone(portalctl: Callable[..., Ran], granted: Granted) -> None:
    granted(name="Invoices")
    ran = portalctl("token", "Invoices")
    assert (ran.returncode, ran.stderr) == (OK, "")
    assert ran.stdout == f"{Connection.objects.get().access_token}\n"
    as_json = json.loads(portalctl("--json", "token", "Invoices", "--min-valid", "60").stdout)
    assert as_json["access_token"] == Connection.objects.get().access_token
    assert portalctl("token", "Invoices", "--min-valid", "4000").returncode == USAGE


def test_list_and_show_describe_the_state(portalctl: Callable[..., Ran], granted: Granted) -> None:
    assert portalctl("list").stdout == "No connections found.\n"
    well = granted(name="Invoices")
    granted(name="Ended\x1b[31m", status="reconnect_needed", status_cause="The sign-in has ended.", status_who="owner")
    lines = portalctl("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATUS", "ACCOUNT", "OWNER"]
    assert lines[1].split() == [str(well.pk), "Invoices", "active", factories.ADA, "Bob", "Member"]
    assert "Ended?[31m" in lines[2], "nobody's name steers the terminal"
    assert [load["name"] for load in json.loads(portalctl("list", "--json", "--name", "Invoices").stdout)] == [
        "Invoices"
    ]
    assert portalctl("show", "Invoices").returncode == OK
    ended = portalctl("show", str(well.pk + 1))
    assert ended.returncode == NOT_WELL
    assert "The sign-in has ended." in ended.stdout


def test_check_tests_at_microsoft_and_says_who_must_act(
    portalctl: Callable[..., Ran], granted: Granted, sandbox: Control
) -> None:
    granted(name="Invoices")
    ran = portalctl("check", "Invoices")
    assert (ran.returncode, ran.stdout) == (OK, "Invoices: active\n"), ran.stderr
    assert portalctl("incidents").returncode == OK
    sandbox.revoke_sessions(factories.ADA)
    ran = portalctl("check", "Invoices")
    assert ran.returncode == NOT_WELL, ran.stderr
    assert "Invoices: reconnect_needed" in ran.stdout
    assert "Assigned to: owner" in ran.stdout
    broken = portalctl("incidents")
    assert broken.returncode == NOT_WELL
    assert "/incidents/" in broken.stdout
    assert json.loads(portalctl("incidents", "--json").stdout)[0]["is_open"] is True


def test_errors_go_to_standard_error(portalctl: Callable[..., Ran], granted: Granted, sandbox: Control) -> None:
    granted(name="Invoices")
    sandbox.revoke_sessions(factories.ADA)
    ran = portalctl("token", "Invoices")
    assert (ran.returncode, ran.stdout) == (NOT_WELL, "")
    assert "the connection's owner" in ran.stderr
    problem = json.loads(portalctl("token", "Invoices", "--json").stderr)
    assert (problem["code"], problem["who"]) == ("reconnect_needed", "owner")


def test_connect_prints_the_link_to_sign_in(portalctl: Callable[..., Ran], granted: Granted, portal_url: str) -> None:
    app = granted().app_registration
    ran = portalctl("connect", "Reports", "--app", str(app.pk), "--capability", "mail.read")
    assert ran.returncode == OK, ran.stderr
    assert ran.stdout.splitlines()[-1].startswith(f"{portal_url}/")
    connection = Connection.objects.get(name="Reports")
    assert (connection.status, connection.capabilities) == ("pending", ["mail.read"])
    again = json.loads(portalctl("link", "Reports", "--json").stdout)
    assert again["url"].startswith(f"{portal_url}/")
    assert portalctl("token", "Reports").returncode == NOT_WELL
    assert portalctl("connect", "Other", "--app", "Nothing of the kind").returncode in (USAGE, REFUSED)


def test_an_app_only_connection_is_ready_at_once(portal_url: str, sandbox: Control, alice: User) -> None:
    app = factories.make_app_registration(client_id=seed.ROBOTS_APP, secret=seed.ROBOTS_SECRET)
    environment = {"PORTAL_URL": portal_url, "PORTAL_API_KEY": issue_key(alice)}
    command = ["connect", "Robots", "--app", app.name, "--app-only", "--capability", "mail.read", "--reason", "Reports"]
    ran = run(*command, **environment)
    assert ran.returncode == OK, ran.stderr
    assert ran.stdout.endswith("Robots: active.\n")
    assert run("token", "Robots", **environment).returncode == OK


def test_me_describes_the_key(portalctl: Callable[..., Ran], bob: User) -> None:
    ran = portalctl("me")
    assert ran.returncode == OK, ran.stderr
    assert "Robot" in ran.stdout
    assert str(bob) in ran.stdout


def test_each_kind_of_failure_has_its_exit_code(
    portalctl: Callable[..., Ran], portal_url: str, key: str, tmp_path: Path
) -> None:
    expected = [
        (portalctl("token", "Nobody's"), REFUSED, "you don't have access"),
        (portalctl("nonsense"), USAGE, "invalid choice"),
        (portalctl(), USAGE, "required"),
        (portalctl("token", "x", "--key", key), USAGE, "unrecognized arguments"),
        (run("list", PORTAL_URL=portal_url), USAGE, "no API key"),
        (run("list", PORTAL_API_KEY=key), USAGE, "URL"),
        (run("list", PORTAL_URL="http://portal.example.org", PORTAL_API_KEY=key), USAGE, "isn't encrypted"),
        (run("list", "--key-file", str(tmp_path / "missing"), PORTAL_URL=portal_url), USAGE, "can't be read"),
        (run("list", PORTAL_URL=portal_url, PORTAL_API_KEY="m365p_x"), REFUSED, "isn't valid"),
        (run("list", "--wait", "0", PORTAL_URL="http://127.0.0.1:9", PORTAL_API_KEY=key), AWAY, "can't be reached"),
    ]
    for ran, code, words in expected:
        assert (ran.returncode, ran.stdout) == (code, ""), ran.args
        assert words in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_token_that_ends_soon_is_printed_with_a_warning_beside_it() -> None:
    troubled = Reply(200, PORTAL_TOKEN, {"Portal-Trouble": "microsoft_unavailable"})
    with serving(troubled) as script:
        ran = run("token", "Invoices", PORTAL_URL=script.url, PORTAL_API_KEY="m365p_x")
    assert ran.stdout == f"{PORTAL_TOKEN['access_token']}\n"
    assert (ran.returncode, "microsoft_unavailable" in ran.stderr) == (OK, True)


def test_a_key_in_a_file_is_enough(portal_url: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{key}\n")
    ran = run("list", "--url", portal_url, "--key-file", str(tmp_path / "key"))
    assert ran.returncode == OK, ran.stderr


def test_a_reader_who_has_enough_is_no_error(portal_url: str, key: str, granted: Granted) -> None:
    granted(name="Invoices")
    environment: dict[str, Any] = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "clients" / "python" / "src"),
        "PORTAL_URL": portal_url,
        "PORTAL_API_KEY": key,
    }
    shell = ["bash", "-c", f"set -o pipefail; {sys.executable} -m m365_portal list | true"]
    ran = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (OK, "")


def test_references_are_listed_and_pointed_elsewhere(
    portalctl: Callable[..., Ran], granted: Granted, bob: User
) -> None:
    assert portalctl("references").stdout == "No references found.\n"
    old, new = granted(name="Old"), granted(name="New")
    references.create("invoices", old, actor=bob, now=timezone.now())
    assert portalctl("token", "invoices").stdout == f"{Connection.objects.get(pk=old.pk).access_token}\n"
    lines = portalctl("references").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [["NAME", "CONNECTION", "OWNER"], ["invoices", str(old.pk), "bob"]]
    assert portalctl("point", "invoices", "New").stdout == f"invoices now points at connection {new.pk}.\n"
    assert portalctl("token", "invoices").stdout == f"{Connection.objects.get(pk=new.pk).access_token}\n"
    assert portalctl("point", "nothing", "New").returncode == REFUSED
