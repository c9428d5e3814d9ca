"""Shared fixtures: the people, the sandbox, and real worker, beat and web processes.

tests/factories.py creates tenants, app registrations, connections and mailboxes.
"""

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvicorn
from django.conf import settings as django_settings
from django.db import connection as database
from django.test import Client

from connections import fields
from connections.microsoft import clouds
from connections.models import AppRegistration, Connection, User
from portal.processes import Process, stop_all
from portal.sandbox.client import Control
from portal.sandbox.process import SandboxProcess
from portal.sandbox.process import start as start_sandbox
from tests import audit_triggers, database_template, factories, full_dataset, suites
from tests.environment import ROOT, run_directory

# How long a case takes depends on the machine.
hypothesis.settings.register_profile("portal", deadline=None)
hypothesis.settings.load_profile("portal")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-schema", action="store_true", help="write the tables down anew, see tests/schema.py")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not even import the files of other suites."""
    return None if collection_path.is_dir() or _is_in_this_suite(collection_path) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked ``only_on`` another database, and files of other suites that were named on purpose."""
    here = os.environ.get("TEST_DATABASE", "sqlite")
    elsewhere = [
        item
        for item in items
        if any(here not in mark.args for mark in item.iter_markers("only_on")) or not _is_in_this_suite(item.path)
    ]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]


def _is_in_this_suite(path: Path) -> bool:
    suite = os.environ.get("TEST_SUITE", "")  # set by ``python -m tests``; pytest on its own runs everything
    both = bool(os.environ.get("TEST_BOTH"))
    return not suite or suites.has(suite, path.relative_to(ROOT).as_posix(), both=both)


@pytest.fixture(scope="session")
def django_db_keepdb(django_db_modify_db_settings: None) -> bool:
    """On SQLite, start with a copy of the migrated database; the run's directory is removed in any case."""
    if database.vendor != "sqlite":
        return False
    database_template.restore(database.settings_dict["TEST"]["NAME"])
    return True


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_keepdb: bool, django_db_blocker: Any) -> None:
    """Let test databases be emptied despite the audit triggers."""
    with django_db_blocker.unblock():
        if django_db_keepdb:
            database.close()
            database_template.save(str(database.settings_dict["NAME"]))
        audit_triggers.let_flush_through()


@pytest.fixture(autouse=True)
def _forget_altered_secrets() -> Iterator[None]:
    """Otherwise the next request, in another test, would report the altered secrets of this one."""
    yield
    fields.altered.clear()


@pytest.fixture
def alice(db: None) -> User:
    """IT admin."""
    return factories.make_person("alice")


@pytest.fixture
def bob(db: None) -> User:
    """Member; owns what make_connection() creates."""
    return factories.make_person("bob")


@pytest.fixture
def carol(db: None) -> User:
    """Auditor."""
    return factories.make_person("carol")


@pytest.fixture
def dave(db: None) -> User:
    """Stranger: a member who owns nothing."""
    return factories.make_person("dave")


@pytest.fixture
def dana(alice: User) -> User:
    """A second IT admin."""
    dana = factories.make_person("dana")
    dana.groups.add(*alice.groups.all())
    return dana


@pytest.fixture
def eve(db: None) -> User:
    """A member with bad intent."""
    return factories.make_person("eve")


@pytest.fixture
def una(db: None) -> User:
    """A member who gets shared access and loses it."""
    return factories.make_person("una")


@pytest.fixture
def connection(bob: User) -> Connection:
    """Bob's connection, which works."""
    return factories.make_connection(owner=bob)


@pytest.fixture
def app(db: None) -> AppRegistration:
    """The app registration that new connections use."""
    return factories.make_app_registration()


@pytest.fixture
def signed_in() -> Callable[[User], Client]:
    """``signed_in(alice)`` is a browser in which alice has signed in."""
    return factories.signed_in


@pytest.fixture
def max_queries(django_assert_max_num_queries: Any) -> Any:
    """``with max_queries(9):`` fails if the block needs more queries."""
    return django_assert_max_num_queries


