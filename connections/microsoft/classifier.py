"""Interprets responses from Microsoft: what happened, who can fix it, and whether it may change a status.

Every response from Microsoft goes through classify(). It relies on `error` and `suberror`. The AADSTS number only adds
detail, because Microsoft changes numbers and wording without notice (identity-platform/reference-error-codes).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from connections.microsoft import error_tables, graph_errors, response_parser
from connections.microsoft.error_types import ErrorMeaning, Kind, Who
from connections.microsoft.response_parser import MicrosoftResponse

SIGN_IN_FREQUENCY = re.compile(
    r"maximum allowed lifetime for this request is (?:(\d{1,4})\.)?(\d{1,9})(?::(\d\d):(\d\d))?", re.ASCII
)
LIFETIME_CODE = "AADSTS70043"
# This error is always about the state of the service, whatever error number comes with it.
OUTAGE_ERROR = "temporarily_unavailable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of one response. It contains no secret, so it may be logged, shown and stored."""

    kind: Kind
    code: str  # "AADSTS50173", a Graph code, an OAuth error, or "http-503"; "" for ok
    cause: str  # a sentence on what happened
    action: str  # a sentence on what to do
    who: Who  # who can fix it
    retry_after: float | None = None  # seconds
    certain: bool = False  # whether this response alone may flag a connection or its app registration
    app_wide: bool = False  # whether the whole app registration is affected, not just this connection
    tenant_wide: bool = False  # whether app_wide is true only in the tenant of the request
    # Whether this client secret or certificate was rejected, so that the next one should be tried.
    credential: bool = False
    account_wide: bool = False  # whether the Microsoft account is affected, and so all of its connections
    name: str = ""  # Microsoft's name for the code, e.g. "FreshTokenNeeded"
    trace_id: str = ""
    correlation_id: str = ""
    timestamp: str = ""
    claims: str = ""  # the claims challenge as JSON text, to be sent with the next request
    max_age_s: int | None = None  # sign-in frequency in seconds, read from the text of AADSTS70043

    def flags(self) -> bool:
        """Whether this kind of error may change a connection's status, provided that the verdict is also `certain`."""
        return self.kind in FLAGGING


FLAGGING = frozenset({Kind.REAUTH, Kind.CONSENT, Kind.APP_CONFIG, Kind.POLICY})
OK = Verdict(Kind.OK, "", "Microsoft accepted the request.", "No action needed.", Who.NOBODY)


def classify(*, where: str, status: int | None, headers: Mapping[str, str] | None, body: str | bytes | None) -> Verdict:
    """Classify one response from Microsoft. Never raises, whatever the input.

    `where` is token, authorize, adminconsent or graph. For the two callbacks (authorize and adminconsent), `body` is
    the raw query string. Check `state` before you rely on them: anybody can forge such a link, so their verdicts are
    never `certain`. An outage or throttling never changes a connection's status.

    Sources: Microsoft: identity-platform/reference-error-codes, v2-oauth2-auth-code-flow, v2-admin-consent,
    claims-challenge; graph/errors, graph/throttling.
    """
    try:
        answer = response_parser.read(where=where, status=status, headers=headers, body=body)
        if answer.success:
            return OK
        meaning, code = graph_errors.decide(answer) if answer.where == "graph" else _decide(answer)
        verdict = _verdict(meaning, code, answer)
        return _with_sign_in_frequency(verdict, answer.description) if code == LIFETIME_CODE else verdict
    except Exception:  # noqa: BLE001 - an unforeseen answer must not stop a batch of refreshes
        return _verdict(error_tables.UNREADABLE, "unreadable", None)


def transport_failure(reason: str) -> Verdict:
    """Return the verdict for a request without a response. An unknown reason is left out, as it could contain a URL."""
    meaning = error_tables.TRANSPORT.get(reason)
    return _verdict(meaning or error_tables.NO_ANSWER, f"transport-{reason}" if meaning else "transport", None)


def _decide(answer: MicrosoftResponse) -> tuple[ErrorMeaning, str]:
    """Return the meaning of a response from Entra and its code. Status 429 or 5xx takes precedence over error codes."""
    number, meaning = _known(answer)
    code = _label(answer, number)
    if answer.status in (429, 509):
        return (meaning if meaning and meaning.kind is Kind.THROTTLED else error_tables.THROTTLED), code
    if (answer.status or 0) >= 500 or answer.error.lower() == OUTAGE_ERROR:
        passing = meaning if meaning and meaning.kind in (Kind.TRANSIENT, Kind.THROTTLED) else None
        return passing or error_tables.OUTAGE, code
    if answer.where == "token" and answer.status is not None and answer.status < 300:
        return error_tables.NO_TOKEN, code
    by_error = error_tables.SUBERRORS.get(answer.suberror.lower()) or error_tables.ERRORS.get(answer.error.lower())
    if by_error is error_tables.CLIENT_REJECTED and answer.where != "token":
        by_error = error_tables.CLIENT_NOT_ALLOWED  # no secret is ever sent through the browser
    if meaning and meaning.vague and by_error and by_error.kind is not meaning.kind:
        return by_error, code
    return meaning or by_error or _without_error(answer), code


