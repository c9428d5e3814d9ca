"""Domain names as IDNA 2008 writes them in ASCII."""

import idna


def to_ascii(domain: str) -> str:
    """Return the domain in ASCII and lower case (``straße.de`` → ``xn--strae-oqa.de``). Raises UnicodeError.

    Python's own codec follows IDNA 2003, which turns ``ß`` into ``ss`` and a final ``ς`` into ``σ``: another domain,
    which may belong to somebody else. Do not change the case before: that would confuse ``σ`` and ``ς``, too.
    """
    return domain.lower() if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
