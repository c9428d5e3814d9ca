# ruff: noqa: T201 - it prints, that is its purpose
"""``python -m tests``: all tests, in three suites at the same time (tests/suites.py says which test is in which).

``--fast`` runs only the quick tests, on SQLite; ``--both`` runs every test that uses a database on both of them.
``--coverage`` measures branches in the suites of the two databases and prints what was not reached. All other arguments
go to the pytest processes. The exit code is 0 only if everything passed.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from tests import suites
from tests.environment import ROOT

# Label and database of each suite.
_SUITES = {
    suites.SQLITE: ("SQLite", "sqlite"),
    suites.POSTGRES: ("PostgreSQL", "postgres"),
    suites.PROCESSES: ("Processes", "postgres"),
}
# The tests to run after each change: rules, services and protocol, without pages, processes and browsers.
_FAST = (
    "tests/microsoft",
    "tests/services",
    "tests/test_fields.py",
    "tests/test_presentation.py",
    "tests/test_version.py",
)
_COVERAGE = (
    "-m",
    "coverage",
    "run",
    "--branch",
    "--parallel-mode",
    "--source=connections,portal",
    "--omit=*/migrations/*,portal/sandbox/*",
)
# pytest's code for "no tests matched", which is fine if only a few tests were selected.
_NOTHING_COLLECTED = 5


class Suite:
    """One pytest process; its output is prefixed with the name of its database."""

    def __init__(
        self, name: str, arguments: list[str], *, everything: bool = False, both: bool = False, coverage: bool = False
    ) -> None:
        label, database = _SUITES[name]
        # Several processes share the terminal, so pytest must not draw on it.
        command = [sys.executable, *(_COVERAGE if coverage else ()), "-m", "pytest", "--color=no", *arguments]
        settings = {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE": database}
        settings |= {"TEST_SUITE": "" if everything else name, "TEST_BOTH": "1" if both else ""}
        self.start(label, command, {**os.environ, **settings, "PYTHONUNBUFFERED": "1"})

    def start(self, label: str, command: list[str], environment: dict[str, str]) -> None:
        """Start the process, and a thread that prints its output."""
        self.label = label
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line.rstrip("\n"))
            print(f"{self.label:<10} | {self._lines[-1]}", flush=True)

    def stop(self) -> None:
        """Interrupt pytest, which then stops its own children."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def finish(self) -> int:
        code = self.process.wait()
        self._reader.join(10)
        return 0 if code == _NOTHING_COLLECTED else code

    def closing_lines(self) -> list[str]:
        """Return pytest's short summary, which ends with the line of counts."""
        starts = [number for number, line in enumerate(self._lines) if "short test summary info" in line]
        return self._lines[starts[-1] :] if starts else self._lines[-1:]


def main(arguments: list[str]) -> int:
    """Run the three suites, or only the quick tests."""
    began = time.monotonic()
    fast, both, coverage = (option in arguments for option in ("--fast", "--both", "--coverage"))
    arguments = [argument for argument in arguments if argument not in ("--fast", "--both", "--coverage")]
    if fast:
        started = [Suite(suites.SQLITE, ["-n", "2", "-m", "not slow", *_FAST, *arguments], everything=True)]
    else:
        measured = set(_SUITES) - {suites.PROCESSES} if coverage else set()
        started = [Suite(name, arguments, both=both, coverage=name in measured) for name in _SUITES]

    def stop(number: int, frame: object) -> None:
        for suite in started:
            suite.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    codes = [suite.finish() for suite in started]
    for suite, code in zip(started, codes, strict=True):
        print(f"\n{suite.label}: {'passed' if code == 0 else f'FAILED (exit code {code})'}")
        print("\n".join(suite.closing_lines()))
    print(f"\n{', '.join(suite.label for suite in started)} in {time.monotonic() - began:.0f} seconds.", flush=True)
    if coverage:
        print(_coverage_report(), flush=True)
    # The counts come last, where people and tools look for them.
    print("\n".join(suite.closing_lines()[-1] for suite in started), flush=True)
    return max(codes)


def _coverage_report() -> str:
    """Print the branch coverage: the least covered modules, and the total as the last line."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=True)
    report = [*coverage, "report", "--sort=cover", "--skip-covered"]
    lines = subprocess.run(report, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return "\n".join(["Least covered:", *lines[:25], "...", lines[-3] if "TOTAL" in lines[-3] else lines[-1]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
