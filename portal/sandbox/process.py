"""Runs a sandbox as a child process for tests and demos, and makes sure that it stops."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from portal.sandbox.client import Control

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 30.0
STOP_LIMIT = 4.0


class SandboxDidNotStart(Exception):
    """The process ended or timed out. The message contains its output."""


@dataclass
class SandboxProcess:
    url: str
    port: int
    control: Control
    child: "subprocess.Popen[str]"

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not end. It can be called twice."""
        if self.child.stdin is not None and not self.child.stdin.closed:
            with contextlib.suppress(OSError):
                self.child.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(STOP_LIMIT)
        # The worker of gunicorn is in the same process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(STOP_LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """Return a port of 127.0.0.1 that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    port: int | None = None,
    *,
    state: Path | None = None,
    tls: tuple[Path, Path] | None = None,
    public_url: str | None = None,
    portal_url: str = "http://localhost:8000",
) -> SandboxProcess:
    """Start a sandbox, and wait up to 30 seconds until it accepts connections. Raises SandboxDidNotStart.

    It stops when ``stop`` is called. It also stops if this process dies for any reason, because it watches a pipe whose
    other end is only open in this process.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "portal.sandbox", "--port", str(port), "--portal-url", portal_url]
    command += ["--stop-with-stdin"]
    if state is not None:
        command += ["--state", str(state)]
    if tls is not None:
        command += ["--tls", str(tls[0]), str(tls[1])]
    if public_url is not None:
        command += ["--public-url", public_url]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    url = public_url or f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    cafile = str(tls[0]) if tls is not None else None
    sandbox = SandboxProcess(url, port, Control(url, cafile=cafile), child)
    try:
        _wait_until_ready(child)
    except BaseException:
        sandbox.stop()
        raise
    return sandbox


def _drain(output: IO[str]) -> None:
    for line in output:
        sys.stderr.write(f"sandbox: {line}")


def _wait_until_ready(child: "subprocess.Popen[str]") -> None:
    assert child.stdout is not None
    deadline = time.monotonic() + START_LIMIT
    lines: list[str] = []
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            line = child.stdout.readline()
            if line.startswith("Sandbox ready"):
                # Keep reading, because a full pipe would block the sandbox.
                threading.Thread(target=_drain, args=(child.stdout,), daemon=True).start()
                return
            lines.append(line)
            if not line:
                break
    raise SandboxDidNotStart("The sandbox didn't start:\n" + "".join(lines))
