"""Settings come from the environment, are validated at start, and are all documented."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import RequestFactory

from connections.client_address import client_address
from portal import service_urls, settings_document, settings_model
from portal.settings_model import PortalSettings
from tests.environment import ROOT

GOOD = {
    "SECRET_KEY": "a-long-random-secret-key-for-nobody-but-this-test-0123456789",
    "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    "DATABASE_URL": "postgres://portal:p%40ss@db.example.org:5433/portal",
    "REDIS_URL": "rediss://:pw@redis.example.org:6380/2",
    "PORTAL_URL": "https://portal.example.org/",
    "TRUSTED_PROXIES": "1",
    "EMAIL_URL": "smtp+tls://portal:secret@mail.example.org",
    "AUDIT_SEAL_KEYS": "a-long-random-seal-key-for-nobody-but-this-test-0123456789",
    "AUDIT_SEAL_WEBHOOK": "https://seals.example.org/",
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
    process = run("-c", _SHOW, *names, **environment)
    assert process.returncode == 0, process.stderr
    values: dict[str, object] = json.loads(process.stdout)
    return values


@pytest.mark.parametrize(
    "missing", [["SECRET_KEY"], ["FIELD_ENCRYPTION_KEYS"], ["SECRET_KEY", "FIELD_ENCRYPTION_KEYS"]]
)
def test_it_refuses_to_start_without_a_secret_and_says_which(missing: list[str]) -> None:
    process = run("-c", "from portal import settings", **{name: GOOD[name] for name in GOOD if name not in missing})
    assert process.returncode != 0
    assert "django.core.exceptions.ImproperlyConfigured: The portal can't start" in process.stderr
    assert [name for name, _ in problems_of(process)] == missing
    for _, problem in problems_of(process):
        assert problem.startswith("is missing. It must be ")
        assert ", for example " in problem


def problems_of(process: "subprocess.CompletedProcess[str]") -> list[tuple[str, str]]:
    """Return what the process said about its settings when it refused to start: names and sentences."""
    return re.findall(r"^  - (\w+) (.+)$", process.stderr, re.MULTILINE)


WRONG = {
    "SWEEP_INTERVAL": ("abc", 'is "abc". It must be a number of seconds above 0, for example 15'),
    "PROBE_INTERVAL": ("0", 'is "0". It must be a number of seconds above 0, for example 15'),
    "ALERT_INTERVAL": ("-5", 'is "-5". It must be a number of seconds above 0, for example 15'),
    "AUDIT_INTERVAL": ("nan", 'is "nan". It must be a number of seconds above 0, for example 15'),
    "SWEEP_BATCH": ("0", 'is "0". It must be a whole number of 1 or more, for example 50'),
    "TRUSTED_PROXIES": ("one", 'is "one". It must be a whole number of 0 or more, for example 0'),
    "DEBUG": ("maybe", 'is "maybe". It must be on or off, for example on'),
    "LOG_LEVEL": ("LOUD", 'is "LOUD". It must be DEBUG, INFO, WARNING or ERROR, for example INFO'),
    "PORTAL_URL": ("https://example.org/portal", "has a path, but the portal must be at the root of its host."),
    "DATABASE_URL": ("mysql://root:hunter2@db/portal", "isn't for PostgreSQL or SQLite."),
    "REDIS_URL": ("http://:hunter2@redis", "doesn't start with redis://, rediss:// or unix://."),
    "EMAIL_URL": ("pop3://me:hunter2@mail.example.org", "doesn't start with smtp://, "),
    "AUDIT_SEAL_WEBHOOK": ("ftp://me:hunter2@siem.example.org/", "doesn't start with https:// or http://."),
    "AUDIT_STREAM_URL": ("syslog+tls://me:hunter2@siem.example.org", "must contain only a scheme, a host and a port."),
    "AUDIT_STREAM_SECRET": ("hunter2", "isn't valid: what follows whsec_ isn't base64."),
    "FIELD_ENCRYPTION_KEYS": ("hunter2", "isn't valid: key 1 isn't a Fernet key."),
    "METRICS_TOKEN_FILE": ("/nowhere/token", "can't be read from /nowhere/token (set by METRICS_TOKEN_FILE): No "),
}


def test_all_wrong_settings_are_told_at_once_with_kind_and_example() -> None:
    process = run(
        "-c", "from portal import settings", **{**GOOD, **{name: value for name, (value, _) in WRONG.items()}}
    )
    assert process.returncode != 0
    problems = dict(problems_of(process))
    assert problems.keys() == {name.removesuffix("_FILE") for name in WRONG}
    for name, (_, problem) in WRONG.items():
        assert problems[name.removesuffix("_FILE")].startswith(problem)
        assert re.search(r"It must be .+, for example .+", problems[name.removesuffix("_FILE")])
    assert "hunter2" not in process.stderr
    assert GOOD["SECRET_KEY"] not in process.stderr


@pytest.mark.parametrize("value", ["$EMAIL_FROM", "${SECRET_KEY}", "$", "$$x", "pa$$word"])
def test_a_dollar_is_part_of_the_value(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{value}\n")
    monkeypatch.setattr(os, "environ", {**GOOD, "METRICS_TOKEN": value})
    assert value == settings_model.load().METRICS_TOKEN
    monkeypatch.setattr(os, "environ", {**GOOD, "METRICS_TOKEN_FILE": str(tmp_path / "token")})
    assert value == settings_model.load().METRICS_TOKEN


def test_a_dotenv_file_adds_what_the_environment_does_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("METRICS_TOKEN='${SECRET_KEY} $x'\nLOG_LEVEL=DEBUG\nEMAIL_FROM_FILE=sender\n")
    (tmp_path / "sender").write_text("portal@example.org\n")
    show = f"""
