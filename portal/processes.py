"""Child processes of the demo, the tests and the benchmarks. Each writes to a log file.

A child must not outlive its parent, even if the parent is killed. On Linux, the kernel ensures this (prctl
PR_SET_PDEATHSIG). On other systems, an exit handler stops the child.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# This runs in the child before the real program. It changes the user if requested, ties the child to its parent, and
# then executes the program. It is a wrapper because preexec_fn may deadlock in a parent with threads. The order is
# important: the kernel clears the death signal when the user changes.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, death, user = (int(value) for value in sys.argv[1:4])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death)
    if os.getppid() != parent:
        sys.exit("the parent has gone")
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execvp(sys.argv[4], sys.argv[4:])
"""


class ProcessError(RuntimeError):
    """A child did not start, or ended too early. The message contains the end of its log."""


class Process:
    """A child process in its own session. Ctrl-C therefore only reaches the parent, which stops the child cleanly.

    ``user`` is the uid (and gid) to run as, or 0 to keep the current one; only root can change it. The kernel sends
    ``death_signal`` when the parent dies; ``stop()`` sends ``stop_signal``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: int = 0,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(death_signal)), str(user)]
        with log.open("ab") as output:
            self.popen = subprocess.Popen(  # noqa: S603
                [*launch, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self.popen.pid
        atexit.register(self.stop)

    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until ``ready()`` is true. Raises ProcessError if the process ends first or the wait times out."""
        until = time.monotonic() + seconds
        while not ready():
            if self.has_ended():
                raise ProcessError(f"{self.name} exited with code {self.popen.returncode}.\n{self.last_lines()}")
            if time.monotonic() > until:
                raise ProcessError(f"{self.name} was not ready after {seconds:g} seconds.\n{self.last_lines()}")
            time.sleep(0.02)

    def wait_while_working(self, ready: Callable[[], bool], *, idle_seconds: float) -> None:
        """Wait until ``ready()`` is true. On a slow machine, this may take any time while the process is working.

        Raises ProcessError if the process ends first, or if it uses no processor time and writes nothing for
        ``idle_seconds``.
        """
        work, since = self._work(), time.monotonic()
        while not ready():
            if self.has_ended():
                raise ProcessError(f"{self.name} exited with code {self.popen.returncode}.\n{self.last_lines()}")
            if (now := self._work()) != work:
                work, since = now, time.monotonic()
            elif time.monotonic() - since > idle_seconds:
                text = f"{self.name} isn't ready, and has done nothing for {idle_seconds:g} seconds."
                raise ProcessError(f"{text}\n{self.last_lines()}")
            time.sleep(0.05)

    def _work(self) -> tuple[int, str]:
        """Return the size of the log and, on Linux, the processor time (proc_pid_stat(5), fields 14 and 15)."""
        try:
            times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            times = []
        return self.log.stat().st_size, " ".join(times)

    def wait_for_line(self, text: str, *, seconds: float) -> None:
        self.wait_until(lambda: text.encode() in self.log.read_bytes(), seconds=seconds)

    def last_lines(self, count: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def ask_to_stop(self) -> None:
        """Send the stop signal and return immediately."""
        if not self.has_ended():
            self.popen.send_signal(self._stop_signal)

    def stop(self, *, seconds: float = 5.0) -> None:
        """Stop the process. After ``seconds``, kill it and all its children. It can be called twice."""
        atexit.unregister(self.stop)
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()


def stop_all(processes: Sequence[Process], *, seconds: float = 5.0) -> None:
    """Signal all processes, then wait for each of them. This takes about ``seconds`` at most."""
    until = time.monotonic() + seconds
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.stop(seconds=max(0.1, until - time.monotonic()))
