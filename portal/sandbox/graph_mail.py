"""Mailboxes in Graph: folders, messages, sending, settings, calendars, and access to mailboxes.

Graph: outlook-share-messages-folders and auth-limit-mailbox-access.
"""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from portal.sandbox.graph_directory import find, selected, top
from portal.sandbox.graph_errors import Caller, GraphError, denied
from portal.sandbox.state import Person, SharedMailbox, World

Answer = tuple[int, dict[str, Any] | None]
Words = dict[str, str]

READ = ("Mail.Read", "Mail.ReadWrite", "Mail.ReadBasic", "Mail.ReadBasic.All")
SEND = ("Mail.Send",)
SETTINGS = ("MailboxSettings.Read", "MailboxSettings.ReadWrite")
CALENDARS = ("Calendars.Read", "Calendars.ReadWrite")

FOLDERS = {"inbox": "Inbox", "sentitems": "Sent Items", "drafts": "Drafts", "archive": "Archive"}
KEPT_SENT = 500
SUBJECTS = (
    ("Invoice 2026-0417 for your order", "Lise Meitner", "billing@supplier.example"),
    ("Re: Delivery date of order 88213", "Emmy Noether", "orders@wideworld.example"),
    ("Question about my subscription", "Rosalind Franklin", "rosalind@customer.example"),
    ("Minutes of the quarterly review", "Chien-Shiung Wu", "wu@partner.example"),
    ("Please confirm the meeting on Thursday", "Hypatia Alexandria", "hypatia@partner.example"),
    ("Your travel booking is complete", "Skylark Travel", "noreply@skylark.example"),
    ("Complaint: damaged parcel", "Sofia Kovalevskaya", "sofia@customer.example"),
)


def mailbox(
    here: World, caller: Caller, words: Words, needed: tuple[str, ...], *, inbox: bool = False
) -> Person | SharedMailbox:
    """Return the mailbox in the path. Raises GraphError unless the caller has one of the ``needed`` permissions.

    ``inbox`` says that only the inbox folder is requested, which can be shared separately.
    """
    owner = find(here, caller, words)
    if caller.person is None:
        _check_app(caller, owner, words, needed)
    else:
        _check_person(caller, caller.person, owner, words, needed, inbox)
    assert owner is not None
    if isinstance(owner, Person) and (not owner.licensed or owner.guest):
        text = "The mailbox is either inactive, soft-deleted, or is hosted on-premise."
        raise GraphError(404, "MailboxNotEnabledForRESTAPI", text)
    return owner


def _invalid(words: Words) -> GraphError:
    return GraphError(404, "ErrorInvalidUser", f"The requested user '{words['user']}' is invalid.")


def _check_app(caller: Caller, owner: Person | SharedMailbox | None, words: Words, needed: tuple[str, ...]) -> None:
    address = owner.address if isinstance(owner, SharedMailbox) else owner.mail if owner is not None else ""
    # Exchange's permissions don't depend on the roles in the token, and either is enough (Microsoft: application-rbac).
    if any(address in caller.app.exchange_roles.get(name, ()) for name in needed):
        return
    if not caller.permissions & set(needed):
        raise denied()
    if owner is None:
        raise _invalid(words)
    scope = owner.app_scope if isinstance(owner, SharedMailbox) else None
    outside = caller.app.mailboxes is not None and address not in caller.app.mailboxes
    if outside or (scope is not None and caller.app.client_id not in scope):
        raise GraphError(403, "ErrorAccessDenied", "Access to OData is disabled.")


