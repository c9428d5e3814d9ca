"""Decides what a response from Microsoft Graph means. The codes themselves are in data/errors.toml.

Sources: Microsoft: graph/errors ("use the most detailed code you understand"), graph/throttling,
graph/auth-limit-mailbox-access; identity-platform/claims-challenge.
"""

from connections.microsoft import error_tables
from connections.microsoft.error_tables import BY_ID, GRAPH, STATUSES
from connections.microsoft.error_types import ErrorMeaning, Kind
from connections.microsoft.response_parser import MicrosoftResponse

NO_ACCESS = BY_ID["no_access"]
OUTSIDE_APP_POLICY = BY_ID["outside_app_policy"]
CLAIMS_WANTED = BY_ID["claims_wanted"]
CLAIMS_FORBIDDEN = BY_ID["claims_forbidden"]
BAD_REQUEST = BY_ID["graph_bad_request"]
# The number in Exchange's x-ms-diagnostics for a token without any roles.
EXCHANGE_WITHOUT_ROLES = "2000008"
# Graph has no other sign that a mailbox is outside an application access policy. Source: Microsoft:
# graph/auth-limit-mailbox-access, "Handling API errors".
APP_POLICY_TEXT = "Access to OData is disabled"

_FOLDED = {code.lower(): meaning for code, meaning in GRAPH.items()}


def decide(answer: MicrosoftResponse) -> tuple[ErrorMeaning, str]:
    """Return the meaning of a response from Graph, and the code to show."""
    meaning, code = _known(answer)
    status = answer.status
    if status in (429, 509) or (meaning and meaning.kind is Kind.THROTTLED) or "throttl" in code.lower():
        return (meaning if meaning and meaning.kind is Kind.THROTTLED else error_tables.THROTTLED), code
    if status is not None and status >= 500:
        passing = meaning if meaning and meaning.kind is Kind.TRANSIENT else None
        return passing or STATUSES.get(status, error_tables.OUTAGE), code
    if answer.challenge == "insufficient_claims" or answer.claims:
        return (CLAIMS_FORBIDDEN if status == 403 else CLAIMS_WANTED), code
    if answer.diagnostics == EXCHANGE_WITHOUT_ROLES:
        return GRAPH["NoPermissionsInAccessToken"], code
    if meaning is NO_ACCESS and answer.description.startswith(APP_POLICY_TEXT):
        return OUTSIDE_APP_POLICY, code
    return meaning or _by_status(answer), code


def _known(answer: MicrosoftResponse) -> tuple[ErrorMeaning | None, str]:
    """Return the meaning of the innermost known code, which is the most specific, and that code (graph/errors)."""
    for code in reversed(answer.graph_codes):
        if meaning := _FOLDED.get(code.lower()):
            return meaning, code
    if answer.graph_codes:
        return None, answer.graph_codes[0]
    return None, f"http-{answer.status}" if answer.status is not None else "unknown"


def _by_status(answer: MicrosoftResponse) -> ErrorMeaning:
    status = answer.status
    if status is None:
        return error_tables.NO_ANSWER if answer.shape == "empty" else error_tables.UNKNOWN
    if status < 400:  # a redirect, or a success status whose body is an error or a web page
        return error_tables.NOT_MICROSOFT if answer.shape == "markup" else error_tables.UNKNOWN
    if answer.shape in ("markup", "text") or (answer.shape == "empty" and status in (403, 404)):
        return error_tables.NOT_MICROSOFT
    if status == 451:
        return error_tables.BLOCKED
    return STATUSES.get(status, BAD_REQUEST)
