"""The Exchange Online PowerShell commands that open shared mailboxes to one connection, and to nothing else.

For an application: RBAC for Applications (Microsoft: exchange/permissions-exo/application-rbac; the cmdlets
New-ServicePrincipal, New-ManagementScope, New-ManagementRoleAssignment, Test-ServicePrincipalAuthorization). For an
account: Add-MailboxPermission and Add-RecipientPermission. Every step can be run again without harm.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from connections.microsoft.clouds import GRAPH_APP_ID
from connections.microsoft.permissions import covered_by

# Permissions of Microsoft Graph that Exchange can grant for single mailboxes; its roles are called "Application …".
EXCHANGE_ROLES = (
    "Mail.ReadBasic",
    "Mail.Read",
    "Mail.ReadWrite",
    "Mail.Send",
    "MailboxSettings.Read",
    "MailboxSettings.ReadWrite",
    "Calendars.Read",
    "Calendars.ReadWrite",
    "Contacts.Read",
    "Contacts.ReadWrite",
)
_OTHER_NAMES = {"Mail.ReadBasic.All": "Mail.ReadBasic"}
# Mailboxes in one scope: how long a filter may be is not documented.
MOST_IN_A_SCOPE = 20
_EXCHANGE_CLOUDS = {"usgov_l4": "O365USGovGCCHigh", "usgov_l5": "O365USGovDoD", "china": "O365China"}
_GRAPH_CLOUDS = {"usgov_l4": "USGov", "usgov_l5": "USGovDoD", "china": "China"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is to reach which mailboxes. ``key`` tells this connection's objects in Exchange from all others."""

    environment: str
    tid: str  # GUID of the directory; "" if it is not known
    connection_name: str
    key: str
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class ApplicationPlan(Plan):
    """An application; ``roles`` are those of EXCHANGE_ROLES."""

    client_id: str
    app_name: str
    roles: Sequence[str]


@dataclass(frozen=True, slots=True)
class AccountPlan(Plan):
    """A signed-in account."""

    account: str
    sends: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: ``commands`` continue in the window in which the first step was run."""

    key: str
    title: str
    commands: str


def roles_for(permissions: Iterable[str]) -> tuple[str, ...]:
    """The least roles of Exchange for these application permissions; what Exchange does not grant is left out."""
    wanted = {_OTHER_NAMES.get(name, name) for name in permissions} & set(EXCHANGE_ROLES)
    return tuple(
        role
        for role in EXCHANGE_ROLES
        if role in wanted and not any(role in covered_by(frozenset({other})) for other in wanted - {role})
    )


def tenant_wide(granted: Iterable[str]) -> tuple[str, ...]:
    """Those of the granted application permissions that open every mailbox, whatever scope Exchange keeps."""
    prefixes = tuple({f"{role.partition('.')[0]}." for role in EXCHANGE_ROLES})
    return tuple(sorted(name for name in granted if name.startswith(prefixes)))


def steps(plan: ApplicationPlan | AccountPlan) -> list[Step]:
    """What to run, in order. The last step takes everything back."""
    if isinstance(plan, AccountPlan):
        return [
            Step("connect", "Connect", _block(_connect(plan), keeps=True)),
            Step("grant", "Give the account access", _block(_grant_account(plan))),
            Step("check", "Check", _block(_check_account(plan))),
            Step("undo", "The way back", _block(_undo_account(plan))),
        ]
    return [
        Step("connect", "Connect", _block(_connect(plan) + _principal(plan), keeps=True)),
        Step("grant", "Let the application into these mailboxes", _block(_after_connect(plan) + _grant(plan))),
        Step("check", "Check", _block(_after_connect(plan) + _check_application(plan))),
        Step("narrow", "Take away what opens every mailbox", _block(_after_connect(plan) + _narrow(plan))),
        Step("undo", "The way back", _block(_after_connect(plan) + _undo_application(plan))),
    ]


def script(plan: ApplicationPlan | AccountPlan, key: str) -> str:
    """One step as a file of its own, connecting included. Raises KeyError for a step that does not exist."""
    found = {step.key: step for step in steps(plan)}
    step, first = found[key], found["connect"]
    parts = [_head(plan, step.title), first.commands]
    return "\n".join(parts if step is first else [*parts, step.commands])


def _block(commands: str, *, keeps: bool = False) -> str:
    """Commands that run as one, so that an error stops them even when they are pasted line by line.

    ``keeps`` lets the variables outlive the block.
    """
    inner = "\n".join(f"    {line}" if line else "" for line in commands.rstrip().splitlines())
    return f"{'.' if keeps else '&'} {{\n{inner}\n}}\n"


# --- Quoting --------------------------------------------------------------------------------------

# PowerShell takes typographic quotation marks for the plain one, so all of them are doubled
# (Microsoft: powershell/scripting, about_Quoting_Rules and the language specification, 2.3.5.2).
_SINGLE_QUOTES = "'\u2018\u2019\u201a\u201b"


def quoted(text: str) -> str:
    """A PowerShell string that means exactly ``text``, but for control characters, which become spaces."""
    return "'" + "".join(char * 2 if char in _SINGLE_QUOTES else char for char in one_line(text)) + "'"


def one_line(text: str) -> str:
    """The text without anything that could end a line or hide what follows."""
    return "".join(" " if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in text)


def _filter(addresses: Sequence[str]) -> str:
    """An OPATH filter, in which a quotation mark inside a value is doubled (Microsoft: New-ManagementScope)."""
    return " -or ".join(
        "PrimarySmtpAddress -eq '" + one_line(address).replace("'", "''") + "'" for address in addresses
    )


# --- Connecting -----------------------------------------------------------------------------------


def _head(plan: ApplicationPlan | AccountPlan, title: str) -> str:
    return f"""\
