"""How everything runs: the fixtures, child processes, embedded servers, the demo, and the test runner."""

import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
from django.db import connection as database

from connections.access import roles as access_roles
from connections.microsoft import clouds
from portal import demo
from portal.dev_servers import PostgreSQL, Valkey
from portal.processes import Process, ProcessError
from portal.sandbox.client import Control
from portal.sandbox.process import free_port
from tests import __main__ as runner
from tests import factories
from tests.environment import ROOT
from tests.faults.test_many_workers import wait_until

SLEEPER = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)",
]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie waiting for its parent."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# --- The fixtures ---------------------------------------------------------------------------------


def test_the_cast_has_its_roles(alice: Any, bob: Any, carol: Any, dave: Any) -> None:
    roles = [access_roles.person(user).role for user in (alice, bob, carol, dave)]
    assert roles == ["IT admin", "Member", "Auditor", "Member"]


def test_make_connection_makes_one_that_is_active_and_owned_by_bob(db: Any) -> None:
    connection = factories.make_connection()
    assert connection.owner.username == "bob"
    assert connection.is_delegated
    assert connection.status == "active"


def test_the_sandbox_answers_and_counts(sandbox: Control, settings: Any) -> None:
    assert clouds.cloud("sandbox").login == settings.MICROSOFT_SANDBOX_URL
    assert sandbox.calls()["total"] == 0
    granted = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["offline_access", "Mail.Read"])
    assert granted["oid"] == factories.ADA_ID


def test_the_database_is_the_one_that_was_asked_for(db: Any) -> None:
    wanted = os.environ.get("TEST_DATABASE", "sqlite")
    assert database.vendor == {"sqlite": "sqlite", "postgres": "postgresql"}[wanted]


# --- Child processes ------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[list[str]], Process]]:
    started: list[Process] = []

    def start(command: list[str]) -> Process:
        started.append(Process("child", command, log=tmp_path / "child.log"))
        return started[-1]

    yield start
    for process in started:
        process.stop(seconds=0.1)


def test_a_child_stops_when_asked(child: Any) -> None:
    process = child(SLEEPER)
    process.wait_for_line("here", seconds=10)
    process.stop(seconds=10)
    assert process.popen.returncode == -signal.SIGTERM
    process.stop()  # safe to call twice


def test_a_child_that_will_not_stop_is_killed(child: Any) -> None:
    process = child(STUBBORN)
    process.wait_for_line("here", seconds=10)
    process.stop(seconds=0.2)
    assert process.popen.returncode == -signal.SIGKILL


def test_a_child_that_ends_too_early_is_an_error_with_its_last_words(child: Any) -> None:
    process = child([sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(ProcessError, match=r"exited with code 1(.|\n)*no such thing"):
        process.wait_for_line("ready", seconds=10)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only an exit handler ends the children")
def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from portal.processes import Process
print(Process("child", {SLEEPER!r}, log=Path({str(tmp_path / "child.log")!r})).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: (tmp_path / "child.log").read_text().startswith("here"), seconds=10)
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid), seconds=10)


# --- Embedded servers -----------------------------------------------------------------------------


def test_valkey_runs_also_where_the_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("a-long-name-" * 10)
    server = Valkey(deep)
    try:
        client = redis.Redis.from_url(server.url(3))
        client.set("key", "value")
        assert client.get("key") == b"value"
        client.close()
        elsewhere = server.socket.parent
        assert elsewhere.stat().st_mode & 0o077 == 0
    finally:
        server.stop()
    assert not elsewhere.exists()
    assert not is_alive(server.process.pid)


def test_postgres_starts_from_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    server = PostgreSQL(tmp_path)
    try:
        url = server.create_database("one")
        assert url.endswith("/one")
        with psycopg.connect(
            host=url.removeprefix("postgres://postgres@/").rpartition("/")[0], user="postgres"
        ) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()
    assert not is_alive(server.process.pid)
    assert not list(tmp_path.glob("**/PG_VERSION"))


# --- The demo -------------------------------------------------------------------------------------


