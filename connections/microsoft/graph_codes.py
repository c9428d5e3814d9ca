"""What each error of Microsoft Graph means to people, as data, and the rule that picks one."""

from connections.microsoft.answers import Answer
from connections.microsoft.error_codes import OUTAGE, SIGN_IN_NEEDED, Entry


def decide(answer: Answer) -> tuple[Entry, str]:
    """The class of an answer of Graph, and the code to show."""
    code = answer.graph_codes[0] if answer.graph_codes else f"http-{answer.status}"
    return (SIGN_IN_NEEDED if answer.status == 401 else OUTAGE), code
