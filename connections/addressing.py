"""Sentences about the owner or an IT admin, rewritten for readers who are that person."""

import re

OWNER, IT_ADMIN = "owner", "it_admin"

_NAMES = {OWNER: "he owner", IT_ADMIN: "n IT admin"}
_VERBS = {"needs to": "need to", "can": "can", "should": "should"}
_ORDER = re.compile(r"\bAn IT admin needs to (\w)")


def speak_to(reader: str, text: str) -> str:
    """Address the sentence to ``reader`` (OWNER or IT_ADMIN): "The owner needs to sign in" → "You need to sign in".

    For IT admins, the beginning of a sentence becomes a request: "An IT admin needs to grant consent" → "Grant
    consent". For any other reader, the text stays the same.
    """
    if reader not in _NAMES:
        return text
    if reader == IT_ADMIN:
        text = _ORDER.sub(lambda match: match[1].upper(), text)
    return re.sub(
        rf"\b([TtAa]){_NAMES[reader]} ({'|'.join(_VERBS)})\b",
        lambda match: f"{'You' if match[1].isupper() else 'you'} {_VERBS[match[2]]}",
        text,
    )
