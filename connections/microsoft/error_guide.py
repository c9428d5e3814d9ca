"""Renders the page "What went wrong?" from the error tables, so that a code can be looked up offline."""

from collections.abc import Iterable

from connections.microsoft import error_tables
from connections.microsoft.error_types import ErrorMeaning, Kind, Who

KINDS = {
    Kind.REAUTH: "the person needs to sign in again",
    Kind.CONSENT: "consent is missing",
    Kind.APP_CONFIG: "the app registration, the tenant or the request is wrong",
    Kind.POLICY: "an organisation policy or the account's state blocks access",
    Kind.TRANSIENT: "a temporary problem; the connection's status doesn't change",
    Kind.THROTTLED: "too many requests; the connection's status doesn't change",
    Kind.MAILBOX: "the sign-in works, but this mailbox can't be reached",
    Kind.PERMISSION: "the sign-in works, but a permission is missing",
}
WHO = {Who.OWNER: "owner", Who.IT_ADMIN: "IT admin", Who.MICROSOFT: "Microsoft", Who.NOBODY: "nobody"}

INTRODUCTION = """\
# What went wrong?

This page lists every Microsoft error code that the portal knows: its meaning, what to do, and who can do it. Search
for the code that an incident shows. `manage.py document_errors` generates this page from the portal's own error tables;
don't edit it.

A code that is not listed is judged by Microsoft's words `suberror` and `error`, and never marks a connection at its first
appearance. Only longer codes that begin with {families} mean what that code means. For the newest list ask Microsoft: <https://login.microsoftonline.com/error>.
When you ask Microsoft's support, give them the trace id, the correlation id and the time shown beside the code.
"""


def render() -> str:
    """Return the page as Markdown. The same tables always produce the same text."""
    sections = [
        INTRODUCTION.format(families=_families()),
        "## Kinds\n",
        _table(("Kind", "Meaning"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items())),
        "## Sign-in: AADSTS codes\n",
        _codes((f"AADSTS{number}", entry) for number, entry in error_tables.AADSTS.items()),
        "## Sign-in: errors without a code\n",
        _codes(sorted(error_tables.ERRORS.items())),
        "### Values of `suberror`\n",
        _codes(sorted(error_tables.SUBERRORS.items())),
        "## Mailboxes and data: Microsoft Graph codes\n",
        _codes(sorted(error_tables.GRAPH.items(), key=lambda row: row[0].lower())),
        "### HTTP status without a known code\n",
        _codes((f"http-{status}", entry) for status, entry in error_tables.STATUSES.items()),
        "## No response\n",
        _codes((f"transport-{reason}", entry) for reason, entry in sorted(error_tables.TRANSPORT.items())),
    ]
    return "\n".join(sections)


def _families() -> str:
    *codes, last = error_tables.FAMILIES
    return f"{', '.join(codes)} or {last}"


def _codes(rows: Iterable[tuple[str, ErrorMeaning]]) -> str:
    return _table(
        ("Code", "Microsoft's name", "Meaning", "What to do", "Who", "Kind"),
        ((code, entry.name, entry.cause, entry.action, WHO[entry.who], entry.kind.value) for code, entry in rows),
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