def _check_person(
    caller: Caller,
    person: Person,
    owner: Person | SharedMailbox | None,
    words: Words,
    needed: tuple[str, ...],
    inbox: bool,
) -> None:
    shared = {f"{name}.Shared" for name in needed}
    if owner is not None and owner.id == person.id:
        if not caller.permissions & (set(needed) | shared):
            raise denied()
        return
    # There is no permission for the settings of a shared mailbox, so they are denied here, as they are at Microsoft.
    if not caller.permissions & shared:
        raise denied()
    if owner is None:
        raise _invalid(words)
    if person.upn not in _entitled(owner, needed):
        if isinstance(owner, SharedMailbox) and needed == READ and person.upn in owner.inbox_members:
            if inbox:
                return
            raise denied()
        if needed == SEND:
            text = (
                "The user account which was used to submit this request does not have the right to send mail on "
                "behalf of the specified sending account. Cannot submit message."
            )
            raise GraphError(403, "ErrorSendAsDenied", text)
        text = "The specified object was not found in the store., The process failed to get the correct properties."
        raise GraphError(404, "ErrorItemNotFound", text)


def _entitled(owner: Person | SharedMailbox, needed: tuple[str, ...]) -> list[str]:
    """Return the user names with access in Exchange. Send As is a separate right; calendars are shared individually."""
    shared = owner.calendar_members if needed == CALENDARS else []
    if isinstance(owner, Person):
        return shared
    full = owner.senders if needed == SEND and owner.senders is not None else owner.members
    return [*full, *shared]


def _address(owner: Person | SharedMailbox) -> str:
    return owner.address if isinstance(owner, SharedMailbox) else owner.mail


