"""Capabilities of automations and the minimum permissions for them."""

import re
import uuid
from itertools import chain

import pytest

from connections.errors import InvalidInput
from connections.microsoft import capabilities, clouds, permissions, resources
from connections.microsoft.capabilities import APP_ONLY, CAPABILITIES, DELEGATED
from connections.microsoft.permissions import CATALOGUE, covered_by
from portal.sandbox import permissions as published


@pytest.mark.parametrize(
    ("keys", "scopes"),
    [
        (["mail.read"], ("openid", "offline_access", "Mail.Read")),
        (["mail.trigger"], ("openid", "offline_access", "Mail.Read")),
        (["shared_mailbox.trigger"], ("openid", "offline_access", "Mail.Read", "Mail.Read.Shared")),
        (["calendar.events"], ("openid", "offline_access", "Calendars.Read")),
        (["calendar.shared"], ("openid", "offline_access", "Calendars.Read.Shared")),
        ([], ("openid", "offline_access")),
    ],
)
def test_the_least_delegated_scopes(keys: list[str], scopes: tuple[str, ...]) -> None:
    assert capabilities.delegated_scopes(keys) == scopes


def test_the_least_application_roles() -> None:
    assert capabilities.application_roles(["mail.read"]) == ("Mail.Read",)
    assert capabilities.application_roles(["mail.read", "directory.profiles"]) == ("Mail.Read", "User.Read.All")
    assert capabilities.application_roles(["sites.read"]) == ("Sites.Read.All",)


def test_only_the_sign_in_adds_profile_and_a_warning_says_why() -> None:
    assert "profile" not in capabilities.delegated_scopes(["mail.read"])
    assert capabilities.sign_in_scopes(["mail.read"]) == ("openid", "offline_access", "profile", "Mail.Read")
    assert any("profile" in sentence for sentence in capabilities.warnings(["mail.read"], (), DELEGATED))


def test_extra_scopes_may_be_one_text() -> None:
    scopes = capabilities.delegated_scopes([], "mail.send Tasks.Read")
    assert scopes == ("openid", "offline_access", "Mail.Send", "Tasks.Read")


def test_every_capability_has_permissions_or_says_why_not() -> None:
    for capability in CAPABILITIES.values():
        assert bool(capability.delegated) != bool(capability.no_delegated), capability.key
        assert bool(capability.application) != bool(capability.no_application), capability.key
        assert capability.description.endswith(".")
        for sentence in (capability.no_delegated, capability.no_application, capability.note):
            assert not sentence or sentence.endswith(".")


def test_every_permission_a_capability_names_has_that_form_at_microsoft() -> None:
    for capability in CAPABILITIES.values():
        assert all(CATALOGUE[name].delegated_id for name in capability.delegated), capability.key
        unnumbered = {"exchange/SMTP.SendAsApp", f"{capability.resource}/.default"}
        assert all(CATALOGUE[name].application_id for name in {*capability.application} - unnumbered), capability.key


def test_ids_are_guids_and_none_is_used_twice() -> None:
    ids = [i for entry in CATALOGUE.values() for i in (entry.delegated_id, entry.application_id) if i]
    assert all(str(uuid.UUID(guid)) == guid for guid in ids)
    assert len(ids) == len(set(ids))


def test_our_ids_are_those_the_sandbox_knows_from_its_own_list() -> None:
    both = CATALOGUE.keys() & published.CATALOGUE.keys()
    assert len(both) > 25
    for name in both - {"exchange/SMTP.SendAsApp"}:
        ours, theirs = CATALOGUE[name], published.CATALOGUE[name]
        assert (ours.delegated_id, ours.application_id) == (theirs.delegated_id, theirs.application_id), name
        assert ours.admin_only == theirs.admin_only, name


def test_shared_permissions_are_delegated_only() -> None:
    shared = [entry for name, entry in CATALOGUE.items() if name.endswith(".Shared")]
    assert shared
    assert not any(entry.application_id for entry in shared)


