"""Says what an answer of Microsoft means: what happened, who can do what, and may it flag anything.

Every answer of Microsoft to the portal goes through classify(). `error` and `suberror` decide, the
AADSTS number only refines, because Microsoft changes numbers and wording without notice
(Microsoft: identity-platform/reference-error-codes).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from connections.microsoft import error_tables, graph_errors, response_parser
from connections.microsoft.error_types import ErrorMeaning, Kind, Who
from connections.microsoft.response_parser import MicrosoftResponse

SIGN_IN_FREQUENCY = re.compile(
    r"maximum allowed lifetime for this request is (?:(\d{1,4})\.)?(\d{1,9})(?::(\d\d):(\d\d))?",
    re.ASCII,
)
LIFETIME_CODE = 70043
# Speaks of the state of the service, whatever number is beside it.
OUTAGE_ERROR = "temporarily_unavailable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one answer means. Holds no secret: it may be logged, shown and stored."""

    kind: Kind
    code: str  # "AADSTS50173", a Graph code, an OAuth error, or "http-503"; "" for ok
    cause: str  # a sentence for people: what happened
    action: str  # a sentence for people: what to do
    who: Who  # who can do it
    retry_after: float | None = None  # seconds
    certain: bool = False  # may this one answer flag a connection (or its app registration)?
    app_wide: bool = False  # the app registration is broken, not this one connection
    credential: bool = False  # this client secret or certificate was rejected: try the next one
    name: str = ""  # Microsoft's name of the code, e.g. "FreshTokenNeeded"
    trace_id: str = ""
    correlation_id: str = ""
    timestamp: str = ""
    claims: str = ""  # the claims challenge as JSON text, to be sent with the next request
    max_age_s: int | None = None  # sign-in frequency learnt from AADSTS70043, seconds

    def flags(self) -> bool:
        """May this kind of answer change a connection's status? Needs `certain` as well."""
        return self.kind in FLAGGING


FLAGGING = frozenset({Kind.REAUTH, Kind.CONSENT, Kind.APP_CONFIG, Kind.POLICY})
OK = Verdict(Kind.OK, "", "Microsoft accepted the request.", "Nothing needs to be done.", Who.NOBODY)


def classify(
    *,
    where: str,
    status: int | None,
    headers: Mapping[str, str] | None,
    body: str | bytes | None,
) -> Verdict:
    """Say what one answer of Microsoft means. Never raises, whatever comes.

    `where` is token, authorize, adminconsent or graph. For the two callbacks `body` is the raw
    query string; their verdicts are never `certain`, for they tell how an attempt went and anybody
    can make up such a link: check `state` first. An outage or throttling is never held against a
    connection (kinds transient and throttled do not flag).
    Sources: Microsoft: identity-platform/reference-error-codes, v2-oauth2-auth-code-flow,
    v2-admin-consent, claims-challenge; graph/errors, graph/throttling.
    """
    try:
        answer = response_parser.read(where=where, status=status, headers=headers, body=body)
        return _judge(answer)
    except Exception:  # noqa: BLE001 - the promise above: an unforeseen answer must not stop a sweep
        return _verdict(error_tables.UNREADABLE, "unreadable", None)


def transport_failure(reason: str) -> Verdict:
    """The verdict when no answer came at all: timeout, dns, tls, refused, reset, proxy or other.

    Any other reason is not repeated, because messages of network libraries can hold whole URLs.
    """
    entry = error_tables.TRANSPORT.get(reason)
    code = f"transport-{reason}" if entry else "transport"
    return _verdict(entry or error_tables.NO_ANSWER, code, None)


def _judge(answer: MicrosoftResponse) -> Verdict:
    if answer.success:
        return OK
    if answer.where == "graph":
        entry, code = graph_errors.decide(answer)
    else:
        entry, code = _decide(answer)
    verdict = _verdict(entry, code, answer)
    if code == f"AADSTS{LIFETIME_CODE}":
        verdict = _with_sign_in_frequency(verdict, answer.description)
    return verdict


