"""Parses a raw response from Microsoft into one flat dataclass, whatever bytes arrived.

Nothing is decided here: classifier.py says what a response means. All values that this module returns are limited in
length and in their characters, so that a code or an ID can never contain a token.
"""

import base64
import binascii
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

# Real error responses are a few kilobytes long. Anything longer is noise or an attack.
LONGEST_BODY = 262_144
LONGEST_CLAIMS = 8_192
LONGEST_WAIT_S = 86_400.0
MOST_CODES = 32

AADSTS = re.compile(r"AADSTS(\d{4,9})(?!\d)", re.IGNORECASE | re.ASCII)
SAFE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")
SAFE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z\-]{7,63}")
SAFE_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,7})?(?:Z|[+\-]\d\d:?\d\d)?")
TRACE_ID = re.compile(r"Trace ID:\s{0,4}([0-9A-Fa-f\-]{8,64})")
CORRELATION_ID = re.compile(r"Correlation ID:\s{0,4}([0-9A-Fa-f\-]{8,64})")
TIMESTAMP = re.compile(r"Timestamp:\s{0,4}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?)")
CHALLENGE_CLAIMS = re.compile(r'\bclaims\s{0,4}=\s{0,4}"([^"]{1,16384})"', re.IGNORECASE)
CHALLENGE_ERROR = re.compile(r'\berror\s{0,4}=\s{0,4}"([^"]{1,64})"', re.IGNORECASE)
ERROR_OBJECT = re.compile(r'\s{0,64}\{\s{0,64}"(?:odata\.)?error"\s{0,8}:')
# Microsoft's own error page contains the code in its text or in the script that configures the page.
PAGE_CODE = re.compile(r"""["']?\bs?ErrorCode["']?\s{0,4}[:=]\s{0,4}["']?(\d{4,9})(?!\d)""", re.IGNORECASE | re.ASCII)
ERROR_URI_CODE = re.compile(r"[?&]code=(\d{4,9})(?!\d)")


@dataclass(frozen=True, slots=True)
class MicrosoftResponse:
    """The content of one response, before it is classified."""

    where: str
    status: int | None
    shape: str  # json, query, broken (truncated JSON), markup (HTML, SOAP), text, empty
    success: bool
    error: str = ""  # OAuth `error`, or the code of a WWW-Authenticate challenge
    suberror: str = ""
    description: str = ""
    numbers: tuple[int, ...] = ()  # from error_codes, in Microsoft's order
    described_numbers: tuple[int, ...] = ()  # AADSTS numbers found in the text
    graph_codes: tuple[str, ...] = ()  # outermost first
    challenge: str = ""  # `error` of WWW-Authenticate
    diagnostics: str = ""  # Exchange's x-ms-diagnostics number
    claims: str = ""
    retry_after: float | None = None  # seconds
    trace_id: str = ""
    correlation_id: str = ""
    timestamp: str = ""


def read(*, where: Any, status: Any, headers: Any, body: Any) -> MicrosoftResponse:
    """Parse one response in time linear to the first 256 KiB of its body. Values of the wrong type are ignored."""
    number, fields, text = _status(status), _headers(headers), _text(body)
    if where in ("authorize", "adminconsent"):
        return _callback(where, number, fields, text)
    if where == "graph":
        return _graph(number, fields, text)
    return _token(number, fields, text)


def _token(status: int | None, headers: dict[str, str], text: str) -> MicrosoftResponse:
    shape, value = _parse(text)
    data = value if isinstance(value, dict) else {}
    if shape == "broken":
        data = _salvage(text, ("error", "suberror", "error_codes"))
    if _is_2xx(status) and "error" not in data and _string(data.get("access_token")):
        return MicrosoftResponse("token", status, shape, True)
    error = data.get("error")
    description = _string(data.get("error_description"))
    if isinstance(error, dict):  # an OData error in place of an OAuth error
        description = description or _string(error.get("message"))
    if shape in ("markup", "text", "broken"):
        description = text
    return _oauth_error("token", status, shape, headers, data, description)


def _oauth_error(
    where: str, status: int | None, shape: str, headers: dict[str, str], data: Mapping[str, Any], description: str
) -> MicrosoftResponse:
    return MicrosoftResponse(
        where,
        status,
        shape,
        False,
        error=_word(data.get("error")),
        suberror=_word(data.get("suberror")),
        description=description,
        numbers=_numbers(data.get("error_codes")),
        described_numbers=_described(description, _string(data.get("error_uri"))),
        claims=_claims(data.get("claims")),
        retry_after=retry_after(headers),
        **_support(data, headers, description),
    )


