"""The terms that describe the meaning of a response from Microsoft."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    OK = "ok"
    REAUTH = "reauth"  # the owner must sign in again
    CONSENT = "consent"  # consent must be granted
    APP_CONFIG = "app_config"  # the app registration, the tenant or the request is incorrect
    POLICY = "policy"  # an admin must change a policy or an account
    TRANSIENT = "transient"  # temporary; resolves itself
    THROTTLED = "throttled"  # too many requests; resolves itself
    MAILBOX = "mailbox"  # the token is valid, but this mailbox cannot be reached
    PERMISSION = "permission"  # the token is valid, but lacks a permission


class Who(StrEnum):
    OWNER = "owner"
    IT_ADMIN = "it_admin"
    MICROSOFT = "microsoft"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class ErrorMeaning:
    """The meaning of one code. ``cause`` says what happened, and ``action`` what to do about it."""

    kind: Kind
    who: Who
    cause: str
    action: str
    name: str = ""
    certain: bool = False  # one complete response with this code is sufficient proof
    app_wide: bool = False  # the whole app registration is affected, not just one connection
    tenant_wide: bool = False  # like app_wide, but only in the tenant of the request
    credential: bool = False  # this client secret or certificate was rejected
    account_wide: bool = False  # the Microsoft account is affected, and so are all of its connections
    vague: bool = False  # the code has several meanings, so `suberror` and `error` decide the kind
