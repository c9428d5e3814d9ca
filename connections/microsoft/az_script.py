"""The Azure CLI script that sets up an app registration in Entra with exactly the permissions it needs.

Sources: Microsoft: azure-cli, "az ad app" and "az ad sp" (from version 2.37); Graph, requiredResourceAccess.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from connections.errors import InvalidInput
from connections.microsoft.clouds import GRAPH_APP_ID, Cloud
from connections.microsoft.permissions import Permission

AUDIENCES = {"single": "AzureADMyOrg", "multi": "AzureADMultipleOrgs"}
_KINDS = {"Scope": "delegated", "Role": "application"}
_CONSENT = """\
# The directory needs a moment before it knows the new application.
for attempt in 1 2 3 4 5 6; do
  if az ad app permission admin-consent --id "$APP_ID"; then break; fi
  if [ "$attempt" = 6 ]; then echo "Consent failed; grant it in the portal." >&2; fi
  sleep 10
done
"""


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """The input of the script. It updates the registration ``client_id``, or creates one if that is empty."""

    cloud: Cloud
    directory_id: str  # "" means the directory in which the admin signs in
    name: str
    audience: str  # "single" or "multi"
    redirect_uris: Sequence[str]
    permissions: Sequence[Permission]
    client_id: str = ""
    creates_secret: bool = False
    certificate: str = ""  # PEM; the public part, which is uploaded
    grants_consent: bool = False


def setup_script(plan: SetupPlan) -> str:
    """Return the bash script. Raises InvalidInput for a cloud that the Azure CLI does not know (the sandbox)."""
    if not plan.cloud.cli_name:
        raise InvalidInput(
            "The sandbox has no Azure CLI, so there is nothing to script.",
            action="Its control page shows the applications it knows.",
            field="tenant",
        )
    consent = _CONSENT if plan.grants_consent else ""
    parts = (_head(plan), _permissions(plan), _application(plan), _credential(plan), consent, _result(plan))
    return "\n".join(part for part in parts if part) + "\n"


def _head(plan: SetupPlan) -> str:
    tenant = f" --tenant {shlex.quote(plan.directory_id)}" if plan.directory_id else ""
    purpose = "Changes an app registration" if plan.client_id else "Creates an app registration"
    return f"""\
#!/usr/bin/env bash
# {purpose} in Microsoft Entra for the connection portal.
# Needs the Azure CLI 2.37 or later. Run it as somebody who may register applications{
        " and grant admin consent" if plan.grants_consent else ""
    }.
set -euo pipefail

NAME={shlex.quote(plan.name)}

az cloud set --name {shlex.quote(plan.cloud.cli_name)}
az login --allow-no-subscriptions{tenant} --output none
"""


def _permissions(plan: SetupPlan) -> str:
    """The manifest is written to a file because quoting JSON on a command line differs from shell to shell."""
    access = [{"id": permission.id, "type": permission.type} for permission in plan.permissions]
    manifest = json.dumps([{"resourceAppId": GRAPH_APP_ID, "resourceAccess": access}], indent=2)
    names = sorted({f"{permission.name} ({_KINDS[permission.type]})" for permission in plan.permissions})
    listed = "\n".join(f"#   {name}" for name in names)
    return f"""\
# Permissions of Microsoft Graph:
{listed}
MANIFEST="$(mktemp)"
trap 'rm -f "$MANIFEST"' EXIT
cat > "$MANIFEST" <<'MANIFEST_END'
{manifest}
MANIFEST_END
"""


def _application(plan: SetupPlan) -> str:
    options = f"""--display-name "$NAME" \\
  --sign-in-audience {shlex.quote(AUDIENCES[plan.audience])} \\
  --web-redirect-uris {" ".join(shlex.quote(uri) for uri in plan.redirect_uris)} \\
  --required-resource-accesses "@$MANIFEST" """
    if plan.client_id:
        return f"""\
APP_ID={shlex.quote(plan.client_id)}
az ad app update --id "$APP_ID" \\
  {options}\\
  --output none
"""
    return f"""\
APP_ID="$(az ad app create \\
  {options}\\
  --query appId --output tsv)"
# Without its service principal the application is not installed in this directory.
az ad sp create --id "$APP_ID" --output none
"""


def _credential(plan: SetupPlan) -> str:
    if plan.certificate:
        return f"""\
CERTIFICATE="$(mktemp)"
trap 'rm -f "$MANIFEST" "$CERTIFICATE"' EXIT
cat > "$CERTIFICATE" <<'CERTIFICATE_END'
{plan.certificate.strip()}
CERTIFICATE_END
az ad app credential reset --id "$APP_ID" --append --cert "@$CERTIFICATE" --output none
"""
    if plan.creates_secret:
        return """\
SECRET="$(az ad app credential reset --id "$APP_ID" --append --years 1 \\
  --display-name "connection portal" --query password --output tsv)"
"""
    return ""


def _result(plan: SetupPlan) -> str:
    lines = [
        "echo",
        "echo 'Enter this in the portal:'",
        'echo "  Application (client) ID: $APP_ID"',
        'echo "  Directory (tenant) ID:   $(az account show --query tenantId --output tsv)"',
    ]
    if plan.creates_secret and not plan.certificate:
        lines.append('echo "  Value of the secret:     $SECRET   (valid for one year, shown only now)"')
    return "\n".join(lines)