# {title}
# Written by the connection portal for the connection {one_line(plan.connection_name)}.
"""


def _connect(plan: ApplicationPlan | AccountPlan) -> str:
    exchange = _EXCHANGE_CLOUDS.get(plan.environment, "")
    environment = f" -ExchangeEnvironmentName {exchange}" if exchange else ""
    check = f"""\
if ((Get-ConnectionInformation).TenantID -notcontains {quoted(plan.tid)}) {{
    throw 'You are signed in to another organisation.'
}}
"""
    return f"""\
# Once on this computer: Install-Module ExchangeOnlineManagement
# Sign in as a member of Exchange's role group Organization Management.
Connect-ExchangeOnline{environment} -ShowBanner:$false -ErrorAction Stop
{check if plan.tid else ""}"""


def _principal(plan: ApplicationPlan) -> str:
    return f"""\

# Exchange wants the object id of the enterprise application, which is not that of the app registration.
# Once on this computer: Install-Module Microsoft.Graph.Applications
{_connect_graph(plan, "Application.Read.All")}
$clientId = {quoted(plan.client_id)}
$principal = Get-MgServicePrincipal -Filter {quoted(f"appId eq '{plan.client_id}'")} -ErrorAction Stop
if (-not $principal) {{ throw 'The application is not installed in this organisation.' }}
"""


def _connect_graph(plan: Plan, *scopes: str) -> str:
    graph = _GRAPH_CLOUDS.get(plan.environment, "")
    options = [f"-Environment {graph}"] if graph else []
    options += [f"-TenantId {quoted(plan.tid)}"] if plan.tid else []
    options += [f"-Scopes {', '.join(quoted(scope) for scope in scopes)}", "-NoWelcome", "-ErrorAction Stop"]
    return " ".join(["Connect-MgGraph", *options])


def _after_connect(plan: ApplicationPlan) -> str:
    return f"""\