def _moment(here: World, hours: int) -> str:
    moment = datetime.fromtimestamp(here.now(), UTC).replace(minute=0, second=0, microsecond=0)
    return (moment - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id(*words: str) -> str:
    return f"AAMkAGSandbox{hashlib.sha256('|'.join(words).encode()).hexdigest()[:40]}="


def _inbox(here: World, owner: Person | SharedMailbox) -> list[dict[str, Any]]:
    seed = int(hashlib.sha256(owner.id.encode()).hexdigest()[:6], 16)
    messages = []
    for number in range(6):
        subject, name, sender = SUBJECTS[(seed + number) % len(SUBJECTS)]
        received = _moment(here, 3 + 9 * number)
        text = f"Good morning {owner.name},\n\n{subject}. Please have a look.\n\nKind regards,\n{name}"
        messages.append(
            {
                "id": _id(owner.id, str(number)),
                "subject": subject,
                "bodyPreview": text[:120],
                "body": {"contentType": "text", "content": text},
                "from": {"emailAddress": {"name": name, "address": sender}},
                "toRecipients": [{"emailAddress": {"name": owner.name, "address": _address(owner)}}],
                "receivedDateTime": received,
                "sentDateTime": received,
                "isRead": number > 1,
                "hasAttachments": number == 0,
                "importance": "normal",
                "parentFolderId": _id(owner.id, "inbox"),
            }
        )
    return messages


def _in_folder(here: World, owner: Person | SharedMailbox, key: str) -> list[dict[str, Any]]:
    if key == "inbox":
        delivered = [mail["message"] for mail in here.sent if _address(owner) in mail["to"]]
        return [*reversed(delivered), *_inbox(here, owner)]
    if key == "sentitems":
        return [mail["message"] for mail in reversed(here.sent) if mail["mailbox"] == owner.id]
    return []


def _folder_key(owner: Person | SharedMailbox, words: Words) -> str:
    name = words.get("folder") or words.get("quoted") or "inbox"
    for key in FOLDERS:
        if name.lower() == key or name == _id(owner.id, key):
            return key
    raise GraphError(404, "ErrorItemNotFound", "The specified object was not found in the store.")


def _is_inbox(words: Words) -> bool:
    return (words.get("folder") or words.get("quoted") or "").lower() == "inbox"


def _as_folder(here: World, owner: Person | SharedMailbox, key: str) -> dict[str, Any]:
    inside = _in_folder(here, owner, key)
    return {
        "id": _id(owner.id, key),
        "displayName": FOLDERS[key],
        "childFolderCount": 0,
        "unreadItemCount": len([mail for mail in inside if not mail["isRead"]]),
        "totalItemCount": len(inside),
        "isHidden": False,
    }


def folders(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    owner = mailbox(here, caller, words, READ)
    return 200, {"value": top([selected(_as_folder(here, owner, key), query) for key in FOLDERS], query)}


def folder(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    owner = mailbox(here, caller, words, READ, inbox=_is_inbox(words))
    return 200, selected(_as_folder(here, owner, _folder_key(owner, words)), query)


def messages(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    owner = mailbox(here, caller, words, READ, inbox=_is_inbox(words))
    inside = _in_folder(here, owner, _folder_key(owner, words))
    return 200, {"value": [selected(mail, query) for mail in top(inside, query)]}


def message(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    owner = mailbox(here, caller, words, READ)
    for key in FOLDERS:
        for mail in _in_folder(here, owner, key):
            if mail["id"] == words["id"]:
                return 200, selected(mail, query)
    raise GraphError(404, "ErrorItemNotFound", "The specified object was not found in the store.")


def send_mail(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """POST …/sendMail: deliver to Sent Items and to inboxes in the sandbox. Returns 202 without a body."""
    owner = mailbox(here, caller, words, SEND)
    wanted = sent.get("message") if isinstance(sent, dict) else None
    recipients = wanted.get("toRecipients") if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict) or not recipients:
        raise GraphError(400, "ErrorInvalidRecipients", "At least one recipient is not valid.")
    to = [str(recipient.get("emailAddress", {}).get("address", "")).lower() for recipient in recipients]
    now = _moment(here, 0)
    content = wanted.get("body", {})
    mail = {
        "id": _id(str(uuid.uuid4())),
        "subject": str(wanted.get("subject", "")),
        "bodyPreview": str(content.get("content", ""))[:120],
        "body": content,
        "from": {"emailAddress": {"name": owner.name, "address": _address(owner)}},
        "toRecipients": recipients,
        "receivedDateTime": now,
        "sentDateTime": now,
        "isRead": False,
        "hasAttachments": False,
        "importance": "normal",
        "parentFolderId": _id(owner.id, "sentitems"),
    }
    with here.change():
        here.sent.append({"mailbox": owner.id, "to": to, "message": mail, "client_id": caller.app.client_id})
        del here.sent[:-KEPT_SENT]
    return 202, None


def settings(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    mailbox(here, caller, words, SETTINGS)
    language = {"locale": "en-US", "displayName": "English (United States)"}
    hours = {"daysOfWeek": ["monday", "tuesday", "wednesday", "thursday", "friday"], "startTime": "08:00:00.0000000"}
    content = {"timeZone": "UTC", "language": language, "workingHours": hours, "userPurpose": "user"}
    return 200, selected(content, query)


def calendars(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    calendar_owner = mailbox(here, caller, words, CALENDARS)
    owner = {"name": calendar_owner.name, "address": _address(calendar_owner)}
    content = {"id": _id(calendar_owner.id, "calendar"), "name": "Calendar", "isDefaultCalendar": True, "owner": owner}
    return 200, {"value": [selected(content, query)]}


def events(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    owner = mailbox(here, caller, words, CALENDARS)
    events = []
    for number, subject in enumerate(("Weekly stand-up", "Supplier call", "Budget review", "Team lunch")):
        start, end = _moment(here, -24 * number - 2)[:-1], _moment(here, -24 * number - 3)[:-1]
        events.append(
            {
                "id": _id(owner.id, "event", str(number)),
                "subject": subject,
                "start": {"dateTime": f"{start}.0000000", "timeZone": "UTC"},
                "end": {"dateTime": f"{end}.0000000", "timeZone": "UTC"},
                "location": {"displayName": "Room 4"},
                "isAllDay": False,
                "organizer": {"emailAddress": {"name": owner.name, "address": _address(owner)}},
            }
        )
    return 200, {"value": [selected(event, query) for event in top(events, query)]}
