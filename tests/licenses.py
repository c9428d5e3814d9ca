"""``python -m tests.licenses``: the licence of every package that the portal needs, also for traces.

Exit code 1 if one declares none, or one that obliges whoever passes the portal on to more than naming it.
"""

import re
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from tests.environment import ROOT

# The GPL and the AGPL reach into the program that uses a package; the LGPL and the MPL do not.
_NOT_WANTED = re.compile(r"(?<![L])(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
_CLASSIFIER = "License :: "


def packages() -> list[str]:
    """Return the names of the packages that this Python version and platform need."""
    files = ("requirements.txt", "requirements-tracing.txt")
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    requirements = [Requirement(line.rstrip(" \\")) for line in lines if "==" in line]
    return [one.name for one in requirements if one.marker is None or one.marker.evaluate()]


def license_of(package: str) -> str:
    """Return the licence; empty if the package declares none."""
    declared: Any = metadata.metadata(package)
    classifiers = [text.rpartition(" :: ")[2] for text in declared.get_all("Classifier", []) if _CLASSIFIER in text]
    text = declared.get("License-Expression") or ", ".join(classifiers) or declared.get("License") or ""
    return str(text).strip().partition("\n")[0]


def is_acceptable(text: str) -> bool:
    return bool(text) and not _NOT_WANTED.search(text)


def main() -> int:
    licenses = {package: license_of(package) for package in packages()}
    for package, text in licenses.items():
        mark = "" if is_acceptable(text) else "  <- look at this one"
        sys.stdout.write(f"{package:32} {metadata.version(package):16} {text or 'none declared'}{mark}\n")
    return 0 if all(map(is_acceptable, licenses.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
