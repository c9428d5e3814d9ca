"""``make release``: check that everything has one version, and make the files of a release in dist/.

The files are the wheel of the Python client, the list of packages (SBOM, CycloneDX) and their checksums.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version(root: Path = ROOT) -> str:
    """Return the portal's version, which pyproject.toml says."""
    return str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def client_version(root: Path = ROOT) -> str:
    text = (root / "clients/python/src/m365_portal/__init__.py").read_text("utf-8")
    (found,) = re.findall(r'^__version__ = "(\S+)"$', text, re.MULTILINE)
    return str(found)


def problems(root: Path = ROOT) -> list[str]:
    """Return what doesn't fit: version, changelog, the client's version and that of the API."""
    current, found = version(root), []
    headings = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if not headings or headings[0] != current:
        found.append(f"CHANGELOG.md begins with {headings[0] if headings else 'nothing'}, but the version is {current}")
    major = client_version(root).partition(".")[0]
    source = "".join(path.read_text("utf-8") for path in (root / "clients/python/src").rglob("*.py"))
    for used in sorted(set(re.findall(r"/api/v(\d+)", source)) - {major}):
        found.append(f"the client is version {client_version(root)}, but it calls version {used} of the API")
    return found


def git_problems(root: Path = ROOT) -> list[str]:
    """Return what doesn't fit in git: the tag must be the version, on the current commit, with nothing uncommitted."""
    current, found = version(root), []
    if _git(root, "status", "--porcelain"):
        found.append("there are uncommitted changes")
    if current not in _git(root, "tag", "--points-at", "HEAD").split():
        found.append(f"the current commit has no tag {current}")
    return found


def _git(root: Path, *arguments: str) -> str:
    # Without a commit there is no HEAD: an error, with nothing on standard output.
    return subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True, text=True).stdout.strip()


def build_client(target: Path, root: Path = ROOT) -> Path:
    """Build the client's wheel and return it. Needs flit_core, and no network."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(target), str(root / "clients/python")], check=True)
    (wheel,) = target.glob(f"*-{client_version(root)}-*.whl")
    return wheel


def write_sbom(target: Path, tool: str, root: Path = ROOT) -> Path:
    """Write the list of the portal's packages with their versions and hashes."""
    file = target / f"m365-connection-portal-{version(root)}.cdx.json"
    command = [tool, "requirements", "requirements.txt", "--pyproject", "pyproject.toml", "--output-reproducible"]
    subprocess.run([*command, "--output-file", str(file)], cwd=root, check=True)
    return file


def write_checksums(target: Path) -> Path:
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(target.iterdir())]
    (target / "SHA256SUMS").write_text("".join(sums))
    return target / "SHA256SUMS"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--sbom-tool", default="cyclonedx-py", help="the program of cyclonedx-bom")
    parser.add_argument("--untagged", action="store_true", help="try it: accept uncommitted changes and a missing tag")
    options = parser.parse_args()
    found = problems() + ([] if options.untagged else git_problems())
    if found:
        print("This is no release yet:", *(f"  - {problem}" for problem in found), sep="\n", file=sys.stderr)
        return 1
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    build_client(target)
    write_sbom(target, options.sbom_tool)
    write_checksums(target)
    print(*(f"dist/{file.name}" for file in sorted(target.iterdir())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
