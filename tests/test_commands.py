"""Commands use the same forms and services as the pages, and take no secret on the command line."""

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from connections.models import AppCredential, AppRegistration, AuditEvent, Tenant, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

YEAR = ("--expires", "2099-01-01")


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(f"{seed.CONNECTIONS_SECRET}\r\n")
    return str(path)


def test_a_tenant_and_an_application_are_registered(alice: User, sandbox: Control, secret_file: str) -> None:
    assert "Added Contoso." in run("add_tenant", "Contoso", "Contoso.example", "--environment", "sandbox")
    command = ["add_app", "Contoso", "Mail", seed.CONNECTIONS_APP, "--app-only", "--capability", "mail.read", *YEAR]
    assert run(*command, "--secret-file", secret_file, "--actor", "alice") == "Added Mail: ready.\n"
    app = AppRegistration.objects.get()
    assert (app.tenant.tid, app.allows_app_only, app.default_capabilities) == (seed.CONTOSO, True, ["mail.read"])
    assert AuditEvent.objects.get(action="app_registration.added").actor == alice
    assert AuditEvent.objects.get(action="tenant.added").actor_name == "Portal"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["Contoso", "https://portal.azure.com/x"], "directory-id: This is a full address"),
        (["", "contoso.example"], "name: This field is required"),
        (["Contoso", "nobody.example"], "find the directory"),
        (["Contoso", "contoso.example", "--actor", "nobody"], "No active person"),
    ],
)
def test_an_invalid_tenant_is_reported(db: None, sandbox: Control, arguments: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run("add_tenant", *arguments, "--environment", "sandbox")
    assert not Tenant.objects.exists()


def test_the_secret_comes_from_a_file_standard_input_or_the_environment(
    db: None, sandbox: Control, secret_file: str, monkeypatch: Any
) -> None:
    factories.make_app_registration(secret=None)
    command = ["add_credential", "Contoso Connections", *YEAR]
    run(*command, "--secret-file", secret_file)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{seed.CONNECTIONS_SECRET}\n"))
    run(*command, "--secret-file", "-")
    monkeypatch.setenv("CLIENT_SECRET", seed.CONNECTIONS_SECRET)
    run(*command)
    assert {credential.secret for credential in AppCredential.objects.all()} == {seed.CONNECTIONS_SECRET}
    assert AppCredential.objects.count() == 3


def test_the_secrets_id_is_refused_without_being_repeated(db: None, sandbox: Control, monkeypatch: Any) -> None:
    factories.make_app_registration(secret=None)
    monkeypatch.setenv("CLIENT_SECRET", seed.CONNECTIONS_SECRET_ID)
    with pytest.raises(CommandError, match="This is the Secret ID") as caught:
        run("add_credential", factories.CLIENT_ID, *YEAR)
    assert seed.CONNECTIONS_SECRET_ID not in str(caught.value)


@pytest.mark.parametrize("day", ["03/04/2099", "31.03.2099", "4/3/2099", "March 4, 2099"])
def test_dates_on_the_command_line_are_iso_only(day: str, db: None, sandbox: Control, secret_file: str) -> None:
    factories.make_app_registration(secret=None)
    with pytest.raises(CommandError, match="expires-at: Enter the date as year-month-day"):
        run("add_credential", "Contoso Connections", "--secret-file", secret_file, "--expires", day)
    assert not AppCredential.objects.exists()


def test_there_is_no_option_that_takes_a_secret(db: None) -> None:
    with pytest.raises(CommandError, match="unrecognized arguments"):
        run("add_credential", "x", "--secret=hush")


def test_a_generated_certificate_prints_its_public_part_for_the_upload(db: None, sandbox: Control) -> None:
    factories.make_tenant()
    printed = run("add_app", "Contoso", "Robots", seed.ROBOTS_APP, "--generate-certificate", "6")
    assert "not tested" in printed
    assert "BEGIN CERTIFICATE" in printed
    assert "PRIVATE" not in printed


def test_a_certificate_file_is_read_with_its_password_from_a_file(db: None, sandbox: Control, tmp_path: Path) -> None:
    from django.utils import timezone

    from connections.microsoft import certificates
    from tests.microsoft.test_certificates import pfx

    pair = certificates.generate("Robots", months=6, now=timezone.now())
    sandbox.add_certificate(seed.ROBOTS_APP, pair.certificate)
    (tmp_path / "robots.pfx").write_bytes(pfx(pair, b"open sesame"))
    (tmp_path / "password").write_text("open sesame\n")
    factories.make_app_registration(secret=None, client_id=seed.ROBOTS_APP)
    files = ["--certificate-file", str(tmp_path / "robots.pfx"), "--password-file", str(tmp_path / "password")]
    assert "accepted" in run("add_credential", seed.ROBOTS_APP, *files)
    with pytest.raises(CommandError, match="can't be read"):
        run("add_credential", seed.ROBOTS_APP, "--certificate-file", str(tmp_path / "missing"))


def test_an_unknown_tenant_or_application_is_reported_with_the_known_ones(db: None) -> None:
    factories.make_app_registration()
    with pytest.raises(CommandError, match="Existing tenants: Contoso"):
        run("add_app", "Fabrikam", "x", factories.CLIENT_ID)
    with pytest.raises(CommandError, match="Contoso Connections"):
        run("add_credential", "nothing")