def _callback(where: str, status: int | None, headers: dict[str, str], text: str) -> MicrosoftResponse:
    query = text.strip()
    if query.startswith("<"):
        return _error_page(where, status, headers, query)
    if "://" in query[:16] and "?" in query:
        query = query.split("?", 1)[1]
    query = query.lstrip("?#").split("#", 1)[0]
    query_fields = parse_qsl(query, keep_blank_values=True, errors="replace")
    data = dict(reversed(query_fields))  # of repeated fields, the first one wins
    # A failure can also set `admin_consent=True`, because this field only identifies the flow (Microsoft:
    # identity-platform/v2-admin-consent).
    proof = data.get("code", "") if where == "authorize" else data.get("admin_consent", "")
    if "error" not in data and proof.strip().lower() not in ("", "false"):
        return MicrosoftResponse(where, status, "query", True)
    data["suberror"] = data.get("suberror") or data.get("error_subcode", "")
    shape = "query" if query_fields else "empty"
    return _oauth_error(where, status, shape, headers, data, data.get("error_description", ""))


def _error_page(where: str, status: int | None, headers: dict[str, str], text: str) -> MicrosoftResponse:
    """Parse the page on which Microsoft shows an error without returning to the portal, such as AADSTS50011."""
    numbers = [int(digits) for digits in _first(PAGE_CODE.finditer(text))]
    data = {"error_codes": [] if AADSTS.search(text) else numbers}
    return _oauth_error(where, status, "markup", headers, data, text)


