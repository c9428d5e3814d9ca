"""The PowerShell script for Exchange Online: its text, and that no value can escape its quotation marks.

PowerShell is not available here, so a small tokenizer reads the script by PowerShell's quoting rules.
"""

import re
from dataclasses import dataclass, replace

import pytest

from connections.microsoft import exchange_script
from connections.microsoft.exchange_script import AccountPlan, ApplicationPlan, quoted, roles_for, script, steps

TID = "11111111-2222-4333-8444-555555555555"
CLIENT_ID = "20b0750a-22b6-4c1e-9f4d-6e3c8d7f2b02"
SUPPORT, SALES = "support@contoso.example", "sales@contoso.example"
ROBOT = ApplicationPlan(
    environment="global",
    tid=TID,
    connection_name="Nightly robot",
    key="20b0750a-12",
    addresses=(SUPPORT, SALES),
    client_id=CLIENT_ID,
    app_name="Contoso Robots",
    roles=("Mail.Read",),
)
ADA = AccountPlan(
    environment="global",
    tid=TID,
    connection_name="Support mail",
    key="20b0750a-13",
    addresses=(SUPPORT,),
    account="ada@contoso.example",
    sends=True,
)
NASTY = [
    "O'Brien & Sons",
    "’; Remove-Mailbox * #",
    '‘x’ ‚y‛ "z" “q”',
    "$(Remove-Mailbox *) `n ${env:PATH} @{} #> <# |; { } ( )",
    "two\nlines\r\n\x85and\u2028more\u2029\x00",
    "ünïcode ☎ \u202e right to left",
    "''''",
    "",
]


@dataclass(frozen=True)
class Token:
    """``kind`` is word, string, mark or end (of a line); ``text`` is the value without quotation marks."""

    kind: str
    text: str


QUOTES = "'\u2018\u2019\u201a\u201b"  # each of them can open and close a single-quoted string
DOUBLE_QUOTES = '"\u201c\u201d\u201e'
MARKS = "{}()@|;,=&"


