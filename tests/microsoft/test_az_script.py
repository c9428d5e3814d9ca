"""The Azure CLI script is really run by bash, with a fake ``az`` that only records its arguments."""

import json
import os
import shutil
import stat
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connections.errors import InvalidInput
from connections.microsoft import az_script, capabilities, certificates, clouds

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

DIRECTORY = "11111111-2222-4333-8444-555555555555"
URIS = ("https://portal.example/auth/complete/microsoft-connect/", "https://portal.example/consent/callback/")
PLAN = az_script.SetupPlan(
    cloud=clouds.CLOUDS["global"],
    directory_id=DIRECTORY,
    name="Connection portal",
    audience="single",
    redirect_uris=URIS,
    permissions=capabilities.permissions(["mail.read"], [capabilities.DELEGATED, capabilities.APP_ONLY]),
    creates_secret=True,
    grants_consent=True,
)
NASTY = """O'Brien "quoted" $(touch pwned) `touch pwned` \\ ; & | * ~ ünïcode -n"""

# Writes the arguments of each call, separated by NUL, and the files passed to it into the current directory.
FAKE_AZ = """#!/usr/bin/env bash
number=$(ls calls | wc -l)
printf '%s\\0' "$@" > "calls/$(printf %03d "$number")"
for argument in "$@"; do
  case "$argument" in @*) cp "${argument#@}" "file-$(basename "$(dirname "$argument")")-$number" ;; esac
done
case "$1 $2 $3" in
  "ad app create") echo "99999999-aaaa-4bbb-8ccc-dddddddddddd" ;;
  "ad app credential") echo "value-from-entra" ;;
  "ad sp show") echo "88888888-aaaa-4bbb-8ccc-dddddddddddd" ;;
  "account show "*) echo "11111111-2222-4333-8444-555555555555" ;;
esac
"""


