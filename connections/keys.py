"""The encryption keys of this process: their IDs, the key that encrypts, and reloading them."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from encrypted_model_fields import fields as library

ID_LENGTH = 8
_SEPARATOR = b":"


def key_id(key: str) -> str:
    """Return a short ID for a key: the start of a hash, which reveals nothing. Raises ValueError if it is not a key."""
    return hashlib.sha256(b"portal encryption key:" + base64.urlsafe_b64decode(key)).hexdigest()[:ID_LENGTH]


def id_in(ciphertext: str) -> str:
    """Return the ID of the key that a stored value was encrypted with; "" if the value has no key ID."""
    name, separator, _ = ciphertext.partition(_SEPARATOR.decode())
    return name if separator and len(name) == ID_LENGTH else ""


class Keyring(MultiFernet):
    """Fernet keys. The first one encrypts, and all decrypt. A ciphertext begins with the ID of its key.

    The ID makes it possible to count values by key without decrypting them, and to distinguish a missing key from a
    forgery.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._by_id = {key_id(key).encode(): Fernet(key) for key in keys}
        super().__init__(list(self._by_id.values()))
        self.ids = tuple(name.decode() for name in self._by_id)

    def encrypt(self, msg: bytes) -> bytes:
        return self.ids[0].encode() + _SEPARATOR + super().encrypt(msg)

    def decrypt(self, msg: bytes | str, ttl: int | None = None) -> bytes:
        """Decrypt a value with the key whose ID it has, or with any key if it has no ID. Raises InvalidToken."""
        text = msg.encode() if isinstance(msg, str) else msg
        name, separator, token = text.partition(_SEPARATOR)
        if not separator:
            return super().decrypt(text, ttl)
        if name not in self._by_id:
            raise InvalidToken
        return self._by_id[name].decrypt(token, ttl)


def current() -> Keyring:
    """Return the keys in use, with which the library encrypts and decrypts."""
    keyring: Any = library.CRYPTER
    assert isinstance(keyring, Keyring)  # noqa: S101 - set below, before anything is encrypted
    return keyring


def reload() -> Keyring:
    """Read FIELD_ENCRYPTION_KEYS_FILE again. Raises OSError or ValueError; the current keys then stay in use."""
    if not settings.FIELD_ENCRYPTION_KEYS_FILE:
        raise ValueError("FIELD_ENCRYPTION_KEYS_FILE is not set, so the keys can only change with a restart.")
    text = Path(settings.FIELD_ENCRYPTION_KEYS_FILE).read_text(encoding="ascii")
    keyring = Keyring(text.replace(",", " ").split())
    library.CRYPTER = keyring
    return keyring


library.CRYPTER = Keyring(settings.FIELD_ENCRYPTION_KEY)
