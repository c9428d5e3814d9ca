"""The tables in connections/microsoft/data: what is rejected, and that they are found from any directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from connections.microsoft import data_files, error_tables
from connections.microsoft.capabilities import Capability
from connections.microsoft.data_files import InvalidDataFile
from connections.microsoft.mailbox_errors import Entry

GROUP = """
[texts]
wait = "Wait."
[[group]]
kind = "reauth"
who = "owner"
cause = "It ended."
action = "Sign in again."
errors = ["invalid_grant"]
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_files, "DATA", tmp_path)
    return tmp_path


def test_it_shares_the_texts_and_the_fields_of_a_group(data: Path) -> None:
    (data / "errors.toml").write_text(
        GROUP.replace('"Sign in again."', '"First: $wait"').replace('errors = ["invalid_grant"]', "vague = true")
        + '[group.aadsts]\n50001 = "One."\n50002 = ["InvalidName", "Two."]\n'
    )
    tables = error_tables.load("errors.toml")["aadsts"]

    assert [(meaning.cause, meaning.name) for meaning in tables.values()] == [("One.", ""), ("Two.", "InvalidName")]
    assert {(meaning.action, meaning.vague) for meaning in tables.values()} == {("First: Wait.", True)}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"reauth"', '"reauht"', "group 1 (invalid_grant): kind: 'reauht' is not a valid Kind"),
        ('"owner"', '"sombody"', "group 1 (invalid_grant): who: 'sombody' is not a valid Who"),
        ("action =", "acton =", "group 1 (invalid_grant): acton is not a field of ErrorMeaning"),
        ('action = "Sign in again."\n', "", "group 1 (invalid_grant): action is missing"),
        ('"Sign in again."', '""', "group 1 (invalid_grant): action is missing"),
        ('"Sign in again."', '"$wiat"', "group 1 (invalid_grant): action: there is no text 'wiat'"),
        ('"Sign in again."', '"5 $"', "group 1 (invalid_grant): action: Invalid placeholder"),
        ('"Sign in again."', "7", "group 1 (invalid_grant): action: 7 has the wrong type"),
        ('cause = "It ended."\n', "", "group 1 (invalid_grant), errors invalid_grant: cause is missing"),
        ('cause = "It ended."\n', 'id = "ended"\n', "group 1 (invalid_grant): cause is missing"),
        (
            '["invalid_grant"]',
            '["invalid_grant", "Invalid_Grant"]',
            "group 1 (invalid_grant): errors Invalid_Grant is there twice",
        ),
        ('["invalid_grant"]', '["a"]\nstatuses = ["4o1"]', "group 1 (a): statuses 4o1 is not a number"),
        ("errors = [", "[group.errors]\na = '' #", "group 1 (a), errors a: cause is missing"),
        ("errors = [", "[group.errors]\na = 'A.'\na = 'B.' #", "Cannot overwrite a value"),
        ("[[group]]", "[[groups]]", "groups: is neither texts nor group"),
        ("errors = [", "certain = 'yes' #", "group 1 (None): certain: 'yes' has the wrong type"),
    ],
)
def test_it_refuses_a_wrong_group_and_names_file_and_entry(data: Path, old: str, new: str, problem: str) -> None:
    (data / "errors.toml").write_text(GROUP.replace(old, new))

    with pytest.raises(InvalidDataFile) as refusal:
        error_tables.load("errors.toml")
    assert str(refusal.value).startswith(f"errors.toml: {problem}")


def test_it_refuses_a_code_of_another_file_and_a_missing_file(data: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (data / name).write_text(GROUP)

    with pytest.raises(
        InvalidDataFile, match=r"^b\.toml: group 1 \(invalid_grant\): errors invalid_grant is there twice$"
    ):
        error_tables.load("a.toml", "b.toml")
    with pytest.raises(InvalidDataFile, match=r"^c\.toml: "):
        error_tables.load("c.toml")


def test_it_refuses_a_wrong_row_and_names_file_and_entry(data: Path) -> None:
    (data / "rows.toml").write_text(
        '[capabilities."mail.read"]\ngroup = "Outlook"\nlabel = "Read"\ndescription = "Read."\ndelegated = "Mail.Read"\n'
        '[missing_access.guest]\nwho = "owner"\ncause = "A guest."\n'
    )
    file = data_files.load("rows.toml")

    with pytest.raises(InvalidDataFile, match=r"^rows\.toml: capabilities\.mail\.read: delegated: .* wrong type$"):
        file.rows("capabilities", Capability, key_field="key")
    with pytest.raises(InvalidDataFile, match=r"^rows\.toml: missing_access\.guest: action is missing$"):
        file.rows("missing_access", Entry)


def test_the_files_are_found_from_another_directory(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from connections.microsoft import capabilities, classifier"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
