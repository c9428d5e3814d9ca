import re

import pytest

from tests import suites
from tests.environment import ROOT

FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
DATABASES = {"sqlite": {suites.SQLITE}, "postgres": {suites.POSTGRES, suites.PROCESSES}}


@pytest.mark.parametrize("path", FILES)
def test_every_test_runs_in_a_suite_with_its_database(path: str) -> None:
    running = {suite for suite in (suites.SQLITE, suites.POSTGRES, suites.PROCESSES) if suites.has(suite, path)}
    assert running
    for database in re.findall(r'only_on\("(\w+)"\)', (ROOT / path).read_text()):
        assert running & DATABASES[database], f"a test that needs {database} runs nowhere"


def test_both_databases_get_everything_that_is_no_matter_of_files_or_processes() -> None:
    for path in ("tests/views/test_search.py", "tests/api/test_tokens.py", "tests/services/audit/test_sealing.py"):
        assert all(suites.has(suite, path, both=True) for suite in (suites.SQLITE, suites.POSTGRES))


def test_each_listed_place_exists() -> None:
    places = (*suites.POSTGRES_FIRST, *suites.ON_BOTH, *suites.WITHOUT_DATABASE, *suites.WITH_PROCESSES)
    assert [place for place in places if not (ROOT / place).exists()] == []