@pytest.fixture
def contoso(alice: User, bob: User, carol: User, dave: User, sandbox: Control) -> full_dataset.World:
    """One of everything, people in every relation to it, and the like in another directory."""
    world = full_dataset.relate(full_dataset.make({"alice": alice, "bob": bob, "carol": carol, "dave": dave}))
    full_dataset.make_elsewhere()
    return world


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[SandboxProcess]:
    """One sandbox process for the whole session."""
    process = start_sandbox()
    yield process
    process.stop()


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess, settings: Any) -> Iterator[Control]:
    """The sandbox in place of Microsoft, in its initial state.

    The value is its control API: ``sandbox.revoke_sessions(upn=factories.ADA)``, ``sandbox.calls()``.
    """
    sandbox_process.control.reset()
    sandbox_process.control.clear_calls()
    settings.MICROSOFT_SANDBOX_URL = sandbox_process.url
    clouds.add_sandbox(sandbox_process.url)
    yield sandbox_process.control
    clouds.add_sandbox("")


_numbers = itertools.count(1)


def portal_environment(**more: str) -> dict[str, str]:
    """Environment for a process that runs portal.settings on this test's database, broker and sandbox."""
    names = ("MICROSOFT_SANDBOX_URL", "PORTAL_URL", "MICROSOFT_CA_BUNDLE", "REDIS_PREFIX")
    current = {name: getattr(django_settings, name) for name in names}
    changed = {"DJANGO_SETTINGS_MODULE": "portal.settings", "DATABASE_URL": database_url(), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **current, **changed, **more}


def database_url() -> str:
    """Return the DATABASE_URL of the running test's database."""
    name = database.settings_dict["NAME"]
    if database.vendor == "sqlite":
        return f"sqlite:///{name}"
    before, _, _ = os.environ["DATABASE_URL"].partition("?")
    return f"{before.rpartition('/')[0]}/{name}"


def logs_of_run() -> list[Path]:
    """Return every log file that this run's processes have written."""
    return sorted((run_directory() / "logs").glob("*.log"))


@pytest.fixture
def start_process(transactional_db: None) -> Iterator[Callable[..., Process]]:
    """``start_process(name, [module, argument, ...], **environment)`` runs ``python -m module`` until the test ends."""
    started: list[Process] = []

    def start(name: str, arguments: list[str], **environment: str) -> Process:
        process = Process(
            name,
            [sys.executable, "-m", *arguments],
            log=run_directory() / "logs" / f"{name}-{next(_numbers)}.log",
            environment=portal_environment(**environment),
            directory=ROOT,
        )
        started.append(process)
        return process

    yield start
    stop_all(started)


@pytest.fixture
def celery_worker(start_process: Callable[..., Process]) -> Callable[..., list[Process]]:
    """``celery_worker(n=2)`` starts real workers on the test's database and broker and returns when they are ready."""

    def start(n: int = 1, **environment: str) -> list[Process]:
        _empty_broker()
        command = ["celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle"]
        names = [f"worker{next(_numbers)}" for _ in range(n)]
        workers = [
            start_process(name, [*command, "--without-gossip", "-n", f"{name}@localhost"], **environment)
            for name in names
        ]
        for worker in workers:
            worker.wait_for_line(" ready.", seconds=30)
        return workers

    return start


@pytest.fixture
def celery_beat(start_process: Callable[..., Process]) -> Callable[..., list[Process]]:
    """``celery_beat(n=2, SWEEP_INTERVAL="0.5")`` starts real beats and returns when they are ready."""

    def start(n: int = 1, **environment: str) -> list[Process]:
        environment.setdefault("SWEEP_INTERVAL", "0.5")
        environment.setdefault("PROBE_INTERVAL", "1")
        command = ["celery", "-A", "portal", "beat", "-s", str(run_directory() / "beat")]
        beats = [start_process("beat", command, **environment) for _ in range(n)]
        for beat in beats:
            beat.wait_for_line("beat: Starting", seconds=30)
        return beats

    return start


def _empty_broker() -> None:
    import redis

    client = redis.Redis.from_url(django_settings.REDIS_URL)
    client.flushdb()
    client.close()


@pytest.fixture
def portal_url(transactional_db: None, settings: Any) -> Iterator[str]:
    """The web process's application on the test database, served from this process; PORTAL_URL points to it."""
    from portal.asgi import Portal  # importing it sets Django up

    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    url = f"http://localhost:{listener.getsockname()[1]}"
    settings.PORTAL_URL, settings.CSRF_TRUSTED_ORIGINS = url, [url]
    options: dict[str, Any] = {"ws": "none", "log_config": None, "access_log": False, "proxy_headers": False}
    server = uvicorn.Server(uvicorn.Config(Portal(threads=4), timeout_graceful_shutdown=2, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="portal")
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield url
    server.should_exit = True
    thread.join()
