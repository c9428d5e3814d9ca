"""Says what an answer of Microsoft means: what happened, who can do what, and may it flag anything.

Every answer of Microsoft to the portal goes through classify(). `error` and `suberror` decide, the
AADSTS number only refines, because Microsoft changes numbers and wording without notice
(Microsoft: identity-platform/reference-error-codes).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from connections.microsoft import answers, error_codes, graph_codes
from connections.microsoft.answers import Answer
from connections.microsoft.error_codes import Entry, Kind, Who

__all__ = ["Kind", "Verdict", "Who", "classify", "transport_failure"]

SIGN_IN_FREQUENCY = re.compile(
    r"maximum allowed lifetime for this request is (?:(\d{1,4})\.)?(\d{1,9})(?::(\d\d):(\d\d))?",
    re.ASCII,
)
LIFETIME_CODE = 70043


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
OK = Verdict(
    Kind.OK, "", "Microsoft accepted the request.", "Nothing needs to be done.", Who.NOBODY
)


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
        answer = answers.read(where=where, status=status, headers=headers, body=body)
        return _judge(answer)
    except Exception:  # the promise above: an answer nobody foresaw must not stop a sweep
        return _verdict(error_codes.UNREADABLE, "unreadable", None)


def transport_failure(reason: str) -> Verdict:
    """The verdict when no answer came at all: timeout, dns, tls, refused, reset, proxy or other.

    Any other reason is not repeated, because messages of network libraries can hold whole URLs.
    """
    entry = error_codes.TRANSPORT.get(reason)
    code = f"transport-{reason}" if entry else "transport"
    return _verdict(entry or error_codes.NO_ANSWER, code, None)


def _judge(answer: Answer) -> Verdict:
    if answer.success:
        return OK
    if answer.where == "graph":
        entry, code = graph_codes.decide(answer)
    else:
        entry, code = _decide(answer)
    verdict = _verdict(entry, code, answer)
    if code == f"AADSTS{LIFETIME_CODE}":
        verdict = _with_sign_in_frequency(verdict, answer.description)
    return verdict


def _decide(answer: Answer) -> tuple[Entry, str]:
    """The class of an answer from Entra, and the code to show.

    In this order: the state of the service (5xx, 429), a known code, its parent, suberror, error.
    """
    number, entry = _known(answer)
    code = _label(answer, number)
    if answer.status == 429:
        return (entry if entry and entry.kind is Kind.THROTTLED else error_codes.THROTTLED), code
    if answer.status == 509:
        return error_codes.THROTTLED, code
    if answer.status is not None and answer.status >= 500 or answer.error in error_codes.OUTAGES:
        if entry and entry.kind in (Kind.TRANSIENT, Kind.THROTTLED):
            return entry, code
        return error_codes.OUTAGE, code
    if answer.status is not None and 200 <= answer.status < 300:
        return error_codes.NO_TOKEN, code
    if entry:
        return _settled(entry, answer), code
    by_error = error_codes.SUBERRORS.get(answer.suberror.lower()) or error_codes.ERRORS.get(
        answer.error.lower()
    )
    if by_error:
        return by_error, code
    if answer.where in ("authorize", "adminconsent"):
        return (error_codes.UNKNOWN if answer.error else error_codes.EMPTY_CALLBACK), code
    return (error_codes.UNKNOWN if answer.shape == "json" else error_codes.NOT_MICROSOFT), code


def _known(answer: Answer) -> tuple[int | None, Entry | None]:
    """The last known specific number wins; then a known vague one; then the parent of a child.

    [70002, 70008] means 70008: Microsoft puts the specific number last.
    """
    numbers = [*reversed(answer.numbers)] + [*reversed(answer.described_numbers)]
    known = [(n, e) for n in numbers if (e := error_codes.AADSTS.get(n))]
    for number, entry in known:
        if not entry.vague:
            return number, entry
    for number in numbers:
        if parent := error_codes.parent(number):
            return number, parent
    return known[0] if known else (None, None)


def _settled(entry: Entry, answer: Answer) -> Entry:
    """A vague code leaves the class to suberror and error; it keeps its own words if they agree."""
    if not entry.vague:
        return entry
    ruled = error_codes.SUBERRORS.get(answer.suberror.lower()) or error_codes.ERRORS.get(
        answer.error.lower()
    )
    return ruled if ruled and ruled.kind is not entry.kind else entry


def _label(answer: Answer, number: int | None) -> str:
    if number is None and (answer.numbers or answer.described_numbers):
        number = (answer.numbers or answer.described_numbers)[-1]
    if number is not None:
        return f"AADSTS{number}"
    if answer.error:
        return answer.error
    if answer.status is not None:
        return f"http-{answer.status}"
    return "empty" if answer.shape == "empty" else "unknown"


def _verdict(entry: Entry, code: str, answer: Answer | None) -> Verdict:
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
        credential=entry.credential,
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