def _known(answer: MicrosoftResponse) -> tuple[int | None, ErrorMeaning | None]:
    """Return the most informative error number and its meaning.

    The last known number is the most specific, so it is preferred. The next choices are a marked family and a vague
    code.
    """
    numbers = [*reversed(answer.numbers), *reversed(answer.described_numbers)]
    known = [(number, error_tables.AADSTS[number]) for number in numbers if number in error_tables.AADSTS]
    for number, meaning in known:
        if not meaning.vague:
            return number, meaning
    for number in numbers:
        if number not in error_tables.AADSTS and (family := family_of(number)):
            return number, family
    return known[0] if known else (None, None)


def family_of(number: int) -> ErrorMeaning | None:
    """Return the meaning of an unknown number's family, if data/aadsts.toml marks that family; otherwise None.

    Families without a mark are not used, because two numbers that begin alike often have nothing in common. `suberror`
    and `error` are used instead.
    """
    digits = str(number)
    return error_tables.FAMILIES.get(digits[:5]) if len(digits) in (6, 7) else None


def family_code(code: str) -> str:
    """Return the code of the marked family that an unknown code belongs to. Any other code is returned unchanged."""
    digits = code.removeprefix("AADSTS")
    if digits == code or not digits.isdecimal() or int(digits) in error_tables.AADSTS or family_of(int(digits)) is None:
        return code
    return f"AADSTS{digits[:5]}"


def _without_error(answer: MicrosoftResponse) -> ErrorMeaning:
    if answer.error:
        return error_tables.UNKNOWN
    if answer.where in ("authorize", "adminconsent") and answer.shape != "markup":
        return error_tables.EMPTY_CALLBACK
    if answer.status is None and answer.shape == "empty":
        return error_tables.NO_ANSWER
    return error_tables.UNKNOWN if answer.shape == "json" else error_tables.NOT_MICROSOFT


def _label(answer: MicrosoftResponse, number: int | None) -> str:
    numbers = [number] if number is not None else answer.numbers or answer.described_numbers
    if numbers:
        return f"AADSTS{numbers[-1]}"
    if answer.error:
        return answer.error
    if answer.status is not None:
        return f"http-{answer.status}"
    return "empty" if answer.shape == "empty" else "unknown"


def _verdict(meaning: ErrorMeaning, code: str, answer: MicrosoftResponse | None) -> Verdict:
    if answer is None:
        return Verdict(meaning.kind, code, meaning.cause, meaning.action, meaning.who)
    # Only a complete response from the service itself may change a status. A truncated response, a proxy's page or a
    # link opened in a browser may not.
    trusted = answer.shape == "json" and answer.where in ("token", "graph")
    return Verdict(
        kind=meaning.kind,
        code=code,
        cause=meaning.cause,
        action=meaning.action,
        who=meaning.who,
        retry_after=answer.retry_after,
        certain=meaning.certain and trusted,
        app_wide=meaning.app_wide,
        tenant_wide=meaning.tenant_wide,
        credential=meaning.credential and answer.where == "token",
        account_wide=meaning.account_wide and trusted,
        name=meaning.name,
        trace_id=answer.trace_id,
        correlation_id=answer.correlation_id,
        timestamp=answer.timestamp,
        claims=answer.claims,
    )


def _with_sign_in_frequency(verdict: Verdict, description: str) -> Verdict:
    match = SIGN_IN_FREQUENCY.search(description)
    if not match:
        return verdict
    days, first, minutes, seconds = match.groups()
    age = int(days or 0) * 86_400
    age += int(first) if minutes is None else int(first) * 3600 + int(minutes) * 60 + int(seconds)
    if age <= 0:
        return verdict
    cause = f"{verdict.cause} The policy requires a new sign-in every {format_interval(age)}."
    return replace(verdict, max_age_s=age, cause=cause)


def format_interval(seconds: int) -> str:
    """Return the interval in words that can follow "every": "day", "2 hours"."""
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return word if count == 1 else f"{count} {word}s"
    return f"{seconds} seconds"
