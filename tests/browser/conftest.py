"""A running portal and people in front of real browsers.

``portal()`` starts the web server, ``portal(alive=True)`` the worker and beat as well; ``visitor("bob")`` is bob with a
Chromium window. A console message, a violated content policy or a file that does not load fails the test.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from portal.demo import answers
from portal.processes import Process
from portal.sandbox.client import Control
from portal.sandbox.process import SandboxProcess
from portal.sandbox.process import start as start_sandbox
from tests.browser.browser_users import Portal, Visitor
from tests.browser.chromium import CHROMIUM, FLAGS
from tests.browser.recording_proxy import Wire
from tests.browser.secret_scanner import BrokerWatch, Watch
from tests.conftest import logs_of_run
from tests.environment import run_directory

FAILED = pytest.StashKey[bool]()
HERE = Path(__file__).parent
MISSING = (
    "Chromium is missing, so the browser tests were skipped. To get it: apt-get install chromium, or set CHROMIUM."
)
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("REQUIRE_BROWSER") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as driving a browser."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Let the fixtures know whether the test itself failed."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Playwright; everything that it and Chromium write stays inside the run directory."""
    if not CHROMIUM:
        if REQUIRED:
            pytest.fail("Chromium is missing, but the browser tests must run here. apt-get install chromium")
        pytest.skip(MISSING)
    home = run_directory() / "browser"
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(home))
        # Playwright runs an event loop in this thread, and Django would refuse to use the database next to it.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with sync_playwright() as playwright:
            yield playwright


@pytest.fixture(scope="package")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """One Chromium; each visitor gets a separate browser context."""
    home = str(run_directory() / "browser")
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, env={**os.environ, **places})
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def microsoft() -> Iterator[Wire]:
    """The recording proxy in front of the sandbox."""
    wire = Wire()
    yield wire
    wire.stop()


@pytest.fixture(scope="package")
def sandbox_process(microsoft: Wire) -> Iterator[SandboxProcess]:
    """A separate sandbox, with the proxy's address as its public URL."""
    process = start_sandbox(public_url=microsoft.url)
    microsoft.target = process.port
    yield process
    process.stop()


@pytest.fixture
def portal(
    chromium: Browser,
    sandbox: Control,
    microsoft: Wire,
    start_process: Callable[..., Process],
    celery_worker: Callable[..., list[Process]],
    celery_beat: Callable[..., list[Process]],
    settings: Any,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Portal]]:
    """``portal(alive=True)`` is a running portal; no secret may have leaked by the end of the test."""
    wire = Wire(host="localhost")
    microsoft.exchanges.clear()
    settings.PORTAL_URL = wire.url
    before = set(logs_of_run())
    running: list[Portal] = []
    broker = BrokerWatch()

    def start(*, alive: bool = False, **environment: str) -> Portal:
        if alive:
            celery_worker(**environment)
            celery_beat(**{"SWEEP_INTERVAL": "1", "PROBE_INTERVAL": "2", **environment})
        wire.target = _start_web(start_process, environment)
        running.append(Portal(wire.url, microsoft.url, Watch(wire, microsoft, broker)))
        return running[0]

    yield start
    logs = sorted(set(logs_of_run()) - before)
    if request.node.stash.get(FAILED, False):
        print(*_errors(logs), sep="\n")  # noqa: T201 - pytest shows it beside the failure
    try:
        for process in running:
            process.watch.logs = logs
            assert process.watch.leaks() == []
    finally:
        broker.stop()
        wire.stop()


def _errors(logs: list[Path]) -> list[str]:
    lines = [(path.name, line) for path in logs for line in path.read_text(errors="replace").splitlines()]
    return [f"{name}: {line}" for name, line in lines if '"level": "error"' in line]


def _start_web(start_process: Callable[..., Process], environment: dict[str, str]) -> int:
    socket = {"BIND": "127.0.0.1:0", "DJANGO_SETTINGS_MODULE": "tests.browser.settings"}
    web = start_process("web", ["portal.server"], **socket, **environment)
    web.wait_for_line("Listening at", seconds=30)
    line = next(line for line in web.log.read_text().splitlines() if "Listening at" in line)
    port = int(line.partition("http://127.0.0.1:")[2].partition(" ")[0])
    # On a busy machine the first response may exceed the time-out.
    assert any(answers(f"http://localhost:{port}/healthz") for _ in range(6)), (
        f"the portal listens but does not work\n{web.last_lines()}"
    )
    return port


@pytest.fixture
def visitor(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visitor]]:
    """``visitor(portal, "bob", **window)`` is bob with his own window, signed in by password."""
    opened: list[Visitor] = []

    def come(portal: Portal, username: str = "", **window: Any) -> Visitor:
        here = Visitor(portal, chromium.new_context(base_url=portal.url, locale="en-GB", **window))
        opened.append(here)
        if username:
            here.sign_in(username)
        return here

    yield come
    if request.node.stash.get(FAILED, False):
        for user in opened:
            print(user.last_seen())  # noqa: T201 - pytest shows it beside the failure
    complaints = [line for user in opened for line in user.complaints]
    for user in opened:
        user.page.context.close()
    assert complaints == []
