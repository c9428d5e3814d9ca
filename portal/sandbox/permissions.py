"""The Microsoft Graph permissions the sandbox knows, and how scope strings name them.

Ids and the "needs an admin" marks of the delegated form come from Microsoft's published permission list
(graph: permissions-reference). Every application permission needs an admin.
"""

from dataclasses import dataclass

GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"
GRAPH = "https://graph.microsoft.com"
OIDC_SCOPES = ("openid", "profile", "email", "offline_access")


@dataclass(frozen=True)
class Permission:
    """One permission; an empty id means that this form of it does not exist."""

    name: str
    title: str  # shown on the consent page
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # the delegated form needs an admin


_ALL = [
    Permission("openid", "Sign you in", "37f7f235-527c-4136-accd-4a02d197296e"),
    Permission("profile", "View your basic profile", "14dad69e-099b-42c9-810b-d002981feec1"),
    Permission("email", "View your email address", "64a6cdd6-aab1-4aaf-94b8-3cc8405e90d0"),
    Permission(
        "offline_access",
        "Maintain access to data you have given it access to",
        "7427e0e9-2fba-42fe-b0c0-848c9e6a8182",
    ),
    Permission("User.Read", "Sign you in and read your profile", "e1fe6dd8-ba31-4d61-89e7-88639da4683d"),
    Permission(
        "User.ReadBasic.All",
        "Read all users' basic profiles",
        "b340eb25-3456-403f-be2f-af7a0d370277",
        "97235f07-e226-4f63-ace3-39588e11d3a1",
    ),
    Permission(
        "User.Read.All",
        "Read all users' full profiles",
        "a154be20-db9c-4678-8ab7-66f6cc099a59",
        "df021288-bdef-4463-88db-98f22de89214",
        admin_only=True,
    ),
    Permission(
        "Mail.Read",
        "Read mail",
        "570282fd-fa5c-430d-a7fd-fc8dc98a9dca",
        "810c84a8-4a9e-49e6-bf7d-12d183f40d01",
    ),
    Permission(
        "Mail.ReadBasic",
        "Read basic mail",
        "a4b8392a-d8d1-4954-a029-8e668a39a170",
        "6be147d2-ea4f-4b5a-a3fa-3eab6f3c140a",
    ),
    Permission("Mail.ReadBasic.All", "Read basic mail in all mailboxes", "", "693c5e45-0940-467d-9b8a-1022fb9d42ef"),
    Permission(
        "Mail.ReadWrite",
        "Read and write access to mail",
        "024d486e-b451-40bb-833d-3e66d98c5c73",
        "e2a3a72e-5f79-4c64-b1b1-878b674786c9",
    ),
    Permission(
        "Mail.Send",
        "Send mail",
        "e383f46e-2787-4529-855e-0e479a3ffac0",
        "b633e1c5-b582-4048-a93e-9f11b44c7e96",
    ),
    Permission("Mail.Read.Shared", "Read mail you can access", "7b9103a5-4610-446b-9670-80643382c1fa"),
    Permission("Mail.ReadBasic.Shared", "Read basic mail you can access", "b11fa0e7-fdb7-4dc9-b1f1-59facd463480"),
    Permission(
        "Mail.ReadWrite.Shared",
        "Read and write mail you can access",
        "5df07973-7d5d-46ed-9847-1271055cbd51",
    ),
    Permission("Mail.Send.Shared", "Send mail on behalf of others", "a367ab51-6b49-43bf-a716-a1fb06d2a174"),
    Permission(
        "MailboxSettings.Read",
        "Read mailbox settings",
        "87f447af-9fa4-4c32-9dfa-4a57a73d18ce",
        "40f97065-369a-49f4-947c-6a255697ae91",
    ),
    Permission(
        "MailboxSettings.ReadWrite",
        "Read and write mailbox settings",
        "818c620a-27a9-40bd-a6a5-d96f7d610b4b",
        "6931bccd-447a-43d1-b442-00a195474933",
    ),
    Permission(
        "Calendars.Read",
        "Read calendars",
        "465a38f9-76ea-45b9-9f34-9e8b0d4b0b42",
        "798ee544-9d2d-430c-a058-570e29e34338",
    ),
    Permission(
        "Calendars.ReadWrite",
        "Have full access to calendars",
        "1ec239c2-d7c9-4623-a91a-a9775856bb36",
        "ef54d2bf-783f-4e0f-bca1-3210c0444d99",
    ),
    Permission("Calendars.Read.Shared", "Read calendars you can access", "2b9c4092-424d-4249-948d-b43879977640"),
    Permission(
        "Calendars.ReadWrite.Shared",
        "Read and write to your and shared calendars",
        "12466101-c9b8-439a-8589-dd09ee67e8e9",
    ),
    Permission(
        "Contacts.Read",
        "Read contacts",
        "ff74d97f-43af-4b68-9f2a-b77ee6968c5d",
        "089fe4d0-434a-44c5-8827-41ba8a0b17f5",
    ),
    Permission(
        "Files.Read",
        "Read your files",
        "10465720-29dd-4523-a11a-6a75c743c9d9",
    ),
    Permission(
        "Files.Read.All",
        "Read all files that you have access to",
        "df85f4d6-205c-4ac5-a5ea-6bf408dba283",
        "01d4889c-1287-42c6-ac1f-5d1e02578ef6",
    ),
    Permission("Files.ReadWrite", "Have full access to your files", "5c28f0bf-8a70-41f1-8ab2-9032436ddb65"),
    Permission(
        "Files.ReadWrite.All",
        "Have full access to all files you have access to",
        "863451e7-0667-486c-a5d6-d135439485f0",
        "75359482-378d-4052-8f01-80520e7db3cd",
    ),
    Permission(
        "Sites.Read.All",
        "Read items in all site collections",
        "205e70e5-aba6-4c52-a976-6d2d46c48043",
        "332a536c-c7ef-4017-ab91-336970924f0d",
    ),
    Permission(
        "Sites.ReadWrite.All",
        "Edit or delete items in all site collections",
        "89fe6a52-be36-487e-b7d8-d061c450a026",
        "9492366f-7969-46a4-8d15-ed1a20078fff",
    ),
    Permission(
        "Team.ReadBasic.All",
        "Read the names and descriptions of teams",
        "485be79e-c497-4b35-9400-0e3fa7f2a5d4",
        "2280dda6-0bfd-44ee-a2f4-cb867cfc4c1e",
    ),
    Permission(
        "Channel.ReadBasic.All",
        "Read the names and descriptions of channels",
        "9d8982ae-4365-4f57-95e9-d6032a4c0b87",
        "59a6b24b-4225-4393-8165-ebaec5f55d7a",
    ),
    Permission(
        "ChannelMessage.Read.All",
        "Read your channel messages",
        "767156cb-16ae-4d10-8f8b-41b657c8c8c8",
        "7b2449af-6ccd-4f4d-9f78-e550c193f0d1",
        admin_only=True,
    ),
    Permission("ChannelMessage.Send", "Send channel messages", "ebf0f66e-9fb1-49e4-a278-222f76911cf4"),
    Permission("Chat.Read", "Read your chat messages", "f501c180-9344-439a-bca0-6cbf209fd270"),
    Permission("Chat.ReadWrite", "Read and write your chat messages", "9ff7295e-131b-4d94-90e1-69fde507ac11"),
    Permission("Chat.Read.All", "Read all chat messages", "", "6b7d71aa-70aa-4810-a8d9-5d9fb2830017"),
    Permission("ChatMessage.Send", "Send chat messages", "116b7235-7cc6-461e-b163-8e55691d839e"),
    Permission(
        "Group.Read.All",
        "Read all groups",
        "5f8c59db-677d-491f-a6b8-5f174b11ec1d",
        "5b567255-7703-4780-807c-7be8301ae99b",
        admin_only=True,
    ),
    Permission(
        "GroupMember.Read.All",
        "Read group memberships",
        "bc024368-1153-4739-b217-4326f2e966d0",
        "98830695-27a2-44f7-8c18-0c3ebc9698f6",
        admin_only=True,
    ),
    Permission(
        "Organization.Read.All",
        "Read organization information",
        "4908d5b9-3fb2-4b1e-9336-1888b7937185",
        "498476ce-e0fe-48b0-b801-37ba7e2685c6",
        admin_only=True,
    ),
    Permission(
        "Application.Read.All",
        "Read applications",
        "c79f8feb-a9db-4090-85f9-90d820caa0eb",
        "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
        admin_only=True,
    ),
    Permission(
        "Directory.Read.All",
        "Read directory data",
        "06da0dbc-49e2-44d2-8312-53f166ab848a",
        "7ab1d382-f21e-4acd-a863-ba3e13f7da61",
        admin_only=True,
    ),
    Permission(
        "User.RevokeSessions.All",
        "Revoke all sign in sessions for a user",
        "fc30e98b-8810-4501-81f5-c20a3196387b",
        "77f3a031-c388-4f99-b373-dc68676a979e",
        admin_only=True,
    ),
]
CATALOGUE = {permission.name: permission for permission in _ALL}
_BY_LOWER = {name.lower(): name for name in CATALOGUE}


