"""``make demo``: the whole portal on this machine, with the sandbox in place of Microsoft.

Starts Valkey, the sandbox, web, worker and beat, and stops them all on Ctrl-C. Keys, database and logs are kept in
.demo/; removing that directory starts afresh.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet

from portal.dev_servers import Valkey
from portal.processes import Process, ProcessError, stop_all
from portal.sandbox import seed
from portal.sandbox.process import free_port

ROOT = Path(__file__).resolve().parent.parent

# These passwords are public, because anyone who starts the demo must be able to sign in. It only listens on loopback.
CAST = {
    "alice": {"name": "Alice Admin", "password": "alice-in-the-demo", "group": "IT admins"},
    "bob": {"name": "Bob Member", "password": "bob-in-the-demo", "group": ""},
    "carol": {"name": "Carol Auditor", "password": "carol-in-the-demo", "group": "Auditors"},
    "amir": {"name": "Amir Admin", "password": "amir-in-the-demo", "group": "IT admins"},
    "una": {"name": "Una User", "password": "una-in-the-demo", "group": ""},
    "dave": {"name": "Dave Developer", "password": "dave-in-the-demo", "group": ""},
}
ROLES = {"IT admins": "IT admin", "": "member", "Auditors": "auditor"}
# The demo always contains these. portal.demo_story adds a history for these people.
ORGANISATION = {
    "people": CAST,
    "tenant": {"name": "Contoso", "directory_id": seed.CONTOSO},
    "app": {"name": "Contoso Connections", "client_id": seed.CONNECTIONS_APP, "secret": seed.CONNECTIONS_SECRET},
}


class DemoError(Exception):
    """The demo cannot continue. The message says why and what to do."""


class Interrupted(BaseException):
    """The user pressed Ctrl-C or closed the terminal, or SIGTERM was received."""


def main() -> int:
    """Run the demo until Ctrl-C or SIGTERM, or until one of its processes ends. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo", help="directory for keys, database and logs")
    options = parser.parse_args()
    directory: Path = options.directory.absolute()
    for number in _STOPS:
        signal.signal(number, _interrupt)
    try:
        with only_one(directory):
            Demo(options.port, directory).run()
    except Interrupted:
        print(f"Stopped. Data and logs are kept in {directory.name}/. Run make demo to continue.", flush=True)
    except (DemoError, ProcessError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    return 0


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(*_: object) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the shutdown
    print("\nStopping ...", flush=True)
    raise Interrupted


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Lock the directory for this process. Raises DemoError if another demo is using it."""
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("Another demo is running from this directory. Stop it first.") from None
        yield


# Seconds without progress after which the demo stops waiting for a process.
IDLE = 30.0


def say(step: str) -> None:
    print(f"  {step} ...", flush=True)


class Demo:
    def __init__(self, port: int, directory: Path) -> None:
        if not is_free(port):
            raise DemoError(f"Port {port} is in use. Use another port: make demo PORT={port + 80}")
        self.port = port
        self.directory = directory
        self.url = f"http://localhost:{port}"
        self.sandbox_port = port + 1000 if port + 1000 < 65536 and is_free(port + 1000) else free_port()
        self.sandbox_url = f"http://localhost:{self.sandbox_port}"
        self._running: list[Process] = []

    def run(self) -> None:
        """Start everything, print the welcome text, and monitor the processes. On an interruption, stop everything."""
        print("Starting the portal ...", flush=True)
        valkey = Valkey(self.directory / "valkey")
        try:
            self._start(environment(self.directory, self.url, self.sandbox_url, valkey.url()))
            print(self.welcome(), flush=True)
            while True:
                self._check([*self._running, valkey.process])
                time.sleep(0.5)
        finally:
            stop_all(self._running, seconds=4)
            valkey.stop()

    def welcome(self) -> str:
        """Return the text with the demo's addresses and the people who can sign in."""
        people = "\n".join(
            f"    {username:<7} {who['password']:<20} {who['name']}, {ROLES[who['group']]}"
            for username, who in CAST.items()
        )
        return f"""
  The portal            {self.url}
  The sandbox           {self.sandbox_url}  (simulates Microsoft)
  Control panel         {self.sandbox_url}/_control/

  Sign in to the portal with
{people}
    or with Microsoft, as a person of the sandbox

  People of the sandbox (their passwords are shown on its sign-in page)
    ada@contoso.example     a member of the shared mailbox support@contoso.example
    admin@contoso.example   administrator of the directory, can grant consent

  Logs are in {self.directory.name}/logs/. Ctrl-C stops everything.
"""

    def _start(self, settings: dict[str, str]) -> None:
        sandbox = ["portal.sandbox", "--port", str(self.sandbox_port), "--state", str(self.directory / "sandbox.json")]
        sandbox += ["--public-url", self.sandbox_url, "--portal-url", self.url]
        say("Starting the sandbox that simulates Microsoft")
        stand_in = self._launch("sandbox", sandbox, settings)
        say("Preparing the database and the static files")
        preparing = [
            self._launch("migrate", ["django", "migrate", "--verbosity", "1"], settings),
            self._launch("collectstatic", ["django", "collectstatic", "--noinput", "--verbosity", "0"], settings),
        ]
        for step in preparing:
            self._finish(step)
        self._wait(stand_in, lambda: b"Sandbox ready" in stand_in.log.read_bytes())
        say("Adding a small organisation")
        organisation = self.directory / "organisation.json"
        write_private(organisation, json.dumps(ORGANISATION))
        self._finish(self._launch("seed", ["portal.demo_seed", str(organisation), self.sandbox_url], settings))
        say("Starting web, worker and beat")
        web = self._launch("web", ["portal.server"], settings)
        celery = ["celery", "-A", "portal"]
        solitary = ["--without-mingle", "--without-gossip"]
        worker = self._launch("worker", [*celery, "worker", "-P", "threads", "-c", "4", *solitary], settings)
        self._launch("beat", [*celery, "beat"], settings)
        self._wait(web, lambda: answers(f"{self.url}/healthz"))
        self._wait(worker, lambda: b" ready." in worker.log.read_bytes())

    def _launch(self, name: str, arguments: list[str], settings: dict[str, str]) -> Process:
        log = self.directory / "logs" / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        process = Process(
            name,
            [sys.executable, "-m", *arguments],
            log=log,
            environment={**settings, "BIND": f"127.0.0.1:{self.port}"},
            directory=ROOT,
        )
        self._running.append(process)
        return process

    def _finish(self, step: Process) -> None:
        self._wait(step, step.has_ended)
        code = step.popen.returncode
        self._running.remove(step)
        step.stop()
        if code:
            raise DemoError(f"{step.name} failed:\n{step.last_lines()}")

    def _wait(self, process: Process, ready: Callable[[], bool]) -> None:
        """Wait until the process is ready, or makes no progress. Raises DemoError with the cause and what to do."""
        try:
            process.wait_while_working(ready, idle_seconds=IDLE)
        except ProcessError as problem:
            raise DemoError(
                f"The demo can't start: {problem}\n"
                f"What to do: see {self.directory.name}/logs/{process.log.name}, then run make demo again. To start afresh, "
                f"remove {self.directory.name}/."
            ) from problem

    def _check(self, processes: list[Process]) -> None:
        for process in processes:
            if process.has_ended():
                raise DemoError(
                    f"The demo stopped, because {process.name} exited with code {process.popen.returncode}. "
                    f"Last output:\n{process.last_lines()}"
                )


def environment(directory: Path, url: str, sandbox_url: str, redis_url: str) -> dict[str, str]:
    """Return the environment variables for the demo's processes."""
    return {
        **os.environ,
        **keys(directory),
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "DEBUG": "off",
        "DATABASE_URL": f"sqlite:///{directory / 'portal.sqlite3'}",
        "REDIS_URL": redis_url,
        "PORTAL_URL": url,
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "MICROSOFT_SANDBOX_URL": sandbox_url,
        "SWEEP_INTERVAL": "5",
        "PROBE_INTERVAL": "30",
        "LOGIN_MICROSOFT_ENVIRONMENT": "sandbox",
        "LOGIN_MICROSOFT_TENANT": seed.CONTOSO,
        "LOGIN_MICROSOFT_CLIENT_ID": seed.SIGN_IN_APP,
        "LOGIN_MICROSOFT_CLIENT_SECRET": seed.SIGN_IN_SECRET,
        "EMAIL_URL": "consolemail://",
        "PYTHONUNBUFFERED": "1",
    }


def keys(directory: Path) -> dict[str, str]:
    """Return the demo's own keys, created at the first start. Without them, its database can't be decrypted."""
    path = directory / "keys.json"
    if not path.exists():
        keys = {"SECRET_KEY": secrets.token_urlsafe(48), "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode()}
        write_private(path, json.dumps(keys))
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)


def is_free(port: int) -> bool:
    """Whether this port of 127.0.0.1 is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(url: str) -> bool:
    """Whether ``url`` returns a successful response."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