import os, pathlib
os.chdir({str(tmp_path)!r})
from portal import settings_model
settings_model.BASE_DIR = pathlib.Path()
values = settings_model.load()
print(values.METRICS_TOKEN, values.LOG_LEVEL, values.EMAIL_FROM)
"""
    process = run("-c", show, **GOOD, LOG_LEVEL="ERROR", PYTHONPATH=str(ROOT))
    assert process.stdout.strip() == "${SECRET_KEY} $x ERROR portal@example.org", process.stderr


def test_an_empty_value_counts_as_none_but_an_empty_list_as_empty() -> None:
    values = settings_with(
        ["SWEEP_INTERVAL", "LOGIN_MICROSOFT", "ALLOWED_HOSTS"],
        **{**GOOD, "SWEEP_INTERVAL": "", "LOGIN_MICROSOFT_ADMINS": "", "ALLOWED_HOSTS": ""},
    )
    assert values["SWEEP_INTERVAL"] == 15
    assert values["LOGIN_MICROSOFT"]["admins"] == []  # type: ignore[index]
    assert values["ALLOWED_HOSTS"] == ["portal.example.org"]


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


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://portal@//run/postgresql/portal", {"HOST": "/run/postgresql", "NAME": "portal", "USER": "portal"}),
        ("postgresql://portal@%2Frun%2Fpostgresql/portal", {"HOST": "/run/postgresql", "NAME": "portal"}),
        ("postgres://u:a$b%23@db1:5432,db2:5433/portal?sslmode=verify-full",
         {"HOST": "db1,db2", "PORT": "5432,5433", "PASSWORD": "a$b#", "OPTIONS": {**service_urls._NOTICE_SILENCE, "sslmode": "verify-full"}}),
        ("sqlite:////var/lib/portal.sqlite3", {"NAME": "/var/lib/portal.sqlite3"}),
        ("sqlite:///portal.sqlite3", {"NAME": "portal.sqlite3"}),
        ("sqlite://:memory:", {"NAME": ":memory:"}),
    ],
)  # fmt: skip
def test_a_database_is_reached_by_every_usual_url(url: str, expected: dict[str, object]) -> None:
    config = service_urls.database(url)
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "ssl"),
    [
        ("smtp://mail.example.org", "mail.example.org", 25, False, False),
        ("smtp+tls://me:p%40ss@mail.example.org", "mail.example.org", 587, True, False),
        ("smtp+ssl://mail.example.org:10465", "mail.example.org", 10465, False, True),
    ],
)
def test_a_mail_server_is_reached_by_its_url(url: str, host: str, port: int, tls: bool, ssl: bool) -> None:
    config = service_urls.email(url)
    shown = (config["EMAIL_HOST"], config["EMAIL_PORT"], config["EMAIL_USE_TLS"], config["EMAIL_USE_SSL"])
    assert shown == (host, port, tls, ssl)
    assert config["EMAIL_HOST_PASSWORD"] == ("p@ss" if "p%40ss" in url else "")


def test_the_deployment_check_passes_on_a_production_environment() -> None:
    process = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **GOOD)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("FIELD_ENCRYPTION_KEYS", "not-a-fernet-key", "FIELD_ENCRYPTION_KEY"),
        ("PORTAL_URL", "http://portal.example.org", "connections.W001"),
        ("LOGIN_MICROSOFT_CLIENT_ID", "11111111-2222-3333-4444-555555555555", "connections.E002"),
        (
            "LOGIN_MICROSOFT_SECRET_EXPIRES",
            "31.12.2026",
            'LOGIN_MICROSOFT_SECRET_EXPIRES is "31.12.2026". It must be a day as an ISO date',
        ),
        ("MICROSOFT_SANDBOX_URL", "http://sandbox.example.org", "MICROSOFT_SANDBOX_URL must be https"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_name(name: str, value: str, code: str) -> None:
    process = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **{**GOOD, name: value})
    assert process.returncode != 0
    assert code in process.stderr


def test_the_deployment_check_finds_what_is_unsafe_or_misspelt() -> None:
    wrong = {
        "PORTAL_URI": "https://portal.example.org",
        "LOGIN_MICROSOFT_DIRECTORY": "contoso.com",
        "AUDIT_SEAL": "on",
        "sweep_interval": "5",
        "TRUSTED_PROXIES": "0",
        "EMAIL_URL": "consolemail://",
        "AUDIT_SEAL_FILE": "/nowhere/seals.jsonl",
        "MICROSOFT_CA_BUNDLE": "/nowhere/ca.pem",
        "REDIS_CA_BUNDLE": "/nowhere/redis.pem",
    }
    process = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **{**GOOD, **wrong})
    assert process.returncode != 0
    for told in (
        "PORTAL_URI isn't a setting of the portal.\n\tHINT: Did you mean PORTAL_URL?",
        "LOGIN_MICROSOFT_DIRECTORY isn't a setting of the portal.",
        "AUDIT_SEAL isn't a setting of the portal.",
        "sweep_interval isn't a setting of the portal.\n\tHINT: Did you mean SWEEP_INTERVAL?",
        "TRUSTED_PROXIES is 0",
        "EMAIL_URL contains no mail server",
        "AUDIT_SEAL_FILE is in /nowhere, which doesn't exist",
        "MICROSOFT_CA_BUNDLE is /nowhere/ca.pem, which cannot be read",
        "REDIS_CA_BUNDLE is /nowhere/redis.pem, which cannot be read",
    ):
        assert told in process.stderr


def test_failed_sign_ins_are_counted_per_address_behind_the_proxy(rf: RequestFactory, settings: Any) -> None:
    """If the proxy's address counted, one person's failures would lock out everybody."""
    settings.TRUSTED_PROXIES = 1
    request = rf.post("/sign-in/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="6.6.6.6, 203.0.113.9")
    assert client_address(request) == "203.0.113.9"
    settings.TRUSTED_PROXIES = 0
    assert client_address(request) == "10.0.0.1"


def test_with_https_the_cookies_belong_to_this_very_host() -> None:
    names = ["SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"]
    assert settings_with(names, **GOOD) == {
        "SESSION_COOKIE_NAME": "__Host-portal_session",
        "CSRF_COOKIE_NAME": "__Host-csrftoken",
        "SESSION_COOKIE_SECURE": True,
        "CSRF_COOKIE_SECURE": True,
    }
    plain = settings_with(names[:2], **{**GOOD, "PORTAL_URL": "http://localhost:8000"})
    assert plain == {"SESSION_COOKIE_NAME": "portal_session", "CSRF_COOKIE_NAME": "csrftoken"}


def test_variables_of_others_are_no_mistakes() -> None:
    names = ["PATH", "HOME", "PORTAL_SERVICE_HOST", "PORTAL_PORT_8000_TCP_ADDR", "REDIS_PORT", "PORTAL_API_KEY_FILE"]
    assert settings_model.unknown_names([*names, *PortalSettings.model_fields, "SECRET_KEY_FILE"]) == {}


def test_every_setting_is_explained_in_the_documents() -> None:
    for path, current in (
        (settings_document.PAGE, settings_document.render_page()),
        (settings_document.EXAMPLE, settings_document.render_example()),
    ):
        assert path.read_text("utf-8") == current, (
            f"run: python -m portal.settings_document ({path.name} is out of date)"
        )
        assert str(ROOT) not in current


def test_the_example_names_every_setting_and_no_other() -> None:
    documented = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert documented == list(PortalSettings.model_fields)
    assert {name for names in settings_model.SINCE.values() for name in names} <= set(documented)


def test_the_example_is_valid_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the marks of a comment away gets the default."""
    required = {name: GOOD[name] for name in ("SECRET_KEY", "FIELD_ENCRYPTION_KEYS")}
    monkeypatch.setattr(os, "environ", dict(required))
    before = settings_model.load()
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    monkeypatch.setattr(os, "environ", {**required, **dict(lines)})
    after = settings_model.load()
    different = {name for name in PortalSettings.model_fields if getattr(before, name) != getattr(after, name)}
    assert different == {"DATABASE_URL"}, "which is an absolute path by default"


def test_each_part_of_hsts_has_its_setting() -> None:
    names = ["SECURE_HSTS_SECONDS", "SECURE_HSTS_INCLUDE_SUBDOMAINS", "SECURE_HSTS_PRELOAD"]
    assert list(settings_with(names, **GOOD).values()) == [31536000, True, True]
    changed = {"SECURE_HSTS_INCLUDE_SUBDOMAINS": "off", "SECURE_HSTS_PRELOAD": "off"}
    assert list(settings_with(names, **{**GOOD, **changed}).values()) == [31536000, False, False]
    assert list(settings_with(names, **{**GOOD, "PORTAL_URL": "http://localhost"}).values()) == [0, False, False]
