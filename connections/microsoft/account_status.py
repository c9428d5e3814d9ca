"""Which of Microsoft's answers say that an account is disabled or no longer exists.

Answers about guests and about the wrong directory are left out: they say where an account is not, not that it was
removed (identity-platform/reference-error-codes).
"""

from connections.microsoft.classifier import Verdict

_CAUSES = {
    "AADSTS50057": "The account is disabled at Microsoft.",
    "AADSTS50034": "The account does not exist in its directory any more.",
    "AADSTS500341": "The account was deleted at Microsoft.",
}


def is_account_gone(code: str) -> bool:
    return code in _CAUSES


def cause(verdict: Verdict) -> str:
    """One sentence on why the account cannot be used any more, or "" if the answer does not prove it."""
    return _CAUSES.get(verdict.code, "") if verdict.certain else ""
