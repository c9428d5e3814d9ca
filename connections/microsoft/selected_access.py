"""The Microsoft Graph PowerShell commands that grant an application access to single sites, lists, items or files.

A permission such as Sites.Selected alone gives no access (Microsoft Graph: permissions-selected-overview).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from connections.microsoft.exchange_script import GRAPH_CLOUDS, quoted


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of object to which access can be granted.

    ``path`` is the API's path of the grant, and ``ids`` are the IDs that an administrator must enter first.
    """

    title: str
    path: str
    ids: tuple[tuple[str, str], ...] = ()


# By permission. Where Microsoft offers the call in v1.0, that version is used.
TARGETS = {
    "Sites.Selected": Target("A site", "/v1.0/sites/$site/permissions"),
    "Lists.SelectedOperations.Selected": Target(
        "A list or library", "/beta/sites/$site/lists/$list/permissions", (("list", "List ID"),)
    ),
    "ListItems.SelectedOperations.Selected": Target(
        "A list item",
        "/beta/sites/$site/lists/$list/items/$item/permissions",
        (("list", "List ID"), ("item", "Item ID")),
    ),
    "Files.SelectedOperations.Selected": Target(
        "A file or folder", "/beta/sites/$site/drive/items/$item/permissions", (("item", "Item ID of the file"),)
    ),
}


def commands(permissions: Iterable[str], *, environment: str, client_id: str, app_name: str) -> list[tuple[str, str]]:
    """Return a title and commands for each of the ``permissions`` that must be granted for single objects."""
    chosen = set(permissions)
    return [
        (target.title, _commands(target, environment, client_id, app_name))
        for name, target in TARGETS.items()
        if name in chosen
    ]


def _commands(target: Target, environment: str, client_id: str, app_name: str) -> str:
    cloud = f" -Environment {GRAPH_CLOUDS[environment]}" if environment in GRAPH_CLOUDS else ""
    application = f"@{{ application = @{{ id = {quoted(client_id)}; displayName = {quoted(app_name)} }} }}"
    # A site accepts a list of applications. Objects below a site accept a single one.
    grantee = f"grantedTo = {application}" if target.ids else f"grantedToIdentities = @({application})"
    lines = [
        f"Connect-MgGraph{cloud} -Scopes 'Sites.FullControl.All' -NoWelcome",
        "# Enter the address of your site. The role is read, write or fullcontrol.",
        "$address = 'contoso.sharepoint.com:/sites/Invoices'",
        '$site = (Invoke-MgGraphRequest -Method GET -Uri "/v1.0/sites/$address").id',
        *(f"${name} = Read-Host {quoted(label)}" for name, label in target.ids),
        f"$grant = @{{ roles = @('read'); {grantee} }}",
        f'Invoke-MgGraphRequest -Method POST -Uri "{target.path}" -Body ($grant | ConvertTo-Json -Depth 5)',
    ]
    return "\n".join(lines)
