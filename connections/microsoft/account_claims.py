"""The Microsoft account that an ID token is about (identity-platform/id-token-claims-reference)."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Account:
    """A Microsoft account, identified by (tid, oid). The names may change and are only displayed."""

    tid: str
    oid: str
    username: str
    name: str


def account_from_claims(claims: dict[str, Any]) -> Account:
    """Return the account from an ID token's claims. A missing claim becomes ""."""
    return Account(
        tid=_text(claims.get("tid"), 36).lower(),
        oid=_text(claims.get("oid"), 36).lower(),
        username=_text(claims.get("preferred_username"), 320),
        name=_text(claims.get("name"), 256),
    )


def _text(value: object, length: int) -> str:
    """Return a claim without the characters that some databases cannot store (U+0000, half a surrogate pair)."""
    text = str(value or "")
    return text[:length] if text.isprintable() else "".join(filter(str.isprintable, text))[:length]