def start_demo(directory: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "portal.demo", "--port", str(port), "--directory", str(directory)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def sign_in(url: str, username: str, password: str) -> str:
    """Return the page after signing in with a password."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar))
    page = opener.open(f"{url}/sign-in/", timeout=20).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token
    form = {"csrfmiddlewaretoken": token.group(1), "username": username, "password": password}
    return str(opener.open(f"{url}/sign-in/", urllib.parse.urlencode(form).encode(), timeout=20).read().decode())


@pytest.mark.slow
def test_the_demo_starts_lets_its_cast_in_and_stops_without_leaving_anything(tmp_path: Path) -> None:
    running = start_demo(tmp_path, free_port())
    try:
        assert running.stdout is not None
        output = ""
        while "Ctrl-C stops everything" not in output:
            line = running.stdout.readline()
            assert line, output
            output += line
        address = re.search(r"The portal +(http://localhost:\d+)", output)
        assert address
        for username, who in demo.CAST.items():
            assert re.search(rf"{username} +{who['password']}", output)
            assert str(who["name"]) in sign_in(address.group(1), username, str(who["password"]))
        children = [child.pid for child in psutil.Process(running.pid).children(recursive=True)]
        assert len(children) >= 5  # Valkey, sandbox, web, worker, beat
        running.send_signal(signal.SIGINT)
        assert running.wait(15) == 0
        assert "Stopped." in running.stdout.read()
        assert [pid for pid in children if is_alive(pid)] == []
    finally:
        running.kill()
        running.communicate()


def test_the_demo_says_when_its_port_is_taken(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = start_demo(tmp_path, port)
        output, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert f"Port {port} is in use" in output
    assert "make demo PORT=" in output


def test_a_second_demo_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with demo.only_one(tmp_path), pytest.raises(demo.DemoError, match="Another demo"), demo.only_one(tmp_path):
        pass


def test_the_demo_notices_which_process_has_ended(tmp_path: Path, child: Any) -> None:
    ended = child([sys.executable, "-c", "print('out of paper'); raise SystemExit(3)"])
    ended.popen.wait(10)
    with pytest.raises(demo.DemoError, match=r"child exited with code 3(.|\n)*out of paper"):
        demo.Demo(free_port(), tmp_path)._check([ended])


def test_the_demo_names_a_process_that_makes_no_progress_and_what_to_do(
    tmp_path: Path, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "IDLE", 0.5)
    portal = demo.Demo(free_port(), tmp_path)
    idle = child(SLEEPER)
    idle.wait_for_line("here", seconds=20)
    with pytest.raises(demo.DemoError, match=r"child isn't ready, and has done nothing(.|\n)*What to do: see .*\.log"):
        portal._wait(idle, lambda: False)
    with pytest.raises(demo.DemoError, match="exited with code 3"):
        portal._wait(child([sys.executable, "-c", "raise SystemExit(3)"]), lambda: False)


def test_a_slow_process_is_waited_for_as_long_as_it_works(child: Any) -> None:
    """It is idle for less than the limit at a time, but not ready for much longer."""
    busy = child(
        [
            sys.executable,
            "-c",
            "import time\nfor _ in range(40): print('.', flush=True); time.sleep(0.1)\nprint('done', flush=True); time.sleep(60)",
        ]
    )
    busy.wait_while_working(lambda: b"done" in busy.log.read_bytes(), idle_seconds=2)


def test_the_demo_keeps_its_keys_between_runs(tmp_path: Path) -> None:
    first = demo.keys(tmp_path)
    assert demo.keys(tmp_path) == first
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert first["SECRET_KEY"] not in str(demo.ORGANISATION)


# --- The suite ------------------------------------------------------------------------------------


def suite_of(*code: str) -> runner.Suite:
    """Return a suite whose pytest is a stand-in."""
    suite = runner.Suite.__new__(runner.Suite)
    suite.start("SQLite", [sys.executable, "-c", "; ".join(code)], dict(os.environ))
    return suite


def test_a_failing_suite_fails_the_whole_and_shows_its_summary(capfd: Any) -> None:
    suite = suite_of("print('= short test summary info =')", "print('FAILED x')", "print('= 1 failed =')", "exit(1)")
    assert suite.finish() == 1
    assert suite.closing_lines() == ["= short test summary info =", "FAILED x", "= 1 failed ="]
    assert "SQLite     | FAILED x" in capfd.readouterr().out


def test_a_passing_suite_shows_its_last_line(capfd: Any) -> None:
    suite = suite_of("print('....')", "print('= 4 passed in 0.1s =')")
    assert suite.finish() == 0
    assert suite.closing_lines() == ["= 4 passed in 0.1s ="]
