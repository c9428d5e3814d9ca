"""The Exchange Online PowerShell commands that give one connection access to certain shared mailboxes.

Applications get access through RBAC for Applications (Microsoft: exchange/permissions-exo/application-rbac; the cmdlets
New-ServicePrincipal, New-ManagementScope, New-ManagementRoleAssignment, Test-ServicePrincipalAuthorization). For IMAP,
POP and SMTP they also need Add-MailboxPermission (exchange/client-developer, "Authenticate an IMAP, POP or SMTP
connection using OAuth"). Accounts get access through Add-MailboxPermission and Add-RecipientPermission. Every step can
safely be repeated.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import starmap

from connections.microsoft.clouds import GRAPH_APP_ID
from connections.microsoft.permissions import covered_by

# The Graph permissions that Exchange can grant for individual mailboxes. Exchange's roles are "Application …".
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
# Application permissions that only work in mailboxes to which the application has Full Access.
PROTOCOLS = {"exchange/IMAP.AccessAsApp": "IMAP", "exchange/POP.AccessAsApp": "POP", "exchange/SMTP.SendAsApp": "SMTP"}
_OTHER_NAMES = {"Mail.ReadBasic.All": "Mail.ReadBasic"}
MOST_IN_A_SCOPE = 20  # mailboxes per scope; the maximum length of a filter is not documented
_EXCHANGE_CLOUDS = {"usgov_l4": "O365USGovGCCHigh", "usgov_l5": "O365USGovDoD", "china": "O365China"}
_FULL_ACCESS = " -AccessRights FullAccess -InheritanceType All -AutoMapping $false -ErrorAction Stop"
_NO_FULL_ACCESS = " -AccessRights FullAccess -Confirm:$false -ErrorAction Stop"
_SEND_AS = " -AccessRights SendAs -Confirm:$false -ErrorAction Stop"
GRAPH_CLOUDS = {"usgov_l4": "USGov", "usgov_l5": "USGovDoD", "china": "China"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The mailboxes, and who gets access to them. ``key`` marks objects in Exchange that belong to this connection."""

    environment: str
    tid: str  # the directory's GUID; "" if unknown
    connection_name: str
    key: str
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class ApplicationPlan(Plan):
    client_id: str
    app_name: str
    roles: Sequence[str]  # keys of EXCHANGE_ROLES
    protocols: Sequence[str] = ()  # values of PROTOCOLS that the application uses


@dataclass(frozen=True, slots=True)
class AccountPlan(Plan):
    account: str
    sends: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the script. Run its ``commands`` in the same window as those of the first step."""

    key: str
    title: str
    commands: str


def roles_for(permissions: Iterable[str]) -> tuple[str, ...]:
    """Return the minimum Exchange roles for these application permissions, except those that Exchange cannot grant."""
    needed = {_OTHER_NAMES.get(name, name) for name in permissions} & set(EXCHANGE_ROLES)
    return tuple(
        role
        for role in EXCHANGE_ROLES
        if role in needed and not any(role in covered_by(frozenset({other})) for other in needed - {role})
    )


def protocols_for(permissions: Iterable[str]) -> tuple[str, ...]:
    """Return the protocols that these application permissions allow."""
    return tuple(PROTOCOLS[name] for name in PROTOCOLS if name in set(permissions))


def tenant_wide(granted: Iterable[str]) -> tuple[str, ...]:
    """Return the granted application permissions that open every mailbox, regardless of the scope in Exchange."""
    prefixes = tuple({f"{role.partition('.')[0]}." for role in EXCHANGE_ROLES})
    return tuple(sorted(name for name in granted if name.startswith(prefixes)))


def steps(plan: ApplicationPlan | AccountPlan) -> list[Step]:
    """Return the steps in the order in which they are run. The last step undoes the others."""
    if isinstance(plan, AccountPlan):
        return [
            Step("connect", "Connect", _block(_connect(plan), keeps=True)),
            Step("grant", "Give the account access", _block(_for_account(plan, "Add", _FULL_ACCESS, _SEND_AS))),
            Step("check", "Check", _block(_for_account(plan, "Get"))),
            Step("undo", "Undo", _block(_for_account(plan, "Remove", _NO_FULL_ACCESS, _SEND_AS))),
        ]
    first = f"if ($clientId -ne {quoted(plan.client_id)} -or -not $principal) {{ throw 'Run the first step first.' }}\n"
    return [
        Step("connect", "Connect", _block(_connect(plan) + _principal(plan), keeps=True)),
        Step("grant", "Give the application access to these mailboxes", _block(first + _grant(plan))),
        Step("check", "Check", _block(first + _check_application(plan))),
        *(
            [Step("narrow", "Remove access to all other mailboxes", _block(first + _narrow(plan)))]
            if plan.roles
            else []
        ),
        Step("undo", "Undo", _block(first + _undo_application(plan))),
    ]


def script(plan: ApplicationPlan | AccountPlan, key: str) -> str:
    """Return one step as a complete script that also connects to Exchange. Raises KeyError for an unknown step."""
    by_key = {step.key: step for step in steps(plan)}
    step, first = by_key[key], by_key["connect"]
    written = f"Generated by the connection portal for the connection {one_line(plan.connection_name)}."
    parts = [f"# {step.title}\n# {written}\n", first.commands]
    return "\n".join(parts if step is first else [*parts, step.commands])


def _block(commands: str, *, keeps: bool = False) -> str:
    """Return a block that stops at the first error, even if it is pasted line by line.

    With ``keeps``, its variables are available to later blocks.
    """
    inner = "\n".join(f"    {line}" if line else "" for line in commands.rstrip().splitlines())
    return f"{'.' if keeps else '&'} {{\n{inner}\n}}\n"


# PowerShell treats typographic quotation marks like straight ones, so all of them are doubled. Source: Microsoft:
# powershell/scripting, about_Quoting_Rules and the language specification, 2.3.5.2.
_SINGLE_QUOTES = "'\u2018\u2019\u201a\u201b"


def quoted(text: str) -> str:
    """Quote ``text`` as a literal PowerShell string. Control characters become spaces."""
    return "'" + "".join(char * 2 if char in _SINGLE_QUOTES else char for char in one_line(text)) + "'"


def one_line(text: str) -> str:
    """Return the text with spaces in place of all characters that could end the line or hide the rest of it."""
    return "".join(" " if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in text)


def _connect(plan: ApplicationPlan | AccountPlan) -> str:
    exchange = _EXCHANGE_CLOUDS.get(plan.environment)
    environment = f" -ExchangeEnvironmentName {exchange}" if exchange else ""
    check = f"""\
