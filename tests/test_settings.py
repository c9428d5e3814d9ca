"""Settings come from the environment, are validated at start, and are all documented."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from axes.helpers import get_client_ip_address
from cryptography.fernet import Fernet
from django.test import RequestFactory

from tests.environment import ROOT

GOOD = {
    "SECRET_KEY": "a-long-random-secret-key-for-nobody-but-this-test-0123456789",
    "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    "DATABASE_URL": "postgres://portal:p%40ss@db.example.org:5433/portal",
    "REDIS_URL": "rediss://:pw@redis.example.org:6380/2",
    "PORTAL_URL": "https://portal.example.org/",
}
_SHOW = """
import json, sys
from portal import settings
print(json.dumps({name: getattr(settings, name) for name in sys.argv[1:]}, default=str))
"""


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def settings_with(names: list[str], **environment: str) -> dict[str, object]:
    done = run("-c", _SHOW, *names, **environment)
    assert done.returncode == 0, done.stderr
    values: dict[str, object] = json.loads(done.stdout)
    return values


@pytest.mark.parametrize(
    "missing", [["SECRET_KEY"], ["FIELD_ENCRYPTION_KEYS"], ["SECRET_KEY", "FIELD_ENCRYPTION_KEYS"]]
)
def test_it_refuses_to_start_without_a_secret_and_says_which(missing: list[str]) -> None:
    done = run("-c", "from portal import settings", **{name: GOOD[name] for name in GOOD if name not in missing})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: The portal does not start without")
    for name in ("SECRET_KEY", "FIELD_ENCRYPTION_KEYS"):
        assert (f" {name}" in last) == (name in missing)


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")  # as echo writes it, with a line break
    environment = {name: value for name, value in GOOD.items() if name != "SECRET_KEY"}
    values = settings_with(["SECRET_KEY"], **environment, SECRET_KEY_FILE=str(tmp_path / "key"))
    assert values["SECRET_KEY"] == "from-a-file"


def test_https_enables_its_protections() -> None:
    names = [
        "PORTAL_URL",
        "ALLOWED_HOSTS",
        "SESSION_COOKIE_SECURE",
        "SECURE_SSL_REDIRECT",
        "SECURE_HSTS_SECONDS",
        "DEBUG",
    ]
    assert settings_with(names, **GOOD) == {
        "PORTAL_URL": "https://portal.example.org",
        "ALLOWED_HOSTS": ["portal.example.org"],
        "SESSION_COOKIE_SECURE": True,
        "SECURE_SSL_REDIRECT": True,
        "SECURE_HSTS_SECONDS": 31536000,
        "DEBUG": False,
    }


def test_the_key_list_may_contain_spaces() -> None:
    keys = [Fernet.generate_key().decode(), Fernet.generate_key().decode()]
    values = settings_with(["FIELD_ENCRYPTION_KEY"], **{**GOOD, "FIELD_ENCRYPTION_KEYS": f" {keys[0]} , {keys[1]},"})
    assert values["FIELD_ENCRYPTION_KEY"] == keys


@pytest.mark.parametrize(
    ("redis_url", "broker_url"),
    [
        ("unix:///run/valkey.sock?db=3", "redis+socket:///run/valkey.sock?virtual_host=3"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("rediss://:pw@redis.example.org:6380/2", "rediss://:pw@redis.example.org:6380/2"),
    ],
)
def test_the_broker_is_reached_by_socket_or_network(redis_url: str, broker_url: str) -> None:
    values = settings_with(["CELERY_BROKER_URL"], **{**GOOD, "REDIS_URL": redis_url})
    assert values["CELERY_BROKER_URL"] == broker_url


def test_the_database_password_may_hold_any_character() -> None:
    database = settings_with(["DATABASES"], **GOOD)["DATABASES"]
    assert isinstance(database, dict)
    assert database["default"]["PASSWORD"] == "p@ss"
    assert database["default"]["PORT"] == 5433


def test_the_deployment_check_passes_on_a_production_environment() -> None:
    done = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **GOOD)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("FIELD_ENCRYPTION_KEYS", "not-a-fernet-key", "FIELD_ENCRYPTION_KEY"),
        ("PORTAL_URL", "http://portal.example.org", "connections.W001"),
        ("LOGIN_MICROSOFT_CLIENT_ID", "11111111-2222-3333-4444-555555555555", "connections.E002"),
        ("MICROSOFT_SANDBOX_URL", "http://sandbox.example.org", "MICROSOFT_SANDBOX_URL must be https"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_name(name: str, value: str, code: str) -> None:
    done = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **{**GOOD, name: value})
    assert done.returncode != 0
    assert code in done.stderr


def test_failed_sign_ins_are_counted_per_address_behind_the_proxy(rf: RequestFactory, settings: Any) -> None:
    """Otherwise everybody behind the proxy would share one address and one lockout."""
    settings.TRUSTED_PROXIES = 1
    request = rf.post("/sign-in/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="6.6.6.6, 203.0.113.9")
    assert get_client_ip_address(request) == "203.0.113.9"
    settings.TRUSTED_PROXIES = 0
    assert get_client_ip_address(request) == "10.0.0.1"


def names_read() -> set[str]:
    """Return every environment variable that the portal reads."""
    names = set(re.findall(r"env(?:\.\w+)?\(\s*\"([A-Z_]+)\"", (ROOT / "portal/settings.py").read_text()))
    web = (ROOT / "portal/server.py").read_text() + (ROOT / "portal/asgi.py").read_text()
    return names | set(re.findall(r"environ\.get\(\"([A-Z_]+)\"", web))


def test_the_example_names_every_setting_and_no_other() -> None:
    documented = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert len(names_read()) > 25
    assert documented == names_read()


def test_the_readme_names_every_setting() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Settings") :]
    missing = {name for name in names_read() if name not in table and name.removeprefix("LOGIN_MICROSOFT") not in table}
    assert missing == set()