def _decide(answer: MicrosoftResponse) -> tuple[ErrorMeaning, str]:
    """The class of an answer from Entra, and the code to show.

    In this order: the state of the service (429, 5xx), a known number, suberror, error.
    """
    number, entry = _known(answer)
    code = _label(answer, number)
    if answer.status in (429, 509):
        return (entry if entry and entry.kind is Kind.THROTTLED else error_tables.THROTTLED), code
    if (answer.status or 0) >= 500 or answer.error.lower() == OUTAGE_ERROR:
        passing = entry if entry and entry.kind in (Kind.TRANSIENT, Kind.THROTTLED) else None
        return passing or error_tables.OUTAGE, code
    if answer.status is not None and answer.status < 300:
        return error_tables.NO_TOKEN, code
    by_error = _by_error(answer)
    if entry and entry.vague and by_error and by_error.kind is not entry.kind:
        return by_error, code
    return entry or by_error or _without_error(answer), code


def _known(answer: MicrosoftResponse) -> tuple[int | None, ErrorMeaning | None]:
    """The last known specific number wins; then the family of an unknown one; then a vague one.

    [70002, 70008] means 70008: Microsoft puts the specific number last.
    """
    numbers = [*reversed(answer.numbers), *reversed(answer.described_numbers)]
    known = [(number, error_tables.AADSTS[number]) for number in numbers if number in error_tables.AADSTS]
    for number, entry in known:
        if not entry.vague:
            return number, entry
    for number in numbers:
        if number not in error_tables.AADSTS and (family := family_of(number)):
            return number, family
    return known[0] if known else (None, None)


def family_of(number: int) -> ErrorMeaning | None:
    """What an unknown six or seven digit number means by its family, or None when that is unsafe.

    Microsoft refines a five-digit number by appending digits (16002 → 160021, 50057 → 500571,
    53003 → 530032, 70001 → 7000112, 70002 → 7000215): seen throughout
    identity-platform/reference-error-codes. So the parent is the first five digits; a longer
    common beginning misleads (7000222 is no child of 700022). Vague codes are no safe parent.
    A guess is never certain and never speaks for the whole app.
    """
    digits = str(number)
    if len(digits) not in (6, 7):
        return None
    entry = error_tables.AADSTS.get(int(digits[:5]))
    if entry is None or entry.vague:
        return None
    return ErrorMeaning(entry.kind, entry.who, entry.cause, entry.action)


def _by_error(answer: MicrosoftResponse) -> ErrorMeaning | None:
    by_suberror = error_tables.SUBERRORS.get(answer.suberror.lower())
    entry = by_suberror or error_tables.ERRORS.get(answer.error.lower())
    if entry is error_tables.CLIENT_REJECTED and answer.where != "token":
        return error_tables.CLIENT_NOT_ALLOWED  # no secret is shown on the way through the browser
    return entry


def _without_error(answer: MicrosoftResponse) -> ErrorMeaning:
    if answer.error:
        return error_tables.UNKNOWN
    if answer.where in ("authorize", "adminconsent"):
        return error_tables.EMPTY_CALLBACK
    if answer.status is None and answer.shape == "empty":
        return error_tables.NO_ANSWER
    return error_tables.UNKNOWN if answer.shape == "json" else error_tables.NOT_MICROSOFT


def _label(answer: MicrosoftResponse, number: int | None) -> str:
    if number is None and (answer.numbers or answer.described_numbers):
        number = (answer.numbers or answer.described_numbers)[-1]
    if number is not None:
        return f"AADSTS{number}"
    if answer.error:
        return answer.error
    if answer.status is not None:
        return f"http-{answer.status}"
    return "empty" if answer.shape == "empty" else "unknown"


def _verdict(entry: ErrorMeaning, code: str, answer: MicrosoftResponse | None) -> Verdict:
    if answer is None:
        return Verdict(entry.kind, code, entry.cause, entry.action, entry.who)
    # A flag needs a whole answer of the service itself, and a refusal: not an outage, not a
    # fragment, not a page of some proxy, not a link in a browser.
    trusted = answer.shape == "json" and answer.where in ("token", "graph")
    return Verdict(
        kind=entry.kind,
        code=code,
        cause=entry.cause,
        action=entry.action,
        who=entry.who,
        retry_after=answer.retry_after,
        certain=entry.certain and trusted,
        app_wide=entry.app_wide,
        credential=entry.credential and answer.where == "token",
        name=entry.name,
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
    cause = f"{verdict.cause} The policy asks for a new sign-in every {_span(age)}."
    return replace(verdict, max_age_s=age, cause=cause)


def _span(seconds: int) -> str:
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return word if count == 1 else f"{count} {word}s"
    return f"{seconds} seconds"
