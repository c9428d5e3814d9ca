"""The SASL mechanism XOAUTH2, with which IMAP, POP and SMTP servers accept an access token instead of a password.

Source: https://learn.microsoft.com/exchange/client-developer/legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth
"""

from __future__ import annotations

import base64


def sasl_response(mailbox: str, access_token: str) -> bytes:
    """Return the client's response, as ``imaplib`` and ``smtplib`` want it: they encode it in base64 themselves.

    ``mailbox`` is the address of the mailbox to open. Raises ValueError if one of the two contains control characters.
    """
    if not mailbox or any(not character.isprintable() for character in mailbox + access_token):
        raise ValueError("The mailbox and the token must be printable text.")
    return f"user={mailbox}\x01auth=Bearer {access_token}\x01\x01".encode()


def encoded(mailbox: str, access_token: str) -> str:
    """Return the same response in base64, to send as it is after ``AUTHENTICATE XOAUTH2`` or ``AUTH XOAUTH2``."""
    return base64.b64encode(sasl_response(mailbox, access_token)).decode("ascii")