if ($clientId -ne {quoted(plan.client_id)} -or -not $principal) {{ throw 'Run the first step first.' }}
"""


# --- An application -------------------------------------------------------------------------------


def _grant(plan: ApplicationPlan) -> str:
    scopes = [
        (_name(plan, "mailboxes", number), plan.addresses[start : start + MOST_IN_A_SCOPE])
        for number, start in enumerate(range(0, len(plan.addresses), MOST_IN_A_SCOPE), 1)
    ]
    assignments = [
        (_name(plan, role, number), role, scope) for number, (scope, _) in enumerate(scopes, 1) for role in plan.roles
    ]
    wanted = [name for name, _ in scopes], [name for name, _, _ in assignments]
    return "\n".join(
        [
            _check_addresses(plan.addresses),
            _register(plan),
            *(_scope(name, few) for name, few in scopes),
            *(_assignment(*assignment) for assignment in assignments),
            _tidy(plan, *wanted),
        ]
    )


def _name(plan: Plan, what: str, number: int) -> str:
    """At most 64 characters, as Exchange wants (Microsoft: New-ManagementScope, New-ManagementRoleAssignment)."""
    return f"{_prefix(plan)}{what} {number}"


def _prefix(plan: Plan) -> str:
    return f"Portal {plan.key} "


def _check_addresses(addresses: Sequence[str]) -> str:
    listed = "\n".join(f"    {quoted(address)}" for address in addresses)
    return f"""\
$addresses = @(
{listed}
)
# Stops here if one of them is not the main address of a mailbox; nothing has been changed by then.
foreach ($address in $addresses) {{
    $mailbox = Get-EXOMailbox -Identity $address -ErrorAction Stop
    if ($mailbox.PrimarySmtpAddress -ne $address) {{
        throw ('{{0}} is not the main address of its mailbox; {{1}} is.' -f $address, $mailbox.PrimarySmtpAddress)
    }}
}}
"""


def _register(plan: ApplicationPlan) -> str:
    return f"""\
# Tell Exchange about the application.
if (-not (Get-ServicePrincipal | Where-Object AppId -eq $clientId)) {{
    New-ServicePrincipal -AppId $clientId -ObjectId $principal.Id -DisplayName {quoted(plan.app_name)} -ErrorAction Stop
}}
"""


def _scope(name: str, addresses: Sequence[str]) -> str:
    return f"""\
# These mailboxes and no others.
$scope = {quoted(name)}
$filter = {quoted(_filter(addresses))}
if (Get-ManagementScope | Where-Object Name -eq $scope) {{
    Set-ManagementScope -Identity $scope -RecipientRestrictionFilter $filter -ErrorAction Stop
}} else {{
    New-ManagementScope -Name $scope -RecipientRestrictionFilter $filter -ErrorAction Stop
}}
"""


def _assignment(name: str, role: str, scope: str) -> str:
    return f"""\
$assignment = {quoted(name)}
if (-not (Get-ManagementRoleAssignment | Where-Object Name -eq $assignment)) {{
    New-ManagementRoleAssignment -Name $assignment -App $principal.Id -Role {quoted(f"Application {role}")} \
-CustomResourceScope {quoted(scope)} -ErrorAction Stop
}}
"""


def _tidy(plan: Plan, scopes: Sequence[str], assignments: Sequence[str]) -> str:
    return f"""\
# Take away what this connection was given before and needs no more.
$keep = @({", ".join(quoted(name) for name in [*scopes, *assignments])})
{_remove(plan, " -and $_.Name -notin $keep")}"""


def _remove(plan: Plan, unless: str = "") -> str:
    mine = f"Where-Object {{ $_.Name -like {quoted(_prefix(plan) + '*')}{unless} }}"
    return f"""\
Get-ManagementRoleAssignment | {mine} | Remove-ManagementRoleAssignment -Confirm:$false -ErrorAction Stop
Get-ManagementScope | {mine} | Remove-ManagementScope -Confirm:$false -ErrorAction Stop
"""


def _check_application(plan: ApplicationPlan) -> str:
    listed = ", ".join(quoted(address) for address in plan.addresses)
    return f"""\