def _graph(status: int | None, headers: dict[str, str], text: str) -> MicrosoftResponse:
    # A successful response from Graph can be megabytes of anything (mail, files), so it is not parsed.
    markup = text[:512].lstrip().lower().startswith(("<!doctype html", "<html"))
    if _is_2xx(status) and not markup and not ERROR_OBJECT.match(text):
        return MicrosoftResponse("graph", status, "json", True)
    shape, value = _parse(text)
    outer = value if isinstance(value, dict) else {}
    if shape == "broken":
        outer = {"error": _salvage(text, ("code", "message"))}
    error = outer.get("error", outer.get("odata.error"))
    codes, details = _graph_codes(error)
    description = _string(details.get("message")) or (text if shape != "json" else "")
    challenges = headers.get("www-authenticate", "")
    diagnostics = re.match(r"\s*(\d{4,9})\b", headers.get("x-ms-diagnostics", ""))
    return MicrosoftResponse(
        "graph",
        status,
        shape,
        False,
        error=_word(error),
        description=description,
        described_numbers=_described(description, ""),
        graph_codes=codes,
        challenge=_word(search(CHALLENGE_ERROR, challenges)).lower(),
        diagnostics=diagnostics.group(1) if diagnostics else "",
        claims=_claims(search(CHALLENGE_CLAIMS, challenges)),
        retry_after=retry_after(headers),
        **_support(details, headers, description),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait (0 to one day), given as seconds or as an HTTP date; None if missing or invalid."""
    value = headers.get("retry-after", "").strip()[:64]
    if re.fullmatch(r"\d{1,12}(?:\.\d{0,9})?|\.\d{1,9}", value, re.ASCII):
        return min(float(value), LONGEST_WAIT_S)
    until = _http_date(value)
    if until is None:
        return None
    # Compare with the response's own Date header, so that a wrong clock of this server does not matter.
    since = _http_date(headers.get("date", ""))
    seconds = until - (time.time() if since is None else since)
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _http_date(value: str) -> float | None:
    try:
        seconds = parsedate_to_datetime(value[:64]).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
    return seconds if math.isfinite(seconds) else None


def load_json(text: str) -> Any:
    """Parse the JSON of a response. Raises ValueError or RecursionError, but not for a response that was classified OK.

    Python refuses to parse integers of thousands of digits. No number from Microsoft is that long: it becomes 0.
    """
    return json.loads(text.strip(), parse_int=lambda digits: int(digits) if len(digits) < 20 else 0)


def _parse(text: str) -> tuple[str, Any]:
    stripped = text.strip()
    if not stripped:
        return "empty", None
    if stripped.startswith("<"):
        return "markup", None
    try:
        value = load_json(stripped)
    except (ValueError, RecursionError):
        return ("broken" if stripped.startswith(("{", "[")) else "text"), None
    return ("json" if isinstance(value, dict) else "text"), value


def _salvage(text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Extract the named fields from JSON that was truncated, or changed to single quotes on the way."""
    fields: dict[str, Any] = {}
    for key in keys:
        start = rf"""["']{key}["']\s{{0,8}}:\s{{0,8}}"""
        string = re.search(rf"""{start}["']([^"'\\]{{0,4096}})""", text)
        if value := string or re.search(rf"{start}\[([\d,\s]{{0,256}})", text):
            fields[key] = value.group(1)
    return fields


def _graph_codes(error: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the codes, outermost first, and the details for support.

    innererror or innerError may be nested (graph/errors).
    """
    if not isinstance(error, dict):
        return ((word,) if (word := _word(error)) else ()), {}
    codes: list[str] = []
    details: dict[str, Any] = {}
    layer: Any = error
    for _ in range(8):
        if not isinstance(layer, dict):
            break
        if word := _word(layer.get("code")):
            codes.append(word)
        for key, value in list(layer.items())[:64]:
            details.setdefault(key, value)
        layer = next((v for k, v in layer.items() if _fold(k) == "innererror"), None)
    message = details.get("message")
    if isinstance(message, dict):  # OData v3: {"message": {"lang": .., "value": ..}}
        details["message"] = message.get("value")
    support = {"trace_id": "request-id", "correlation_id": "client-request-id", "timestamp": "date"}
    return tuple(codes), details | {name: details.get(key) for name, key in support.items()}


def _support(data: Mapping[str, Any], headers: dict[str, str], description: str) -> dict[str, Any]:
    """Return the trace ID, correlation ID and time, which Microsoft's support asks for."""
    return {
        "trace_id": _match(SAFE_ID, data.get("trace_id"))
        or search(TRACE_ID, description)
        or _match(SAFE_ID, headers.get("x-ms-request-id") or headers.get("request-id")),
        "correlation_id": _match(SAFE_ID, data.get("correlation_id"))
        or search(CORRELATION_ID, description)
        or _match(SAFE_ID, headers.get("client-request-id")),
        "timestamp": _match(SAFE_TIME, data.get("timestamp")) or search(TIMESTAMP, description),
    }


def _claims(value: Any) -> str:
    """Return a claims challenge as JSON text. It may arrive as JSON, as a string containing JSON, or in base64."""
    if isinstance(value, dict):
        try:
            value = json.dumps(value)
        except (ValueError, RecursionError):
            return ""
    text = _string(value).strip()
    if text and not text.startswith("{"):
        try:
            padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
            text = base64.b64decode(padded, validate=True).decode()
        except (binascii.Error, ValueError):
            return ""
    if len(text) > LONGEST_CLAIMS or _parse(text)[0] != "json":
        return ""
    return text.encode("utf-8", "replace").decode()


def _described(description: str, error_uri: str) -> tuple[int, ...]:
    in_text = [int(digits) for digits in _first(AADSTS.finditer(description))]
    return tuple(in_text or [int(digits) for digits in _first(ERROR_URI_CODE.finditer(error_uri))])


def _first(matches: Iterator[re.Match[str]]) -> Iterator[str]:
    for _, match in zip(range(MOST_CODES), matches, strict=False):
        yield match.group(1)


def _numbers(value: Any) -> tuple[int, ...]:
    items = value[:MOST_CODES] if isinstance(value, list) else [value]
    numbers: list[int] = []
    for item in items:
        if isinstance(item, str):
            numbers += [int(d) for d in re.findall(r"(?<!\d)\d{4,9}(?!\d)", item[:512], re.ASCII)]
        elif isinstance(item, int) and not isinstance(item, bool) and 1000 <= item < 10**9:
            numbers.append(item)
    return tuple(numbers[:MOST_CODES])


def _headers(headers: Any) -> dict[str, str]:
    """Return the headers by lower-case name. Repeated headers are joined by commas."""
    fields: dict[str, str] = {}
    if not isinstance(headers, Mapping):
        return fields
    for key, value in list(headers.items())[:200]:
        values = value if isinstance(value, list | tuple) else [value]
        joined = ", ".join(_text(item)[:16_384] for item in values[:8])
        name = _fold(_text(key)[:128])
        fields[name] = f"{fields[name]}, {joined}" if name in fields else joined
    return fields


def _status(status: Any) -> int | None:
    if isinstance(status, str) and re.fullmatch(r"\s{0,4}\d{3}\s{0,4}", status, re.ASCII):
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int):
        return None
    return status if 100 <= status <= 599 else None


def _is_2xx(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:LONGEST_BODY]).decode("utf-8-sig", "replace")
    if isinstance(value, str):
        return value[:LONGEST_BODY].removeprefix("\ufeff")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else ""
    return ""


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _word(value: Any) -> str:
    return _match(SAFE_WORD, value)


def _fold(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _match(pattern: re.Pattern[str], value: Any) -> str:
    text = value.strip() if isinstance(value, str) and len(value) < 256 else ""
    return text if pattern.fullmatch(text) else ""


def search(pattern: re.Pattern[str], text: str) -> str:
    """Return the first group of the first match, or an empty string."""
    match = pattern.search(text)
    return match.group(1) if match else ""
