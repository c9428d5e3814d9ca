"""Which of Microsoft's answers say that an account is disabled or no longer exists.

Answers about guests and about the wrong directory are left out: they tell where an account is not, and not that it
is gone (identity-platform/reference-error-codes).
"""

from __future__ import annotations

from connections.microsoft.classifier import Verdict

_WORDS = {
    "AADSTS50057": "The account is disabled at Microsoft.",
    "AADSTS50034": "The account does not exist in its directory any more.",
    "AADSTS500341": "The account was deleted at Microsoft.",
}


def is_account_gone(code: str) -> bool:
    """Whether a verdict's code means that the account is disabled or deleted."""
    return code in _WORDS


def cause(verdict: Verdict) -> str:
    """Why the account counts as gone, in one sentence; "" if the answer does not prove it."""
    return _WORDS.get(verdict.code, "") if verdict.certain else ""
