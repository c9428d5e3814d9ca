"""The tables. One module per noun; import them from here."""

from connections.models.accounts import User
from connections.models.app_registrations import AppCredential, AppRegistration
from connections.models.audit import AuditEvent
from connections.models.connections import Connection
from connections.models.consent import ConsentRequest
from connections.models.mailboxes import MailboxAccess, SharedMailbox
from connections.models.tenants import Tenant

__all__ = [
    "AppCredential",
    "AppRegistration",
    "AuditEvent",
    "Connection",
    "ConsentRequest",
    "MailboxAccess",
    "SharedMailbox",
    "Tenant",
    "User",
]
