"""Parses mail addresses as people paste them: from Outlook, a link, or Exchange's list of proxy addresses."""

import re

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from connections import domain_names
from connections.errors import InvalidInput

_EXAMPLE = "An address looks like support@contoso.com."
_SEVERAL = "These are several addresses. Add them one at a time."
_PREFIX = re.compile(r"\s*(mailto|smtp):\s*", re.IGNORECASE | re.ASCII)
# One entry of a list. A name in quotes may contain separators.
_ENTRY = re.compile(r'(?:"[^"\n]*"|[^,;\n"])+')


def parse(text: str) -> str:
    """Return the bare address. Its domain is in ASCII and lower case. Raises InvalidInput.

    Accepts ``Support <support@contoso.com>``, ``mailto:…`` and Exchange's ``SMTP:…``, also in angle brackets.
    """
    address = text.strip()
    if address.endswith(">") and "<" in address:
        name, _, address = address[:-1].rpartition("<")
        if "<" in name or ("@" in name and '"' not in name and len(name.split()) > 1):
            raise _wrong(_SEVERAL)
    if prefix := _PREFIX.match(address):
        address = address[prefix.end() :]
        if prefix.group(1).lower() == "mailto":
            address = address.partition("?")[0]
    return _checked(address.strip())


def parse_list(text: str) -> list[str]:
    """Return the addresses of a list without duplicates, ignoring case. Raises InvalidInput for the first invalid one.

    They are separated by commas, semicolons or line breaks. Addresses without names can also be separated by spaces.
    """
    addresses: dict[str, str] = {}
    for entry in (match.group(0).strip() for match in _ENTRY.finditer(text)):
        for part in [entry] if "<" in entry else entry.split():
            address = parse(part)
            addresses.setdefault(address.lower(), address)
    return list(addresses.values())


def _checked(text: str) -> str:
    if "://" in text:
        raise _wrong(f"This is a whole address of a web page. Paste the mail address only. {_EXAMPLE}")
    if text.count("@") > 1 and any(mark in text for mark in ",; "):
        raise _wrong(_SEVERAL)
    local, _, domain = text.rpartition("@")
    try:
        address = f"{local}@{domain_names.to_ascii(domain)}"
        validate_email(address)
    except (ValidationError, UnicodeError) as wrong:
        shown = "".join(letter for letter in text[:80] if letter.isprintable())
        raise _wrong(f"“{shown}” is not a mail address. {_EXAMPLE}") from wrong
    return address


def _wrong(cause: str) -> InvalidInput:
    return InvalidInput(cause, field="address")