if ((Get-ConnectionInformation).TenantID -notcontains {quoted(plan.tid)}) {{
    throw 'You are signed in to another organisation.'
}}
"""
    return f"""\
# Run once on this computer: Install-Module ExchangeOnlineManagement
# Sign in as a member of Exchange's role group Organization Management.
Connect-ExchangeOnline{environment} -ShowBanner:$false -ErrorAction Stop
{check if plan.tid else ""}"""


def _principal(plan: ApplicationPlan) -> str:
    return f"""\

# Exchange needs the object ID of the enterprise application, not of the app registration.
# Run once on this computer: Install-Module Microsoft.Graph.Applications
{_connect_graph(plan, "Application.Read.All")}
$clientId = {quoted(plan.client_id)}
$principal = Get-MgServicePrincipal -Filter {quoted(f"appId eq '{plan.client_id}'")} -ErrorAction Stop
if (-not $principal) {{ throw 'The application is not installed in this organisation.' }}
"""


def _connect_graph(plan: Plan, *scopes: str) -> str:
    graph = GRAPH_CLOUDS.get(plan.environment, "")
    options = [f"-Environment {graph}"] if graph else []
    options += [f"-TenantId {quoted(plan.tid)}"] if plan.tid else []
    options += [f"-Scopes {', '.join(quoted(scope) for scope in scopes)}", "-NoWelcome", "-ErrorAction Stop"]
    return " ".join(["Connect-MgGraph", *options])


def _grant(plan: ApplicationPlan) -> str:
    starts = range(0, len(plan.addresses) if plan.roles else 0, MOST_IN_A_SCOPE)
    scopes = [
        (_name(plan, "mailboxes", number), plan.addresses[start : start + MOST_IN_A_SCOPE])
        for number, start in enumerate(starts, 1)
    ]
    assignments = [
        (_name(plan, role, number), role, scope) for number, (scope, _) in enumerate(scopes, 1) for role in plan.roles
    ]
    keep = [name for name, _ in scopes] + [name for name, _, _ in assignments]
    listed = "\n".join(f"    {quoted(address)}" for address in plan.addresses)
    head = f"""\
$addresses = @(
{listed}
)
# Stops here, before any change, if one of them is not the primary address of a mailbox.
foreach ($address in $addresses) {{
    $mailbox = Get-EXOMailbox -Identity $address -ErrorAction Stop
    if ($mailbox.PrimarySmtpAddress -ne $address) {{
        throw ('{{0}} is not the primary address of its mailbox. Use {{1}}.' -f $address, $mailbox.PrimarySmtpAddress)
    }}
}}

# Add the application to Exchange.
if (-not (Get-ServicePrincipal | Where-Object AppId -eq $clientId)) {{
    New-ServicePrincipal -AppId $clientId -ObjectId $principal.Id -DisplayName {quoted(plan.app_name)} -ErrorAction Stop
}}
"""
    tidy = f"""\
