"""What automations can be allowed to do, as data: each capability with the least permissions that allow it.

Least permissions: Microsoft Graph, the "Permissions" table of each API page, and permissions-reference.
"""

from __future__ import annotations

from dataclasses import dataclass

OUTLOOK = "Outlook"
FILES = "OneDrive & SharePoint"
TEAMS = "Teams"
DIRECTORY = "Directory"


@dataclass(frozen=True, slots=True)
class Capability:
    """Something an automation wants to do.

    ``delegated`` and ``application`` hold the least scopes and roles; where one of them is empty,
    ``no_delegated`` or ``no_application`` says why. ``note`` is a limit that people should know beforehand.
    """

    key: str
    group: str
    label: str
    description: str
    delegated: tuple[str, ...] = ()
    application: tuple[str, ...] = ()
    no_delegated: str = ""
    no_application: str = ""
    note: str = ""


_SHARED_NEEDS_MEMBER = (
    "With a delegated connection, the signed-in account also needs access to the mailbox in Exchange (Full Access)."
)
# Microsoft Graph: outlook-share-messages-folders.
_POLLING_ONLY = (
    "Microsoft sends no change notifications for a shared mailbox to a delegated connection, so a trigger on it "
    "has to poll; notifications need an app-only connection."
)

ALL = (
    Capability(
        "mail.read",
        OUTLOOK,
        "Read mail",
        "Read messages and attachments.",
        delegated=("Mail.Read",),
        application=("Mail.Read",),
    ),
    Capability(
        "mail.write",
        OUTLOOK,
        "Organise mail",
        "Create drafts; change, move and delete messages.",
        delegated=("Mail.ReadWrite",),
        application=("Mail.ReadWrite",),
    ),
    Capability(
        "mail.send",
        OUTLOOK,
        "Send mail",
        "Send messages from the connected mailbox.",
        delegated=("Mail.Send",),
        application=("Mail.Send",),
    ),
    Capability(
        "mail.trigger",
        OUTLOOK,
        "Start on new mail",
        "Start an automation when a message arrives.",
        delegated=("Mail.Read",),
        application=("Mail.Read",),
    ),
    Capability(
        "mailbox.settings",
        OUTLOOK,
        "Read mailbox settings",
        "Read automatic replies, time zone and language.",
        delegated=("MailboxSettings.Read",),
        application=("MailboxSettings.Read",),
        note="Settings of a shared mailbox cannot be read with a delegated connection.",
    ),
    Capability(
        "mailbox.settings_write",
        OUTLOOK,
        "Change mailbox settings",
        "Change automatic replies, time zone and language.",
        delegated=("MailboxSettings.ReadWrite",),
        application=("MailboxSettings.ReadWrite",),
        note="Settings of a shared mailbox cannot be changed with a delegated connection.",
    ),
    Capability(
        "shared_mailbox.trigger",
        OUTLOOK,
        "Start on new mail in a shared mailbox",
        "Start an automation when a message arrives in a shared mailbox.",
        delegated=("Mail.Read", "Mail.Read.Shared"),
        application=("Mail.Read",),
        note=f"{_POLLING_ONLY} {_SHARED_NEEDS_MEMBER}",
    ),
    Capability(
        "shared_mailbox.read",
        OUTLOOK,
        "Read shared mailboxes",
        "Read messages in shared mailboxes.",
        delegated=("Mail.Read.Shared",),
        application=("Mail.Read",),
        note=_SHARED_NEEDS_MEMBER,
    ),
    Capability(
        "shared_mailbox.write",
        OUTLOOK,
        "Organise shared mailboxes",
        "Change, move and delete messages in shared mailboxes.",
        delegated=("Mail.ReadWrite.Shared",),
        application=("Mail.ReadWrite",),
        note=_SHARED_NEEDS_MEMBER,
    ),
    Capability(
        "shared_mailbox.send",
        OUTLOOK,
        "Send from a shared mailbox",
        "Send messages as, or on behalf of, a shared mailbox.",
        delegated=("Mail.Send.Shared",),
        application=("Mail.Send",),
        note="With a delegated connection, the signed-in account also needs Send As or Send on Behalf in Exchange; "
        "only sending shows whether it has.",
    ),
    Capability(
        "calendar.events",
        OUTLOOK,
        "Read calendar events",
        "Read events of the connected account's calendars.",
        delegated=("Calendars.Read",),
        application=("Calendars.Read",),
    ),
    Capability(
        "calendar.write",
        OUTLOOK,
        "Change calendar events",
        "Create, change and delete events.",
        delegated=("Calendars.ReadWrite",),
        application=("Calendars.ReadWrite",),
    ),
    Capability(
        "calendar.shared",
        OUTLOOK,
        "Read shared calendars",
        "Read events of calendars that others share with the account.",
        delegated=("Calendars.Read.Shared",),
        application=("Calendars.Read",),
    ),
    Capability(
        "files.read",
        FILES,
        "Read files",
        "Read files in OneDrive.",
        delegated=("Files.Read",),
        application=("Files.Read.All",),
        note="App-only, Microsoft offers this for all files of the organisation only.",
    ),
    Capability(
        "files.write",
        FILES,
        "Change files",
        "Create, change and delete files in OneDrive.",
        delegated=("Files.ReadWrite",),
        application=("Files.ReadWrite.All",),
        note="App-only, Microsoft offers this for all files of the organisation only.",
    ),
    Capability(
        "sites.read",
        FILES,
        "Read SharePoint sites",
        "Read lists, pages and documents in SharePoint.",
        delegated=("Sites.Read.All",),
        application=("Sites.Read.All",),
    ),
    Capability(
        "sites.write",
        FILES,
        "Change SharePoint sites",
        "Create, change and delete list items and documents in SharePoint.",
        delegated=("Sites.ReadWrite.All",),
        application=("Sites.ReadWrite.All",),
    ),
    Capability(
        "teams.read",
        TEAMS,
        "See teams and channels",
        "Read names and descriptions of teams and their channels.",
        delegated=("Team.ReadBasic.All", "Channel.ReadBasic.All"),
        application=("Team.ReadBasic.All", "Channel.ReadBasic.All"),
    ),
    Capability(
        "teams.messages_read",
        TEAMS,
        "Read channel messages",
        "Read messages and replies in channels.",
        delegated=("ChannelMessage.Read.All",),
        application=("ChannelMessage.Read.All",),
    ),
    Capability(
        "teams.messages_send",
        TEAMS,
        "Send channel messages",
        "Post messages and replies in channels.",
        delegated=("ChannelMessage.Send",),
        no_application=(
            "Microsoft lets an application post in a channel only for a signed-in person; without one it can only "
            "import old messages during a migration. Use a delegated connection."
        ),
    ),
    Capability(
        "chats.read",
        TEAMS,
        "Read chats",
        "Read one-to-one and group chats.",
        delegated=("Chat.Read",),
        application=("Chat.Read.All",),
    ),
    Capability(
        "chats.send",
        TEAMS,
        "Send chat messages",
        "Write in one-to-one and group chats.",
        delegated=("ChatMessage.Send",),
        no_application=(
            "Microsoft lets an application write in chats only for a signed-in person; without one it can only "
            "import old messages during a migration. Use a delegated connection."
        ),
    ),
    Capability(
        "directory.me",
        DIRECTORY,
        "Read own profile",
        "Read the profile of the account that signed in.",
        delegated=("User.Read",),
        no_application=(
            "User.Read has no app-only form, because nobody is signed in. "
            "Choose “Look up people” or “Read people's profiles” instead."
        ),
    ),
    Capability(
        "directory.users",
        DIRECTORY,
        "Look up people",
        "Find people by name or address.",
        delegated=("User.ReadBasic.All",),
        application=("User.ReadBasic.All",),
    ),
    Capability(
        "directory.profiles",
        DIRECTORY,
        "Read people's profiles",
        "Read job title, department, manager and other details of people.",
        delegated=("User.Read.All",),
        application=("User.Read.All",),
    ),
    Capability(
        "directory.groups",
        DIRECTORY,
        "Look up groups",
        "Find groups and their members.",
        delegated=("GroupMember.Read.All",),
        application=("GroupMember.Read.All",),
    ),
)