def tokens(text: str) -> list[Token]:
    """Return the script's tokens without comments; fail on an unclosed string or syntax the portal does not use."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char in QUOTES:
            value, at = _string(text, at + 1)
            tokens.append(Token("string", value))
        elif char == "#":
            at = min((end for end in (text.find("\n", at), text.find("\r", at)) if end >= 0), default=len(text))
        elif char in "\r\n":
            tokens.append(Token("end", ""))
            at += 1
        elif char in MARKS:
            tokens.append(Token("mark", char))
            at += 1
        elif char.isspace():
            at += 1
        else:
            assert char not in DOUBLE_QUOTES + "`<>", f"{char!r} at …{text[max(0, at - 40) : at + 40]!r}"
            word = re.compile(r"[^\s'\u2018\u2019\u201a\u201b\"{}()@|;,=&#]+").match(text, at)
            assert word is not None, text[at : at + 40]
            tokens.append(Token("word", word.group()))
            at = word.end()
    return tokens


def _string(text: str, at: int) -> tuple[str, int]:
    value = ""
    while True:
        assert at < len(text), "a string is never closed"
        if text[at] in QUOTES:
            if at + 1 < len(text) and text[at + 1] in QUOTES:
                value, at = value + text[at], at + 2
                continue
            return value, at + 1
        assert text[at] not in "\r\n", "a string runs over the end of its line"
        value, at = value + text[at], at + 1


def strings(text: str) -> list[str]:
    return [token.text for token in tokens(text) if token.kind == "string"]


def skeleton(text: str) -> list[str]:
    """Return everything but the contents of strings: what PowerShell would run, whatever the strings contain."""
    return ["…" if token.kind == "string" else token.text for token in tokens(text)]


def commands(text: str) -> set[str]:
    return set(re.findall(r"\b[A-Z][a-z]+-[A-Z][A-Za-z]+", " ".join(skeleton(text))))


def whole(plan: ApplicationPlan | AccountPlan) -> str:
    return "\n".join(step.commands for step in steps(plan))


@pytest.mark.parametrize("text", NASTY)
def test_a_quoted_text_is_one_string_with_the_same_meaning(text: str) -> None:
    (token,) = tokens(quoted(text))
    assert (token.kind, token.text) == ("string", exchange_script.one_line(text))


@pytest.mark.parametrize("text", NASTY)
def test_no_name_or_address_changes_what_is_run(text: str) -> None:
    robot = replace(ROBOT, app_name=text, connection_name=text, addresses=(f"{text}@contoso.example", SALES))
    account = replace(ADA, account=text, connection_name=text, addresses=(f"{text}@contoso.example",))
    for nasty, plain in ((robot, ROBOT), (account, ADA)):
        for step in steps(plain):
            assert skeleton(script(nasty, step.key)) == skeleton(script(plain, step.key)), step.key
        balanced(whole(nasty))


def balanced(text: str) -> None:
    pairs, stack = {"}": "{", ")": "("}, []
    for token in tokens(text):
        if token.kind == "mark" and token.text in "{(":
            stack.append(token.text)
        elif token.kind == "mark" and token.text in pairs:
            assert stack
            assert stack.pop() == pairs[token.text]
    assert stack == []


def test_the_tokenizer_detects_text_outside_of_its_quotes() -> None:
    for wrong in ("'open", "'a\nb'", "x ’y’; z ‘", '"$(x)"'):
        with pytest.raises(AssertionError):
            assert skeleton(wrong) == ["…"]
    assert strings("'a''b' # 'c'\n'd’‘e'") == ["a'b", "d’e"]


@pytest.mark.parametrize("address", ["o'brien@contoso.example", "''@contoso.example"])
def test_the_filter_contains_the_address_with_its_quotes_escaped(address: str) -> None:
    texts = strings(whole(replace(ROBOT, addresses=(address,))))
    (condition,) = [text for text in texts if text.startswith("PrimarySmtpAddress") and "-eq" in text]
    value = re.fullmatch(r"PrimarySmtpAddress -eq '((?:[^']|'')*)'", condition)
    assert value is not None
    assert value.group(1).replace("''", "'") == address


GRANT = """\
& {
    if ($clientId -ne '20b0750a-22b6-4c1e-9f4d-6e3c8d7f2b02' -or -not $principal) { throw 'Run the first step first.' }
    $addresses = @(
        'support@contoso.example'
        'sales@contoso.example'
    )
    # Stops here, before any change, if one of them is not the primary address of a mailbox.
    foreach ($address in $addresses) {
        $mailbox = Get-EXOMailbox -Identity $address -ErrorAction Stop
        if ($mailbox.PrimarySmtpAddress -ne $address) {
            throw ('{0} is not the primary address of its mailbox. Use {1}.' -f $address, $mailbox.PrimarySmtpAddress)
        }
    }

    # Add the application to Exchange.
    if (-not (Get-ServicePrincipal | Where-Object AppId -eq $clientId)) {
        New-ServicePrincipal -AppId $clientId -ObjectId $principal.Id -DisplayName 'Contoso Robots' -ErrorAction Stop
    }

    # Limit access to these mailboxes.
    $scope = 'Portal 20b0750a-12 mailboxes 1'
    $filter = 'PrimarySmtpAddress -eq ''support@contoso.example'' -or PrimarySmtpAddress -eq ''sales@contoso.example'''
    if (Get-ManagementScope | Where-Object Name -eq $scope) {
        Set-ManagementScope -Identity $scope -RecipientRestrictionFilter $filter -ErrorAction Stop
    } else {
        New-ManagementScope -Name $scope -RecipientRestrictionFilter $filter -ErrorAction Stop
    }

    $assignment = 'Portal 20b0750a-12 Mail.Read 1'
    if (-not (Get-ManagementRoleAssignment | Where-Object Name -eq $assignment)) {
        New-ManagementRoleAssignment -Name $assignment -App $principal.Id -Role 'Application Mail.Read' \
-CustomResourceScope 'Portal 20b0750a-12 mailboxes 1' -ErrorAction Stop
    }

    # Remove access that this connection no longer needs.
    $keep = @('Portal 20b0750a-12 mailboxes 1', 'Portal 20b0750a-12 Mail.Read 1')
    Get-ManagementRoleAssignment | Where-Object { $_.Name -like 'Portal 20b0750a-12 *' -and $_.Name -notin $keep } | \
Remove-ManagementRoleAssignment -Confirm:$false -ErrorAction Stop
    Get-ManagementScope | Where-Object { $_.Name -like 'Portal 20b0750a-12 *' -and $_.Name -notin $keep } | \
Remove-ManagementScope -Confirm:$false -ErrorAction Stop
}
"""


def test_the_grant_names_exactly_these_mailboxes_and_roles() -> None:
    assert {step.key: step.commands for step in steps(ROBOT)}["grant"] == GRANT


def test_the_steps_run_only_commands_of_microsofts_modules() -> None:
    assert [step.key for step in steps(ROBOT)] == ["connect", "grant", "check", "narrow", "undo"]
    assert commands(whole(ROBOT)) == {
        "Connect-ExchangeOnline", "Get-ConnectionInformation", "Get-EXOMailbox", "Get-ServicePrincipal",
        "New-ServicePrincipal", "Remove-ServicePrincipal", "Get-ManagementScope", "New-ManagementScope",
        "Set-ManagementScope", "Remove-ManagementScope", "Get-ManagementRoleAssignment",
        "New-ManagementRoleAssignment", "Remove-ManagementRoleAssignment", "Test-ServicePrincipalAuthorization",
        "Connect-MgGraph", "Get-MgServicePrincipal", "Get-MgServicePrincipalAppRoleAssignment",
        "Remove-MgServicePrincipalAppRoleAssignment", "Where-Object", "Format-Table", "Read-Host",
    }  # fmt: skip
    balanced(whole(ROBOT))


def test_each_step_but_the_first_is_one_block_that_an_error_stops() -> None:
    for step in steps(ROBOT):
        text = skeleton(step.commands)
        assert text[:2] == (["." if step.key == "connect" else "&", "{"])
        assert [word for word in text if word][-1] == "}"


def test_it_stops_in_another_organisation_or_for_another_application() -> None:
    by_key = {step.key: step.commands for step in steps(ROBOT)}
    assert f"TenantID -notcontains '{TID}'" in by_key["connect"]
    assert "TenantID" not in whole(replace(ROBOT, tid=""))
    for key in ("grant", "check", "narrow", "undo"):
        assert f"if ($clientId -ne '{CLIENT_ID}'" in by_key[key]


@pytest.mark.parametrize(
    ("environment", "exchange", "graph"),
    [
        ("global", "", ""),
        ("usgov_l4", "O365USGovGCCHigh", "USGov"),
        ("usgov_l5", "O365USGovDoD", "USGovDoD"),
        ("china", "O365China", "China"),
    ],
)
def test_each_cloud_has_its_own_environment_names(environment: str, exchange: str, graph: str) -> None:
    text = whole(replace(ROBOT, environment=environment))
    assert re.findall(r"-ExchangeEnvironmentName (\w+)", text) == ([exchange] if exchange else [])
    assert re.findall(r"-Environment (\w+)", text) == ([graph] * 2 if graph else [])


def test_many_mailboxes_are_split_into_scopes_whose_names_fit() -> None:
    addresses = tuple(f"box{number}@contoso.example" for number in range(45))
    plan = replace(ROBOT, addresses=addresses, roles=exchange_script.EXCHANGE_ROLES, key="20b0750a-1234567890")
    texts = strings(whole(plan))
    named = " ".join(text for text in texts if text.startswith("PrimarySmtpAddress"))
    assert all(named.count(f"'{address}'") == 1 for address in addresses)
    names = [text for text in texts if text.startswith("Portal 20b0750a-1234567890 ") and not text.endswith("*")]
    assert len({name for name in names if " mailboxes " in name}) == 3
    assert max(len(name) for name in names) <= 64
    assert whole(plan).count("New-ManagementRoleAssignment -Name") == 3 * len(plan.roles)


def test_objects_of_another_connection_are_never_matched() -> None:
    prefix = "Portal 20b0750a-1 "
    assert prefix + "*" in strings(whole(replace(ROBOT, key="20b0750a-1")))
    names = [text for text in strings(whole(ROBOT)) if text.startswith("Portal")]
    assert names
    assert not any(name.startswith(prefix) for name in names)


def test_undo_removes_the_connections_objects_and_an_unused_application() -> None:
    undo = {step.key: step.commands for step in steps(ROBOT)}["undo"]
    assert "New-" not in undo
    for command in ("Remove-ManagementRoleAssignment", "Remove-ManagementScope", "Remove-ServicePrincipal"):
        assert command in undo
    assert "-not (Get-ManagementRoleAssignment -RoleAssignee $pointer.Identity)" in undo


def test_a_file_names_the_connection_and_connects_by_itself() -> None:
    text = script(replace(ROBOT, connection_name="Robot\n'; Remove-Mailbox"), "undo")
    assert text.splitlines()[1] == "# Generated by the connection portal for the connection Robot '; Remove-Mailbox."
    assert text.index("Connect-ExchangeOnline") < text.index("Remove-ManagementScope")
    assert script(ROBOT, "connect").count("Connect-ExchangeOnline") == 1
    with pytest.raises(KeyError):
        script(ROBOT, "nonsense")


def test_an_account_gets_full_access_and_send_as_and_undo_removes_them() -> None:
    by_key = {step.key: step.commands for step in steps(ADA)}
    assert list(by_key) == ["connect", "grant", "check", "undo"]
    assert by_key["grant"] == (
        "& {\n"
        "    Add-MailboxPermission -Identity 'support@contoso.example' -User 'ada@contoso.example' "
        "-AccessRights FullAccess -InheritanceType All -AutoMapping $false -ErrorAction Stop\n"
        "    Add-RecipientPermission -Identity 'support@contoso.example' -Trustee 'ada@contoso.example' "
        "-AccessRights SendAs -Confirm:$false -ErrorAction Stop\n"
        "}\n"
    )
    assert {"Remove-MailboxPermission", "Remove-RecipientPermission"} <= commands(by_key["undo"])
    assert "SendAs" not in whole(replace(ADA, sends=False))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("Mail.Read", "User.Read.All"), ("Mail.Read",)),
        (("Mail.ReadWrite", "Mail.Read", "Mail.Send"), ("Mail.ReadWrite", "Mail.Send")),
        (("Mail.ReadBasic.All",), ("Mail.ReadBasic",)),
        (("Calendars.ReadWrite", "MailboxSettings.Read"), ("MailboxSettings.Read", "Calendars.ReadWrite")),
        (("Files.Read.All", "Sites.Read.All"), ()),
    ],
)
def test_the_least_roles_of_exchange(wanted: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert roles_for(wanted) == expected


def test_it_recognises_permissions_that_open_every_mailbox() -> None:
    granted = ("Mail.Read", "User.Read.All", "Calendars.ReadBasic.All", "MailboxSettings.Read", "Files.Read.All")
    assert exchange_script.tenant_wide(granted) == ("Calendars.ReadBasic.All", "Mail.Read", "MailboxSettings.Read")


def test_imap_and_smtp_open_each_mailbox_for_the_application() -> None:
    plan = replace(ROBOT, roles=(), protocols=exchange_script.protocols_for(["exchange/SMTP.SendAsApp"]))
    by_key = {step.key: step.commands for step in exchange_script.steps(plan)}
    assert list(by_key) == ["connect", "grant", "check", "undo"], "nothing was granted for the whole organisation"
    assert "New-ServicePrincipal -AppId $clientId -ObjectId $principal.Id" in by_key["grant"]
    assert "Add-MailboxPermission -Identity $address -User $principal.Id -AccessRights FullAccess" in by_key["grant"]
    assert "Set-CASMailbox -Identity $address -SmtpClientAuthenticationDisabled $false" in by_key["grant"]
    assert "New-ManagementScope" not in by_key["grant"]
    assert f"Remove-MailboxPermission -Identity '{SUPPORT}' -User $principal.Id" in by_key["undo"]


def test_imap_alone_does_not_turn_on_smtp() -> None:
    plan = replace(ROBOT, protocols=exchange_script.protocols_for(["exchange/IMAP.AccessAsApp"]))
    grant = exchange_script.script(plan, "grant")
    assert "Add-MailboxPermission" in grant
    assert "New-ManagementScope" in grant
    assert "SmtpClientAuthenticationDisabled" not in grant
