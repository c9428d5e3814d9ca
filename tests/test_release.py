"""What make release checks and builds, and that the Python client's wheel installs without a network."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from deploy import release
from tests.environment import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files in which versions are, in a directory of their own."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "clients" / "python", root / "clients" / "python", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, root)
    return root


def test_the_versions_fit_together() -> None:
    assert release.problems() == []


def test_versions_that_do_not_fit_are_told(copy: Path) -> None:
    (copy / "CHANGELOG.md").write_text("# Changelog\n\n## 9.9.9\n")
    init = copy / "clients/python/src/m365_portal/__init__.py"
    init.write_text(init.read_text().replace(f'"{release.client_version()}"', '"2.0.0"'))
    assert release.problems(copy) == [
        f"CHANGELOG.md begins with 9.9.9, but the version is {release.version()}",
        "the client is version 2.0.0, but it calls version 1 of the API",
    ]


def test_a_release_is_a_commit_with_the_tag_of_its_version(copy: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=copy, check=True, capture_output=True)

    tag = release.version()
    git("init")
    assert release.git_problems(copy) == ["there are uncommitted changes", f"the current commit has no tag {tag}"]
    git("add", "--all")
    git("commit", "--message", "Release")
    git("tag", "0.0.1")
    assert release.git_problems(copy) == [f"the current commit has no tag {tag}"]
    git("tag", tag)
    assert release.git_problems(copy) == []


@pytest.mark.slow
def test_the_client_installs_without_a_network_from_its_wheel_and_from_its_directory(
    copy: Path, tmp_path: Path
) -> None:
    wheel = release.build_client(tmp_path / "dist", copy)
    sums = release.write_checksums(tmp_path / "dist").read_text()
    assert wheel.name in sums
    for number, source in enumerate((wheel, copy / "clients" / "python")):
        home = tmp_path / f"venv{number}"
        # A directory is built with flit_core, which a network would provide; here it is that of the tests.
        venv.create(home, with_pip=True, system_site_packages=False)
        paths = os.pathsep.join(path for path in sys.path if path.endswith("site-packages")) if number else ""
        install: list[str | Path] = [
            home / "bin" / "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            source,
        ]
        subprocess.run(install, check=True, env={**os.environ, "PYTHONPATH": paths})
        process = subprocess.run([home / "bin" / "portalctl", "--help"], capture_output=True, text=True, check=False)
        shown = subprocess.run(
            [home / "bin" / "python", "-c", "import m365_portal; print(m365_portal.__version__)"],
            capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert shown.stdout.strip() == release.client_version()
        assert process.returncode == 0, process.stderr
        assert "usage: portalctl" in process.stdout
