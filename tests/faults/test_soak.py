"""A few rounds of ``make soak``: the same code, with a fixed seed."""

import subprocess
import sys

import pytest

from tests.environment import ROOT
from tests.faults.soak.observe import undocumented

ROUNDS, SEED = "4", "24"


@pytest.mark.slow
def test_a_few_bad_days_break_nothing() -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--rounds", ROUNDS, "--seed", SEED]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Nothing was lost." in process.stdout


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b'{"access_token": "x", "expires_at": "2030-01-01"}'),
        (503, {"Retry-After": "5"}, b'{"code": "database_unavailable"}'),
    ],
)
def test_documented_answers(status: int, headers: dict[str, str], body: bytes) -> None:
    assert undocumented(status, headers, body) == ""


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, {}, b"<h1>Server error</h1>"),
        (200, {}, b'{"expires_at": "2030-01-01"}'),
        (503, {}, b'{"code": "database_unavailable"}'),
        (409, {"Retry-After": "5"}, b'{"code": "reconnect_needed"}'),
    ],
)
def test_undocumented_answers(status: int, headers: dict[str, str], body: bytes) -> None:
    assert undocumented(status, headers, body)
