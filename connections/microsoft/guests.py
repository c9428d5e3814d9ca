"""Whether an ID token belongs to a guest of the directory, and from which directory the guest comes.

``acct`` is 1 for guests (identity-platform/optional-claims-reference). ``idp`` identifies the provider that
authenticated the person. It is missing or equal to the issuer if that was the directory itself
(identity-platform/id-token-claims-reference). A guest's account in the directory has a name like
``bob_fabrikam.com#EXT#@contoso.onmicrosoft.com`` (Microsoft Entra External ID: user-properties).
"""

import re
from collections.abc import Mapping
from typing import Any

_DIRECTORY_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def home_directory(claims: Mapping[str, Any]) -> str:
    """Return the ID of the directory that authenticated the person; "" for other providers, such as live.com."""
    provider = claims.get("idp")
    match = _DIRECTORY_ID.search(str(provider).lower()) if provider else None
    if match is not None:
        return match.group()
    return "" if provider else str(claims.get("tid", "")).lower()


def is_guest(claims: Mapping[str, Any]) -> bool:
    names = (str(claims.get(name) or "") for name in ("preferred_username", "upn", "unique_name"))
    is_external = any("#ext#" in name.lower() for name in names)
    return str(claims.get("acct")) == "1" or is_external or home_directory(claims) != str(claims.get("tid", "")).lower()
