"""The version is set in one place, and the changelog describes it."""

import re
import tomllib

from tests.environment import ROOT


def test_the_changelog_begins_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == version
    assert headings == sorted(headings, key=lambda text: [int(part) for part in text.split(".")], reverse=True)
