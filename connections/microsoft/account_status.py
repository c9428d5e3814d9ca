"""Recognises responses in which Microsoft says that an account is disabled or no longer exists.

Errors about guests and about the wrong directory are not included. They mean that the account is not in this directory,
not that it was removed (identity-platform/reference-error-codes).
"""

from connections.microsoft.classifier import Verdict

_CAUSES = {
    "AADSTS50057": "The account is disabled at Microsoft.",
    "AADSTS50034": "The account no longer exists in its directory.",
    "AADSTS500341": "The account was deleted at Microsoft.",
}
GONE_CODES = frozenset(_CAUSES)


def is_account_gone(code: str) -> bool:
    return code in _CAUSES


def cause(verdict: Verdict) -> str:
    """Return a sentence on why the account can no longer be used, or "" if the response does not prove that."""
    return _CAUSES.get(verdict.code, "") if verdict.certain else ""
