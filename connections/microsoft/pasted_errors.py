"""Explains a text that a person copied from Microsoft's page: a code, a message, JSON, or the address of the page.

Microsoft shows many errors only on its own page (data/shown_errors.toml). No request is sent and nothing is stored. The
result consists only of our own texts and of codes and IDs without special characters, so that a sign-in code or a token
in the text can't leak.
"""

import json
import re
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from connections.microsoft import data_files, error_tables
from connections.microsoft.classifier import Verdict, classify
from connections.microsoft.error_types import ErrorMeaning, Kind, Who
from connections.microsoft.response_parser import search

LONGEST = 10_000  # characters; Microsoft's pages and messages are shorter
SIGN_IN, CONSENT = "sign_in", "consent"

_BARE_NUMBER = re.compile(r"(?:AADSTS|(?:error )?code:?)?\s{0,4}(\d{4,9})[.:]?", re.IGNORECASE | re.ASCII)
_AADSTS = re.compile(r"AADSTS\s?(\d{4,9})(?!\d)", re.IGNORECASE | re.ASCII)
_PAGE_CODE = re.compile(r"error\s?code[\"']?\s{0,4}[:=]\s{0,4}[\"']?(\d{4,9})(?!\d)", re.IGNORECASE | re.ASCII)
_LONE_NUMBER = re.compile(r"(?<![\w-])\d{5,7}(?![\w-])", re.ASCII)
_QUERY = re.compile(r"(?:^|[?#&\s])(error(?:_description|_subcode)?=[^\s\"'<>]+)")
_WORD = re.compile(r"[A-Za-z]{4,40}(?:_[A-Za-z]{1,40}){0,8}")
_ID = r"([0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})"
_TRACE_ID = re.compile(rf"(?:trace|request)[ _]?id\W{{1,4}}{_ID}", re.IGNORECASE)
_CORRELATION_ID = re.compile(rf"correlation[ _]?id\W{{1,4}}{_ID}", re.IGNORECASE)
_TIMESTAMP = re.compile(r"timestamp\W{1,4}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?)", re.IGNORECASE)
_BARE_ID = re.compile(_ID)
_TOKEN = re.compile(
    r"(?:^|[?&#\s\"'])(?:(?:access|refresh|id)_token|client_secret|client_assertion)[\"']?\s{0,4}[=:]|"
    r"(?:^|[?&#\s\"'])code=[^\s&\"'<>]{16}|\beyJ[\w-]{16,}\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ShownError:
    """An error that Microsoft shows on its own page."""

    number: str
    during: tuple[str, ...]
    shows: str  # the text on the page
    phrases: tuple[str, ...]

    @property
    def code(self) -> str:
        return f"AADSTS{self.number}"

    @property
    def meaning(self) -> ErrorMeaning:
        return error_tables.AADSTS[int(self.number)]


_PAGES = data_files.load("shown_errors.toml").rows("page", ShownError, "number")
_BY_NAME = {meaning.name: f"AADSTS{number}" for number, meaning in error_tables.AADSTS.items() if meaning.name}


@dataclass(frozen=True, slots=True)
class PastedError:
    """The explanation of a pasted text. ``code`` is empty if the text contains no error."""

    code: str
    name: str  # Microsoft's name for the code
    cause: str
    action: str
    who: Who
    trace_id: str = ""
    correlation_id: str = ""
    timestamp: str = ""
    has_secret: bool = False  # whether the text contains a sign-in code or a token

    @property
    def has_reference(self) -> bool:
        return bool(self.trace_id or self.correlation_id)


def shown_errors(during: str) -> tuple[ShownError, ...]:
    """Return the errors of a sign-in or of admin consent that Microsoft shows without returning to the portal."""
    return tuple(page for page in _PAGES.values() if during in page.during)


def explain(text: str) -> PastedError:
    """Explain the first ``LONGEST`` characters of a text. Never raises, whatever the text is."""
    # A request in another encoding can contain half of a surrogate pair.
    text = text[:LONGEST].encode("utf-8", "replace").decode().strip()
    verdict = _verdict(text)
    code, name, meaning = "", "", None
    if verdict is not None and verdict.kind is not Kind.OK:
        code, name = _safe_code(verdict.code), verdict.name
        meaning = ErrorMeaning(verdict.kind, verdict.who, verdict.cause, verdict.action)
    trace_id, correlation_id = search(_TRACE_ID, text), search(_CORRELATION_ID, text)
    has_secret = bool(_TOKEN.search(text))
    if not trace_id and not correlation_id and _BARE_ID.fullmatch(text):
        trace_id = text
    if meaning is None:
        meaning = _not_found(has_secret=has_secret, has_reference=bool(trace_id or correlation_id))
    return PastedError(
        code,
        name,
        meaning.cause,
        meaning.action,
        meaning.who,
        trace_id=trace_id,
        correlation_id=correlation_id,
        timestamp=search(_TIMESTAMP, text),
        has_secret=has_secret,
    )


def _verdict(text: str) -> Verdict | None:
    """Return the verdict for the error in the text. The most exact way of reading the text is tried first."""
    if match := _BARE_NUMBER.fullmatch(text):
        return _by_number(match[1])
    if query := _QUERY.search(text):
        return classify(where="authorize", status=None, headers=None, body=query[1])
    if verdict := _json_verdict(text):
        return verdict
    if number := _last(_AADSTS, text) or _last(_PAGE_CODE, text):
        return _by_number(number, text)
    lowered = " ".join(text.lower().replace("’", "'").split())
    for page in _PAGES.values():
        if any(phrase in lowered for phrase in page.phrases):
            return _by_number(page.number)
    return _by_word(text) or next(
        (_by_number(number) for number in _LONE_NUMBER.findall(text) if int(number) in error_tables.AADSTS), None
    )


def _by_number(number: str, text: str = "") -> Verdict:
    query = urlencode({"error": "unlisted", "error_description": f"AADSTS{number} {text}"})
    return classify(where="authorize", status=None, headers=None, body=query)


def _json_verdict(text: str) -> Verdict | None:
    start, end = text.find("{"), text.rfind("}")
    body = text[start : end + 1] if 0 <= start < end else ""
    try:
        value = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.get("error"):
        return None
    where = "graph" if isinstance(value["error"], dict) else "token"
    return classify(where=where, status=None, headers=None, body=body)


def _by_word(text: str) -> Verdict | None:
    """Find an error by its name, such as access_denied or InvalidReplyTo: Microsoft's name, an OAuth error or a Graph
    code.
    """
    for word in _WORD.findall(text):
        if word in _BY_NAME:
            return _by_number(_BY_NAME[word].removeprefix("AADSTS"))
        if "_" in word and word.lower() in error_tables.SUBERRORS:
            query = urlencode({"error": "unlisted", "error_subcode": word})
            return replace(classify(where="authorize", status=None, headers=None, body=query), code=word.lower())
        if "_" in word and word.lower() in error_tables.ERRORS:
            return classify(where="authorize", status=None, headers=None, body=urlencode({"error": word}))
        if word in error_tables.GRAPH and not word.islower():
            body = json.dumps({"error": {"code": word}})
            return classify(where="graph", status=None, headers=None, body=body)
    return None


def _safe_code(code: str) -> str:
    """Return the code only if it is one of Microsoft's, because the text may contain anything in its place."""
    known = code.lower() in error_tables.ERRORS or code.lower() in error_tables.SUBERRORS or code in error_tables.GRAPH
    return code if known or code.startswith("AADSTS") else ""


def _not_found(*, has_secret: bool, has_reference: bool) -> ErrorMeaning:
    if has_secret:
        cause = "This text contains a sign-in code or token, but no error. The portal has discarded it."
        return ErrorMeaning(Kind.OK, Who.NOBODY, cause, "Don't send it to anyone. Start the sign-in again.")
    if has_reference:
        cause = "This text contains Microsoft's reference IDs, but no error code."
        action = "Copy the whole page. An IT admin can also look up these IDs in Entra's sign-in logs."
        return ErrorMeaning(Kind.OK, Who.IT_ADMIN, cause, action)
    cause = "This text contains no error code that the portal recognizes."
    action = "Copy the whole text of Microsoft's page, or the code that starts with AADSTS."
    return ErrorMeaning(Kind.OK, Who.NOBODY, cause, action)


def _last(pattern: re.Pattern[str], text: str) -> str:
    """Return the last number that is in the table of AADSTS codes. If none is, return the last number."""
    numbers = pattern.findall(text)
    listed = [number for number in numbers if int(number) in error_tables.AADSTS]
    return str((listed or numbers or [""])[-1])