def run(plan: az_script.SetupPlan, folder: Path) -> tuple[list[list[str]], str]:
    """Run the script; return the arguments of each call to ``az``, and what the script prints."""
    (folder / "bin").mkdir()
    (folder / "calls").mkdir()
    az = folder / "bin" / "az"
    az.write_text(FAKE_AZ)
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    script = folder / "script.sh"
    script.write_text(az_script.setup_script(plan))
    subprocess.run(["bash", "-n", str(script)], check=True)
    (folder / "tmp").mkdir()
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder / "tmp")}
    process = subprocess.run(
        ["bash", str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert process.stderr == ""
    assert list((folder / "tmp").iterdir()) == [], "temporary files are left behind"
    calls = [call.read_text().rstrip("\0").split("\0") for call in sorted((folder / "calls").iterdir())]
    return calls, process.stdout


def call(calls: list[list[str]], *words: str) -> list[str]:
    [match] = [arguments for arguments in calls if arguments[: len(words)] == list(words)]
    return match


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_it_creates_the_application_with_exactly_these_permissions(tmp_path: Path) -> None:
    calls, printed = run(PLAN, tmp_path)
    create = call(calls, "ad", "app", "create")
    start = create.index("--web-redirect-uris") + 1
    assert create[start : start + 2] == list(URIS)
    assert option(create, "--sign-in-audience") == "AzureADMyOrg"
    [manifest] = [json.loads(path.read_text()) for path in tmp_path.glob("file-*")]
    assert [entry["resourceAppId"] for entry in manifest] == [clouds.GRAPH_APP_ID]
    expected = {(permission.id, permission.type) for permission in PLAN.permissions}
    assert {(access["id"], access["type"]) for access in manifest[0]["resourceAccess"]} == expected
    assert ("810c84a8-4a9e-49e6-bf7d-12d183f40d01", "Role") in expected  # Mail.Read, application
    assert call(calls, "ad", "sp", "create")
    assert call(calls, "ad", "app", "permission", "admin-consent")
    assert "--append" in call(calls, "ad", "app", "credential", "reset")
    for shown in ("99999999-aaaa-4bbb-8ccc-dddddddddddd", DIRECTORY, "value-from-entra"):
        assert shown in printed


def test_each_resource_has_its_own_permissions(tmp_path: Path) -> None:
    chosen = ["mail.read", "imap.access", "smtp.send", "azure.manage"]
    declared = capabilities.permissions(chosen, [capabilities.DELEGATED, capabilities.APP_ONLY])
    calls, _ = run(replace(PLAN, permissions=declared), tmp_path)
    [manifest] = [json.loads(path.read_text()) for path in tmp_path.glob("file-*")]
    by_resource = {
        entry["resourceAppId"]: {(access["id"], access["type"]) for access in entry["resourceAccess"]}
        for entry in manifest
    }
    assert by_resource.keys() == {
        clouds.GRAPH_APP_ID,
        "00000002-0000-0ff1-ce00-000000000000",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013",
    }
    # Exchange's delegated permissions are declared under Graph, its application permissions under its own id.
    assert ("652390e4-393a-48de-9484-05f9b1212954", "Scope") in by_resource[clouds.GRAPH_APP_ID]
    looked_up = ("88888888-aaaa-4bbb-8ccc-dddddddddddd", "Role")
    imap = ("5e5addcd-3e8d-4e90-baf5-964efab2b20a", "Role")
    assert by_resource["00000002-0000-0ff1-ce00-000000000000"] == {imap, looked_up}
    query = option(call(calls, "ad", "sp", "show"), "--query")
    assert query == "appRoles[?value=='SMTP.SendAsApp'].id | [0]"


def test_shell_syntax_in_a_name_is_not_run(tmp_path: Path) -> None:
    calls, _ = run(replace(PLAN, name=NASTY), tmp_path)
    assert option(call(calls, "ad", "app", "create"), "--display-name") == NASTY
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("key", "name"), [("global", "AzureCloud"), ("usgov_l4", "AzureUSGovernment"), ("china", "AzureChinaCloud")]
)
def test_it_signs_in_to_the_right_cloud_and_directory(tmp_path: Path, key: str, name: str) -> None:
    calls, _ = run(replace(PLAN, cloud=clouds.CLOUDS[key]), tmp_path)
    assert calls[0] == ["cloud", "set", "--name", name]
    assert option(calls[1], "--tenant") == DIRECTORY


def test_without_a_directory_it_signs_in_to_the_admins_own(tmp_path: Path) -> None:
    calls, _ = run(replace(PLAN, directory_id="", audience="multi"), tmp_path)
    assert "--tenant" not in calls[1]
    assert option(call(calls, "ad", "app", "create"), "--sign-in-audience") == "AzureADMultipleOrgs"


def test_it_updates_an_existing_application(tmp_path: Path) -> None:
    client_id = "0e0f0a0b-1111-4222-8333-444455556666"
    calls, printed = run(replace(PLAN, client_id=client_id, creates_secret=False, grants_consent=False), tmp_path)
    assert option(call(calls, "ad", "app", "update"), "--id") == client_id
    verbs = [arguments[:3] for arguments in calls]
    assert not [verb for verb in ("create", "credential", "permission") if ["ad", "app", verb] in verbs]
    assert "Value" not in printed


def test_it_uploads_the_public_part_of_a_certificate(tmp_path: Path) -> None:
    pair = certificates.generate("x", months=1, now=datetime(2026, 11, 23, tzinfo=UTC))
    calls, _ = run(replace(PLAN, certificate=pair.certificate), tmp_path)
    assert option(call(calls, "ad", "app", "credential"), "--cert").startswith("@")
    uploaded = [path.read_text() for path in tmp_path.glob("file-*")]
    assert pair.certificate.strip() in [text.strip() for text in uploaded]


def test_there_is_no_script_for_the_sandbox() -> None:
    sandbox = clouds.Cloud("sandbox", "Sandbox", "http://localhost:1", "http://localhost:1", "http://localhost:1", "")
    with pytest.raises(InvalidInput, match="control panel"):
        az_script.setup_script(replace(PLAN, cloud=sandbox))
