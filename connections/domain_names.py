"""Conversion of domain names to ASCII according to IDNA 2008."""

import idna


def to_ascii(domain: str) -> str:
    """Return the domain in ASCII and lower case (``straße.de`` → ``xn--strae-oqa.de``). Raises UnicodeError.

    Python's own codec follows IDNA 2003, which changes ``ß`` to ``ss`` and a final ``ς`` to ``σ``. That is a different
    domain, which may belong to someone else. Don't change the case first, because that would also confuse ``σ`` and
    ``ς``.
    """
    return domain.lower() if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
