"""The words in which the portal says what an answer of Microsoft means."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of trouble an answer means."""

    OK = "ok"
    REAUTH = "reauth"  # the person must sign in again
    CONSENT = "consent"  # somebody must grant consent
    APP_CONFIG = "app_config"  # the app registration, the tenant or the request is wrong
    POLICY = "policy"  # an admin must change a policy or an account
    TRANSIENT = "transient"  # it passes by itself
    THROTTLED = "throttled"  # too many requests; it passes by itself
    MAILBOX = "mailbox"  # the token is good, this mailbox cannot be reached
    PERMISSION = "permission"  # the token is good, it lacks a permission


class Who(StrEnum):
    """Who can mend it."""

    OWNER = "owner"
    IT_ADMIN = "it_admin"
    MICROSOFT = "microsoft"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class ErrorMeaning:
    """One row of a table: what a code means, and to whom."""

    kind: Kind
    who: Who
    cause: str
    action: str
    name: str = ""
    certain: bool = False  # one whole answer with this code is proof enough
    app_wide: bool = False  # the app registration is broken, not one connection
    credential: bool = False  # this client secret or certificate was rejected
    vague: bool = False  # stands for several troubles: `suberror` and `error` decide the class
