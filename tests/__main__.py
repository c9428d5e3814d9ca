# ruff: noqa: T201 - it prints, that is its purpose
"""``python -m tests``: the whole suite on SQLite and on PostgreSQL, at the same time.

``--fast`` runs only the quick tests, on SQLite; ``--coverage`` measures branches and prints what was not reached. All
other arguments go to the pytest processes. Tests that hardly depend on the database run on only one of them (see
_ONLY_ON), so that both suites take about as long. The exit code is 0 only if everything passed.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from tests.environment import ROOT

_SUITES = {"SQLite": "sqlite", "PostgreSQL": "postgres"}
# These hardly depend on the database. Browser tests, page permissions and tests with few queries run on SQLite;
# malformed requests run on the stricter PostgreSQL, and so do a thousand concurrent callers, as in production.
_ONLY_ON = {
    "sqlite": (
        "tests/browser",
        "tests/clients",
        "tests/microsoft",
        "tests/sandbox",
        "tests/test_permissions.py",
        "tests/test_running.py",
        "tests/test_secret_columns.py",
        "tests/test_settings.py",
    ),
    "postgres": (
        "tests/api/test_schemathesis.py",
        "tests/api/test_schemathesis_running.py",
        "tests/faults/test_token_calls.py",
        "tests/test_bad_requests.py",
        "tests/test_csp.py",
    ),
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

    def __init__(self, label: str, database: str, arguments: list[str], *, coverage: bool = False) -> None:
        # Two processes share the terminal, so pytest must not draw on it.
        command = [sys.executable, *(_COVERAGE if coverage else ()), "-m", "pytest", "--color=no", *arguments]
        command += [f"--ignore={path}" for other in _ONLY_ON if other != database for path in _ONLY_ON[other]]
        settings = {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE": database, "PYTHONUNBUFFERED": "1"}
        self.start(label, command, {**os.environ, **settings})

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
    """Run both suites, or only the quick tests."""
    began = time.monotonic()
    fast, coverage = "--fast" in arguments, "--coverage" in arguments
    arguments = [argument for argument in arguments if argument not in ("--fast", "--coverage")]
    if fast:
        suites = [Suite("SQLite", "sqlite", ["-n", "2", "-m", "not slow", *_FAST, *arguments])]
    else:
        suites = [Suite(label, name, arguments, coverage=coverage) for label, name in _SUITES.items()]

    def stop(number: int, frame: object) -> None:
        for suite in suites:
            suite.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    codes = [suite.finish() for suite in suites]
    for suite, code in zip(suites, codes, strict=True):
        print(f"\n{suite.label}: {'passed' if code == 0 else f'FAILED (exit code {code})'}")
        print("\n".join(suite.closing_lines()))
    print(f"\n{' and '.join(suite.label for suite in suites)} in {time.monotonic() - began:.0f} seconds.", flush=True)
    if coverage:
        print(_coverage_report(), flush=True)
    # The counts come last, where people and tools look for them.
    print("\n".join(suite.closing_lines()[-1] for suite in suites), flush=True)
    return max(codes)


def _coverage_report() -> str:
    """Print the branch coverage of both suites together: the least covered modules, and the total as the last line."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=True)
    report = [*coverage, "report", "--sort=cover", "--skip-covered"]
    lines = subprocess.run(report, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return "\n".join(["Least covered:", *lines[:25], "...", lines[-3] if "TOTAL" in lines[-3] else lines[-1]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
