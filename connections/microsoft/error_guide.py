"""Renders the page "What went wrong?" from the error tables, so that a code can be looked up offline."""

from collections.abc import Iterable

from connections.microsoft import error_tables
from connections.microsoft.error_types import ErrorMeaning, Kind, Who

KINDS = {
    Kind.REAUTH: "the person must sign in again",
    Kind.CONSENT: "permissions are not granted",
    Kind.APP_CONFIG: "the app registration, the tenant or the request is wrong",
    Kind.POLICY: "a rule of the organisation, or the state of an account, is in the way",
    Kind.TRANSIENT: "it passes by itself; a connection's status never changes",
    Kind.THROTTLED: "too many requests; a connection's status never changes",
    Kind.MAILBOX: "the sign-in is good, this mailbox cannot be reached",
    Kind.PERMISSION: "the sign-in is good, it lacks a permission",
}
WHO = {Who.OWNER: "owner", Who.IT_ADMIN: "IT admin", Who.MICROSOFT: "Microsoft", Who.NOBODY: "nobody"}

INTRODUCTION = """\
# What went wrong?

Every code of Microsoft that the portal knows, what it means, what to do and who can do it. Search this page for the
code an incident shows. It is written by `manage.py document_errors` from the same tables the portal decides by; do not
change it by hand.

A code that is not listed is judged by its family, then by Microsoft's words `suberror` and `error`, and never marks a
connection at its first appearance. For the newest list ask Microsoft: <https://login.microsoftonline.com/error>.
When you ask Microsoft's support, give them the trace id, the correlation id and the time shown beside the code.
"""


def render() -> str:
    """Return the page as Markdown. The same tables always produce the same text."""
    sections = [
        INTRODUCTION,
        "## Kinds\n",
        _table(("Kind", "Means"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items())),
        "## Sign-in: AADSTS codes\n",
        _codes((f"AADSTS{number}", entry) for number, entry in error_tables.AADSTS.items()),
        "## Sign-in: words without a code\n",
        _codes(sorted(error_tables.ERRORS.items())),
        "### Words in `suberror`\n",
        _codes(sorted(error_tables.SUBERRORS.items())),
        "## Mailboxes and data: Microsoft Graph codes\n",
        _codes(sorted(error_tables.GRAPH.items(), key=lambda row: row[0].lower())),
        "### HTTP status without a known code\n",
        _codes((f"http-{status}", entry) for status, entry in error_tables.STATUSES.items()),
        "## No answer\n",
        _codes((f"transport-{reason}", entry) for reason, entry in sorted(error_tables.TRANSPORT.items())),
    ]
    return "\n".join(sections)


def _codes(rows: Iterable[tuple[str, ErrorMeaning]]) -> str:
    return _table(
        ("Code", "Microsoft's name", "What it means", "What to do", "Who", "Kind"),
        ((code, entry.name, entry.cause, entry.action, WHO[entry.who], entry.kind.value) for code, entry in rows),
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
