"""Microsoft Graph's permissions as far as the portal offers them, as data.

Names, ids and the "an admin must grant it" mark of the delegated form: Microsoft Graph, permissions-reference.
Every application permission needs an admin. An empty id means that Microsoft has no such form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Delegated and application permissions in Microsoft's own words for an app registration's manifest.
SCOPE = "Scope"
ROLE = "Role"


@dataclass(frozen=True, slots=True)
class Permission:
    """One form of a permission; ``type`` is ``Scope`` (delegated) or ``Role`` (application)."""

    name: str
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One permission with both of its forms."""

    name: str
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # even the delegated form needs an admin


_ALL = (
    # The sign-in's own scopes
    Entry("openid", "37f7f235-527c-4136-accd-4a02d197296e"),
    Entry("offline_access", "7427e0e9-2fba-42fe-b0c0-848c9e6a8182"),
    Entry("profile", "14dad69e-099b-42c9-810b-d002981feec1"),
    Entry("email", "64a6cdd6-aab1-4aaf-94b8-3cc8405e90d0"),
    # Outlook
    Entry("Mail.ReadBasic", "a4b8392a-d8d1-4954-a029-8e668a39a170", "6be147d2-ea4f-4b5a-a3fa-3eab6f3c140a"),
    Entry("Mail.ReadBasic.All", "", "693c5e45-0940-467d-9b8a-1022fb9d42ef"),
    Entry("Mail.Read", "570282fd-fa5c-430d-a7fd-fc8dc98a9dca", "810c84a8-4a9e-49e6-bf7d-12d183f40d01"),
    Entry("Mail.ReadWrite", "024d486e-b451-40bb-833d-3e66d98c5c73", "e2a3a72e-5f79-4c64-b1b1-878b674786c9"),
    Entry("Mail.Send", "e383f46e-2787-4529-855e-0e479a3ffac0", "b633e1c5-b582-4048-a93e-9f11b44c7e96"),
    Entry("Mail.ReadBasic.Shared", "b11fa0e7-fdb7-4dc9-b1f1-59facd463480"),
    Entry("Mail.Read.Shared", "7b9103a5-4610-446b-9670-80643382c1fa"),
    Entry("Mail.ReadWrite.Shared", "5df07973-7d5d-46ed-9847-1271055cbd51"),
    Entry("Mail.Send.Shared", "a367ab51-6b49-43bf-a716-a1fb06d2a174"),
    Entry("MailboxSettings.Read", "87f447af-9fa4-4c32-9dfa-4a57a73d18ce", "40f97065-369a-49f4-947c-6a255697ae91"),
    Entry("MailboxSettings.ReadWrite", "818c620a-27a9-40bd-a6a5-d96f7d610b4b", "6931bccd-447a-43d1-b442-00a195474933"),
    Entry("Calendars.Read", "465a38f9-76ea-45b9-9f34-9e8b0d4b0b42", "798ee544-9d2d-430c-a058-570e29e34338"),
    Entry("Calendars.ReadWrite", "1ec239c2-d7c9-4623-a91a-a9775856bb36", "ef54d2bf-783f-4e0f-bca1-3210c0444d99"),
    Entry("Calendars.Read.Shared", "2b9c4092-424d-4249-948d-b43879977640"),
    Entry("Calendars.ReadWrite.Shared", "12466101-c9b8-439a-8589-dd09ee67e8e9"),
    Entry("Contacts.Read", "ff74d97f-43af-4b68-9f2a-b77ee6968c5d", "089fe4d0-434a-44c5-8827-41ba8a0b17f5"),
    # OneDrive and SharePoint
    Entry("Files.Read", "10465720-29dd-4523-a11a-6a75c743c9d9"),
    Entry("Files.ReadWrite", "5c28f0bf-8a70-41f1-8ab2-9032436ddb65"),
    Entry("Files.Read.All", "df85f4d6-205c-4ac5-a5ea-6bf408dba283", "01d4889c-1287-42c6-ac1f-5d1e02578ef6"),
    Entry("Files.ReadWrite.All", "863451e7-0667-486c-a5d6-d135439485f0", "75359482-378d-4052-8f01-80520e7db3cd"),
    Entry("Sites.Read.All", "205e70e5-aba6-4c52-a976-6d2d46c48043", "332a536c-c7ef-4017-ab91-336970924f0d"),
    Entry("Sites.ReadWrite.All", "89fe6a52-be36-487e-b7d8-d061c450a026", "9492366f-7969-46a4-8d15-ed1a20078fff"),
    # Teams
    Entry("Team.ReadBasic.All", "485be79e-c497-4b35-9400-0e3fa7f2a5d4", "2280dda6-0bfd-44ee-a2f4-cb867cfc4c1e"),
    Entry("Channel.ReadBasic.All", "9d8982ae-4365-4f57-95e9-d6032a4c0b87", "59a6b24b-4225-4393-8165-ebaec5f55d7a"),
    Entry(
        "ChannelMessage.Read.All",
        "767156cb-16ae-4d10-8f8b-41b657c8c8c8",
        "7b2449af-6ccd-4f4d-9f78-e550c193f0d1",
        admin_only=True,
    ),
    Entry("ChannelMessage.Send", "ebf0f66e-9fb1-49e4-a278-222f76911cf4"),
    Entry("Chat.Read", "f501c180-9344-439a-bca0-6cbf209fd270"),
    Entry("Chat.ReadWrite", "9ff7295e-131b-4d94-90e1-69fde507ac11"),
    Entry("Chat.Read.All", "", "6b7d71aa-70aa-4810-a8d9-5d9fb2830017"),
    Entry("ChatMessage.Send", "116b7235-7cc6-461e-b163-8e55691d839e"),
    # Directory
    Entry("User.Read", "e1fe6dd8-ba31-4d61-89e7-88639da4683d"),
    Entry("User.ReadBasic.All", "b340eb25-3456-403f-be2f-af7a0d370277", "97235f07-e226-4f63-ace3-39588e11d3a1"),
    Entry(
        "User.Read.All",
        "a154be20-db9c-4678-8ab7-66f6cc099a59",
        "df021288-bdef-4463-88db-98f22de89214",
        admin_only=True,
    ),
    Entry(
        "GroupMember.Read.All",
        "bc024368-1153-4739-b217-4326f2e966d0",
        "98830695-27a2-44f7-8c18-0c3ebc9698f6",
        admin_only=True,
    ),
    Entry(
        "Group.Read.All",
        "5f8c59db-677d-491f-a6b8-5f174b11ec1d",
        "5b567255-7703-4780-807c-7be8301ae99b",
        admin_only=True,
    ),
    Entry(
        "Directory.Read.All",
        "06da0dbc-49e2-44d2-8312-53f166ab848a",
        "7ab1d382-f21e-4acd-a863-ba3e13f7da61",
        admin_only=True,
    ),
    Entry(
        "Organization.Read.All",
        "4908d5b9-3fb2-4b1e-9336-1888b7937185",
        "498476ce-e0fe-48b0-b801-37ba7e2685c6",
        admin_only=True,
    ),
    Entry(
        "Application.Read.All",
        "c79f8feb-a9db-4090-85f9-90d820caa0eb",
        "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
        admin_only=True,
    ),
)
CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ALL}
_SPELLING = {name.lower(): name for name in CATALOGUE}