def test_a_registration_for_both_types_declares_scopes_and_roles() -> None:
    declared = capabilities.permissions(["shared_mailbox.read"], [DELEGATED, APP_ONLY])
    assert {(permission.name, permission.type) for permission in declared} == {
        ("openid", "Scope"),
        ("offline_access", "Scope"),
        ("profile", "Scope"),
        ("Mail.Read.Shared", "Scope"),
        ("Mail.Read", "Role"),
    }
    ids = {permission.id for permission in declared if permission.name == "Mail.Read"}
    assert ids == {"810c84a8-4a9e-49e6-bf7d-12d183f40d01"}


@pytest.mark.parametrize(
    ("granted", "possible"),
    [
        (["Mail.Read"], True),
        (["mail.read"], True),
        (["Mail.ReadWrite"], True),
        (["Mail.ReadBasic"], False),
        (["Mail.Read.Shared"], False),
        (["Mail.Send"], False),
        ([], False),
    ],
)
def test_a_larger_permission_satisfies_a_smaller_one(granted: list[str], possible: bool) -> None:
    ((_, can, missing),) = capabilities.can(["mail.read"], granted, DELEGATED)
    assert can is possible
    assert missing == (() if possible else ("Mail.Read",))


def test_permissions_cover_over_several_steps() -> None:
    assert {"Files.Read", "Files.Read.All", "Sites.Read.All"} <= covered_by(frozenset({"Sites.FullControl.All"}))
    assert "Mail.Read" not in covered_by(frozenset({"Directory.ReadWrite.All"}))
    assert all(isinstance(smaller, list) for smaller in permissions._COVERS.values())


def test_app_only_can_never_have_a_delegated_only_capability() -> None:
    ((capability, can, missing),) = capabilities.can(["teams.messages_send"], ["ChannelMessage.Send"], APP_ONLY)
    assert (can, missing) == (False, ())
    assert "person" in capability.no_application


def test_missing_ignores_the_scopes_of_the_sign_in() -> None:
    wanted = capabilities.sign_in_scopes(["mail.read", "mail.send"])
    assert capabilities.missing(wanted, ["Mail.ReadWrite"]) == ("Mail.Send",)


def test_unknown_capabilities_are_ignored() -> None:
    assert capabilities.delegated_scopes(["fax.send"]) == ("openid", "offline_access")
    assert capabilities.can(["fax.send"], [], DELEGATED) == []


def test_every_capability_is_in_one_group_of_the_choices() -> None:
    groups = capabilities.choices_by_group()
    assert [name for name, _ in groups] == [
        *("Outlook", "OneDrive & SharePoint", "Teams", "Directory"),
        *("Exchange (IMAP, POP, SMTP)", "SharePoint REST", "Azure", "Power BI", "Dynamics 365"),
    ]
    assert [key for key, _ in chain.from_iterable(choices for _, choices in groups)] == list(CAPABILITIES)


@pytest.mark.parametrize(
    ("keys", "extra", "kind", "words"),
    [
        (["mail.read"], ["User.Read"], APP_ONLY, "User.Read needs a signed-in person"),
        (["mail.read"], [], APP_ONLY, ".default"),
        (["directory.me"], [], APP_ONLY, "needs a signed-in person"),
        ([], ["Mail.Read.Shared"], APP_ONLY, "for delegated connections only"),
        ([], ["Tasks.Read.Shared"], APP_ONLY, ".Shared are for delegated connections only"),
        ([], ["offline_access"], APP_ONLY, "offline_access applies to a person's sign-in only"),
        (["teams.messages_send"], [], APP_ONLY, "Use a delegated connection"),
        (["shared_mailbox.trigger"], [], DELEGATED, "has to poll"),
        ([], ["Mail.ReadBasic.All"], DELEGATED, "for app-only connections only"),
        (["directory.groups", "directory.profiles"], [], DELEGATED, "grant GroupMember.Read.All and User.Read.All"),
    ],
)
def test_the_form_warns_about_impossible_choices(keys: list[str], extra: list[str], kind: str, words: str) -> None:
    sentences = capabilities.warnings(keys, extra, kind)
    assert sum(words in sentence for sentence in sentences) == 1, sentences
    assert all(sentence.endswith(".") for sentence in sentences)