# Remove access that this connection no longer needs.
$keep = @({", ".join(quoted(name) for name in keep)})
{_remove(plan, " -and $_.Name -notin $keep")}"""
    by_protocol = [_full_access(plan)] if plan.protocols else []
    return "\n".join([head, *by_protocol, *starmap(_scope, scopes), *starmap(_assignment, assignments), tidy])


def _full_access(plan: ApplicationPlan) -> str:
    """Return commands that open the mailboxes for IMAP, POP and SMTP. Repeating them only shows a warning."""
    sends = "SMTP" in plan.protocols
    smtp = f"    Add-RecipientPermission -Identity $address -Trustee $principal.Id{_SEND_AS}\n" if sends else ""
    smtp += (
        "    Set-CASMailbox -Identity $address -SmtpClientAuthenticationDisabled $false -ErrorAction Stop\n"
        if sends
        else ""
    )
    return f"""\
# Open the mailboxes for {", ".join(plan.protocols)}.
foreach ($address in $addresses) {{
    Add-MailboxPermission -Identity $address -User $principal.Id{_FULL_ACCESS}
{smtp}}}
"""


def _name(plan: Plan, what: str, number: int) -> str:
    """Return a name of at most 64 characters, which is Exchange's limit.

    Source: New-ManagementScope, New-ManagementRoleAssignment.
    """
    return f"Portal {plan.key} {what} {number}"


def _scope(name: str, addresses: Sequence[str]) -> str:
    # An OPATH filter. A quotation mark inside a value must be doubled (Microsoft: New-ManagementScope).
    values = (one_line(address).replace("'", "''") for address in addresses)
    return f"""\
# Limit access to these mailboxes.
$scope = {quoted(name)}
$filter = {quoted(" -or ".join(f"PrimarySmtpAddress -eq '{value}'" for value in values))}
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


def _remove(plan: Plan, unless: str = "") -> str:
    own_objects = f"Where-Object {{ $_.Name -like {quoted(f'Portal {plan.key} *')}{unless} }}"
    return f"""\
Get-ManagementRoleAssignment | {own_objects} | Remove-ManagementRoleAssignment -Confirm:$false -ErrorAction Stop
Get-ManagementScope | {own_objects} | Remove-ManagementScope -Confirm:$false -ErrorAction Stop
"""


def _check_application(plan: ApplicationPlan) -> str:
    listed = ", ".join(quoted(address) for address in plan.addresses)
    by_protocol = f"""\
# Each of these mailboxes must show FullAccess.
foreach ($address in @({listed})) {{
    Get-MailboxPermission -Identity $address -User $principal.Id | Format-Table Identity, User, AccessRights
}}
"""
    by_role = _check_roles(listed) if plan.roles else ""
    return (by_protocol if plan.protocols else "") + by_role


def _check_roles(listed: str) -> str:
    return f"""\
# Each of these mailboxes must show True under InScope for each role.
foreach ($address in @({listed})) {{
    $address
    Test-ServicePrincipalAuthorization -Identity $clientId -Resource $address |
        Format-Table RoleName, AllowedResourceScope, InScope
}}
# Other mailboxes must show False.
$other = Read-Host 'Address of a mailbox that the application must not have access to'
Test-ServicePrincipalAuthorization -Identity $clientId -Resource $other |
    Format-Table RoleName, AllowedResourceScope, InScope
"""


def _narrow(plan: ApplicationPlan) -> str:
    groups = "|".join(dict.fromkeys(role.partition(".")[0] for role in EXCHANGE_ROLES))
    return f"""\
# Permissions for all mailboxes that were granted in Entra apply in addition to the scope in Exchange.
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
# Remove the application's access to these mailboxes in Exchange.
{_remove(plan)}{_remove_full_access(plan) if plan.protocols else ""}\
# Remove the application from Exchange, unless it has other access.
$pointer = Get-ServicePrincipal | Where-Object AppId -eq $clientId
if ($pointer -and -not (Get-ManagementRoleAssignment -RoleAssignee $pointer.Identity)) {{
    Remove-ServicePrincipal -Identity $principal.Id -Confirm:$false -ErrorAction Stop
}}
"""


def _remove_full_access(plan: ApplicationPlan) -> str:
    lines = [
        f"Remove-MailboxPermission -Identity {address} -User $principal.Id{_NO_FULL_ACCESS}"
        for address in map(quoted, plan.addresses)
    ]
    if "SMTP" in plan.protocols:
        lines += [
            f"Remove-RecipientPermission -Identity {address} -Trustee $principal.Id{_SEND_AS}"
            for address in map(quoted, plan.addresses)
        ]
    return "\n".join(lines) + "\n"


def _for_account(plan: AccountPlan, verb: str, full_access: str = "", send_as: str = "") -> str:
    """Return one command per mailbox with the given options, and a second one if the account also sends."""
    lines, account = [], quoted(plan.account)
    for address in map(quoted, plan.addresses):
        lines.append(f"{verb}-MailboxPermission -Identity {address} -User {account}{full_access}")
        if plan.sends:
            lines.append(f"{verb}-RecipientPermission -Identity {address} -Trustee {account}{send_as}")
    return "\n".join(lines) + "\n"