# Each of these mailboxes must show True under InScope for each role.
foreach ($address in @({listed})) {{
    $address
    Test-ServicePrincipalAuthorization -Identity $clientId -Resource $address |
        Format-Table RoleName, AllowedResourceScope, InScope
}}
# Any other mailbox must not.
$other = Read-Host 'Address of a mailbox that the application must not reach'
Test-ServicePrincipalAuthorization -Identity $clientId -Resource $other |
    Format-Table RoleName, AllowedResourceScope, InScope
"""


def _narrow(plan: ApplicationPlan) -> str:
    groups = "|".join(dict.fromkeys(role.partition(".")[0] for role in EXCHANGE_ROLES))
    return f"""\
# What Entra has granted the application for all mailboxes stays in force beside Exchange's scope.
{_connect_graph(plan, "Application.Read.All", "AppRoleAssignment.ReadWrite.All")}
$graph = Get-MgServicePrincipal -Filter {quoted(f"appId eq '{GRAPH_APP_ID}'")} -ErrorAction Stop
$wide = $graph.AppRoles | Where-Object Value -match {quoted(f"^({groups})[.]")}
$granted = Get-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $principal.Id -All -ErrorAction Stop |
    Where-Object {{ $_.ResourceId -eq $graph.Id -and $_.AppRoleId -in $wide.Id }}
$wide | Where-Object Id -in $granted.AppRoleId | Format-Table Value, DisplayName
foreach ($one in $granted) {{
    $assigned = @{{ ServicePrincipalId = $principal.Id; AppRoleAssignmentId = $one.Id }}
    Remove-MgServicePrincipalAppRoleAssignment @assigned -ErrorAction Stop
}}
"""


def _undo_application(plan: ApplicationPlan) -> str:
    return f"""\
# The application reaches none of these mailboxes through Exchange any more.
{_remove(plan)}\
# Exchange forgets the application, unless something else was granted to it.
$pointer = Get-ServicePrincipal | Where-Object AppId -eq $clientId
if ($pointer -and -not (Get-ManagementRoleAssignment -RoleAssignee $pointer.Identity)) {{
    Remove-ServicePrincipal -Identity $principal.Id -Confirm:$false -ErrorAction Stop
}}
"""


# --- An account -----------------------------------------------------------------------------------


def _grant_account(plan: AccountPlan) -> str:
    lines = []
    for address in map(quoted, plan.addresses):
        lines.append(
            f"Add-MailboxPermission -Identity {address} -User {quoted(plan.account)} -AccessRights FullAccess "
            "-InheritanceType All -AutoMapping $false -ErrorAction Stop"
        )
        if plan.sends:
            lines.append(
                f"Add-RecipientPermission -Identity {address} -Trustee {quoted(plan.account)} -AccessRights SendAs "
                "-Confirm:$false -ErrorAction Stop"
            )
    return "\n".join(lines) + "\n"


def _check_account(plan: AccountPlan) -> str:
    lines = []
    for address in map(quoted, plan.addresses):
        lines.append(f"Get-MailboxPermission -Identity {address} -User {quoted(plan.account)}")
        if plan.sends:
            lines.append(f"Get-RecipientPermission -Identity {address} -Trustee {quoted(plan.account)}")
    return "\n".join(lines) + "\n"


def _undo_account(plan: AccountPlan) -> str:
    lines = []
    for address in map(quoted, plan.addresses):
        lines.append(
            f"Remove-MailboxPermission -Identity {address} -User {quoted(plan.account)} -AccessRights FullAccess "
            "-Confirm:$false -ErrorAction Stop"
        )
        if plan.sends:
            lines.append(
                f"Remove-RecipientPermission -Identity {address} -Trustee {quoted(plan.account)} -AccessRights SendAs "
                "-Confirm:$false -ErrorAction Stop"
            )
    return "\n".join(lines) + "\n"