def test_polling_is_mentioned_for_shared_mailboxes_only() -> None:
    assert not any("poll" in sentence for sentence in capabilities.warnings(["mail.trigger"], [], DELEGATED))


@pytest.mark.parametrize(
    ("typed", "scopes"),
    [
        ("", ()),
        ("  \n ", ()),
        ("Mail.Read", ("Mail.Read",)),
        ("mail.read MAIL.SEND", ("Mail.Read", "Mail.Send")),
        ("Mail.Read, Mail.Send;\r\nMail.Read", ("Mail.Read", "Mail.Send")),
        ("https://graph.microsoft.com/Mail.Read", ("Mail.Read",)),
        ("HTTPS://Graph.Microsoft.us/mail.read", ("Mail.Read",)),
        ("00000003-0000-0000-c000-000000000000/Mail.Read", ("Mail.Read",)),
        ('"Mail.Read" ‘Mail.Send’', ("Mail.Read", "Mail.Send")),
        ("Mail.Read\u200bMail.Send\u00a0OpenID", ("Mail.Read", "Mail.Send", "openid")),
        ("https://outlook.office.com/imap.accessasuser.all", ("exchange/IMAP.AccessAsUser.All",)),
        ("https://outlook.office365.com/SMTP.Send", ("exchange/SMTP.Send",)),
        ("https://management.core.windows.net/user_impersonation", ("azure/user_impersonation",)),
        ("797f4846-ba00-4fd7-ba43-dac1f8f63013/user_impersonation", ("azure/user_impersonation",)),
        ("sharepoint/AllSites.FullControl", ("sharepoint/AllSites.FullControl",)),
        ("https://API.example.com/Things.Read", ("https://api.example.com/Things.Read",)),
        ("AuditLogsQuery-Exchange.Read.All", ("AuditLogsQuery-Exchange.Read.All",)),
    ],
)
def test_pasted_scopes_are_accepted_in_many_formats(typed: str, scopes: tuple[str, ...]) -> None:
    assert capabilities.parse_scopes(typed) == scopes


@pytest.mark.parametrize(
    "word",
    [
        "Mail",
        "Mail.",
        ".Read",
        "Mail..Read",
        ".default",
        "https://graph.microsoft.com/.default",
        "https://outlook.office.com/.default",
        "https://contoso.sharepoint.com/AllSites.Read",
        "http://api.example.com/Things.Read",
        "https://localhost/Things.Read",
        "fax/Things.Read",
        "https://graph.microsoft.com/v1.0/me/messages",
        "https://[/x",
        "Ｍail.Read",
        "Mail.Réad",
        "<script>alert(1)</script>",
        "a." + "b" * 200,
    ],
)
def test_a_word_that_is_no_scope_is_refused_by_name(word: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        capabilities.parse_scopes(f"Mail.Read {word}")
    assert word[:60] in str(refused.value)
    assert re.search(r"Mail\.Read", refused.value.action)


def test_the_sandboxs_graph_address_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "CLOUDS", dict(clouds.CLOUDS))
    monkeypatch.setattr(resources, "CLOUDS", clouds.CLOUDS)
    clouds.add_sandbox("http://127.0.0.1:9000")
    assert capabilities.parse_scopes("http://127.0.0.1:9000/Mail.Read") == ("Mail.Read",)


def test_hundreds_of_scopes_are_too_many() -> None:
    with pytest.raises(InvalidInput, match="61 scopes"):
        capabilities.parse_scopes(" ".join(f"Thing{number}.Read" for number in range(61)))
