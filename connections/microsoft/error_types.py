"""The terms in which the portal expresses what an answer of Microsoft means."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kind of problem an answer stands for."""

    OK = "ok"
    REAUTH = "reauth"  # the owner must sign in again
    CONSENT = "consent"  # consent must be granted
    APP_CONFIG = "app_config"  # the app registration, the tenant or the request is wrong
    POLICY = "policy"  # an admin must change a policy or an account
    TRANSIENT = "transient"  # it resolves itself
    THROTTLED = "throttled"  # too many requests; it resolves itself
    MAILBOX = "mailbox"  # the token is valid, this mailbox cannot be reached
    PERMISSION = "permission"  # the token is valid, it lacks a permission


class Who(StrEnum):
    """Who can fix it."""

    OWNER = "owner"
    IT_ADMIN = "it_admin"
    MICROSOFT = "microsoft"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class ErrorMeaning:
    """What one code means; ``cause`` says what happened and ``action`` what to do."""

    kind: Kind
    who: Who
    cause: str
    action: str
    name: str = ""
    certain: bool = False  # a single complete answer with this code is proof enough
    app_wide: bool = False  # the app registration is broken, not one connection
    credential: bool = False  # this client secret or certificate was rejected
    vague: bool = False  # used for several problems: `suberror` and `error` decide the kind
