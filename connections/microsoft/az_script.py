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
  if [ "$attempt" = 6 ]; then echo "Consent failed. Grant it in the portal." >&2; fi
  sleep 10
done
"""


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """The input of the script. It updates the registration ``client_id``, or creates one if ``client_id`` is empty."""

    cloud: Cloud
    directory_id: str  # "" means the directory in which the admin signs in
    name: str
    audience: str  # "single" or "multi"
    redirect_uris: Sequence[str]
    permissions: Sequence[Permission]
    client_id: str = ""
    creates_secret: bool = False
    certificate: str = ""  # the public part (PEM), which is uploaded
    trust: tuple[str, str, str] | None = None  # issuer, subject and audience of a federated credential
    grants_consent: bool = False


def setup_script(plan: SetupPlan) -> str:
    """Return the bash script. Raises InvalidInput for a cloud that the Azure CLI does not know (the sandbox)."""
    if not plan.cloud.cli_name:
        raise InvalidInput(
            "Scripts aren't available for the sandbox, which has no Azure CLI.",
            action="Use the sandbox's control panel to see its applications.",
            field="tenant",
        )
    consent = _CONSENT if plan.grants_consent else ""
    parts = (
        _head(plan),
        _permissions(plan),
        _application(plan),
        _trust(plan),
        _credential(plan),
        consent,
        _result(plan),
    )
    return "\n".join(part for part in parts if part) + "\n"


def _head(plan: SetupPlan) -> str:
    tenant = f" --tenant {shlex.quote(plan.directory_id)}" if plan.directory_id else ""
    purpose = "Changes an app registration" if plan.client_id else "Creates an app registration"
    return f"""\
#!/usr/bin/env bash
# {purpose} in Microsoft Entra for the connection portal.
# Needs the Azure CLI 2.37 or later. Run it as an administrator who can register applications{
        " and grant admin consent" if plan.grants_consent else ""
    }.
set -euo pipefail

NAME={shlex.quote(plan.name)}

az cloud set --name {shlex.quote(plan.cloud.cli_name)}
az login --allow-no-subscriptions{tenant} --output none
"""


def _permissions(plan: SetupPlan) -> str:
    """Write the manifest to a file, because quoting JSON on a command line differs between shells."""
    access: dict[str, list[dict[str, str]]] = {GRAPH_APP_ID: []}
    lookups: dict[str, str] = {}
    for permission in plan.permissions:
        if not permission.id:
            lookups[_variable(permission)] = _lookup(permission)
        guid = permission.id or f"${{{_variable(permission)}}}"
        access.setdefault(permission.app_id, []).append({"id": guid, "type": permission.type})
    resources = [{"resourceAppId": app_id, "resourceAccess": listed} for app_id, listed in access.items() if listed]
    manifest = json.dumps(resources, indent=2)
    names = sorted({f"{permission.name} ({_KINDS[permission.type]})" for permission in plan.permissions})
    listed_names = "\n".join(f"#   {name}" for name in names)
    # The shell inserts the IDs that it looked up only if the word is unquoted. The manifest has nothing else to expand.
    word = "MANIFEST_END" if lookups else "'MANIFEST_END'"
    return f"""\
# Permissions:
{listed_names}
{"".join(lookups.values())}\
MANIFEST="$(mktemp)"
trap 'rm -f "$MANIFEST"' EXIT
cat > "$MANIFEST" <<{word}
{manifest}
MANIFEST_END
"""


def _variable(permission: Permission) -> str:
    """Return the name of the shell variable for an ID that Microsoft does not publish."""
    return "ID_" + "".join(letter if letter.isalnum() else "_" for letter in permission.name.rpartition("/")[2])


def _lookup(permission: Permission) -> str:
    """Return commands that read the ID from the service principal of the permission's resource."""
    name = permission.name.rpartition("/")[2]
    query = f"appRoles[?value=='{name}'].id | [0]"
    return f"""\
{_variable(permission)}="$(az ad sp show --id {permission.app_id} --query {shlex.quote(query)} --output tsv)"
if [ -z "${_variable(permission)}" ]; then echo "{name} does not exist in this directory." >&2; exit 1; fi
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
# The service principal installs the application in this directory.
az ad sp create --id "$APP_ID" --output none
"""


def _trust(plan: SetupPlan) -> str:
    """Return commands that create the federated credential, unless there is one with this subject.

    Source: az ad app federated-credential.
    """
    if plan.trust is None:
        return ""
    issuer, subject, audience = plan.trust
    name = f"portal-{subject.rpartition(':')[2]}"
    parameters = json.dumps({"name": name, "issuer": issuer, "subject": subject, "audiences": [audience]}, indent=2)
    return f"""\
# The application trusts the portal's tokens, so that it needs no secret.
FEDERATED="$(mktemp)"
trap 'rm -f "$MANIFEST" "$FEDERATED"' EXIT
cat > "$FEDERATED" <<'FEDERATED_END'
{parameters}
FEDERATED_END
if [ -z "$(az ad app federated-credential list --id "$APP_ID" \\
  --query {shlex.quote(f"[?subject=='{subject}'].id")} --output tsv)" ]; then
  az ad app federated-credential create --id "$APP_ID" --parameters "@$FEDERATED" --output none
fi
"""


def _credential(plan: SetupPlan) -> str:
    if plan.certificate:
        return f"""\
CERTIFICATE="$(mktemp)"
trap 'rm -f "$MANIFEST" "$CERTIFICATE" "${{FEDERATED:-}}"' EXIT
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
        'echo "  Object ID:               $(az ad app show --id "$APP_ID" --query id --output tsv)"',
        'echo "  Directory (tenant) ID:   $(az account show --query tenantId --output tsv)"',
    ]
    if plan.creates_secret and not plan.certificate:
        lines.append('echo "  Value of the secret:     $SECRET   (valid for one year, shown only once)"')
    return "\n".join(lines)