# What a larger permission also allows, one step; covered() follows the steps. Only pairs that Microsoft's
# reference pages name as "higher privileged" are here. A .Shared permission is not listed as covering the plain
# one: those pages do not name it for calls to a person's own mailbox.
_COVERS: dict[str, tuple[str, ...]] = {
    "Mail.Read": ("Mail.ReadBasic", "Mail.ReadBasic.All"),
    "Mail.ReadWrite": ("Mail.Read",),
    "Mail.Read.Shared": ("Mail.ReadBasic.Shared",),
    "Mail.ReadWrite.Shared": ("Mail.Read.Shared",),
    "MailboxSettings.ReadWrite": ("MailboxSettings.Read",),
    "Calendars.ReadWrite": ("Calendars.Read",),
    "Calendars.ReadWrite.Shared": ("Calendars.Read.Shared",),
    "Contacts.ReadWrite": ("Contacts.Read",),
    "Files.ReadWrite": ("Files.Read",),
    "Files.Read.All": ("Files.Read",),
    "Files.ReadWrite.All": ("Files.ReadWrite", "Files.Read.All"),
    "Sites.Read.All": ("Files.Read.All",),
    "Sites.ReadWrite.All": ("Sites.Read.All", "Files.ReadWrite.All"),
    "Sites.Manage.All": ("Sites.ReadWrite.All",),
    "Sites.FullControl.All": ("Sites.Manage.All",),
    "Chat.ReadWrite": ("Chat.Read", "ChatMessage.Send"),
    "Chat.ReadWrite.All": ("Chat.Read.All",),
    "User.Read.All": ("User.Read", "User.ReadBasic.All"),
    "User.ReadWrite": ("User.Read",),
    "User.ReadWrite.All": ("User.Read.All", "User.ReadWrite"),
    "Group.Read.All": ("GroupMember.Read.All",),
    "Group.ReadWrite.All": ("Group.Read.All",),
    "Directory.Read.All": ("User.Read.All", "Group.Read.All", "Organization.Read.All", "Application.Read.All"),
    "Directory.ReadWrite.All": ("Directory.Read.All",),
    "Application.ReadWrite.All": ("Application.Read.All",),
}
_SPELLING |= {name.lower(): name for name in _COVERS}


def spelling(name: str) -> str:
    """The name as Microsoft spells it; unchanged if the portal does not know it. Entra ignores case."""
    return _SPELLING.get(name.lower(), name)


def covered_by(granted: frozenset[str]) -> frozenset[str]:
    """The granted permissions and all smaller ones they contain, in Microsoft's spelling."""
    found: set[str] = set()
    waiting = [spelling(name) for name in granted]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_COVERS.get(name, ()))
    return frozenset(found)


_VERBS = {
    "Read": "read",
    "ReadBasic": "read the basic facts",
    "ReadWrite": "read and change",
    "Send": "send",
    "Manage": "manage",
    "FullControl": "control fully",
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def describe(name: str, *, app_only: bool) -> str:
    """What a permission allows, as far as its name says: "Contacts.Read" → "contacts: read"."""
    subject, _, rest = name.partition(".")
    verb, *limits = rest.split(".")
    said = f"{_split(subject)}: {_VERBS.get(verb, _split(verb))}"
    if app_only:
        return f"{said}, in the whole organisation"
    if "All" in limits:
        return f"{said}, wherever the account may"
    return f"{said}, also what others share with the account" if "Shared" in limits else said


def _split(words: str) -> str:
    return _CAMEL.sub(" ", words).replace("-", " ").lower()