@dataclass(frozen=True)
class RequestedScopes:
    """A parsed scope parameter."""

    oidc: tuple[str, ...]  # the requested ones of openid, profile, email, offline_access
    graph: tuple[str, ...]  # canonical permission names
    default: bool  # {resource}/.default was requested
    unknown: tuple[str, ...]  # words that name no permission
    resources: tuple[str, ...]  # resources other than Graph
    prefix: str  # how the caller wrote Graph, with the final slash

    @property
    def names(self) -> list[str]:
        """All requested known names, OIDC scopes first."""
        return [*self.oidc, *self.graph]


def parse(scope: str, own_url: str) -> RequestedScopes:
    """Parse a scope parameter; Graph may be written as ``https://graph.microsoft.com/``, ``own_url/`` or not at all.

    Names are case-insensitive, as at Entra (identity-platform/scopes-oidc).
    """
    oidc: list[str] = []
    graph: list[str] = []
    unknown: list[str] = []
    resources: list[str] = []
    default = False
    prefix = ""
    for word in scope.split():
        resource, _, name = word.rpartition("/")
        if resource and resource not in (GRAPH, own_url, GRAPH_APP_ID):
            resources.append(resource)
            continue
        prefix = prefix or (f"{resource}/" if resource else "")
        if name == ".default":
            default = True
        elif name in OIDC_SCOPES:
            oidc.append(name)
        elif name.lower() in _BY_LOWER and CATALOGUE[_BY_LOWER[name.lower()]].delegated_id:
            graph.append(_BY_LOWER[name.lower()])
        else:
            unknown.append(name)
    return RequestedScopes(
        oidc=tuple(dict.fromkeys(oidc)),
        graph=tuple(dict.fromkeys(graph)),
        default=default,
        unknown=tuple(unknown),
        resources=tuple(dict.fromkeys(resources)),
        prefix=prefix or f"{GRAPH}/",
    )


def canonical(name: str) -> str:
    """The catalogue's spelling of a permission name, with or without resource prefix; raises ValueError if unknown."""
    permission = _BY_LOWER.get(name.rpartition("/")[2].lower())
    if permission is None:
        raise ValueError(f"The sandbox knows no permission called {name!r}.")
    return permission
