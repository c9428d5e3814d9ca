"""The encryption keys of this process: what each is called, which one encrypts, and how they are read again."""

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
    """A short name for a key that tells nothing about it: the start of a hash. Raises ValueError for other text."""
    return hashlib.sha256(b"portal encryption key:" + base64.urlsafe_b64decode(key)).hexdigest()[:ID_LENGTH]


def id_in(ciphertext: str) -> str:
    """The id of the key a stored value was encrypted with; empty if the value does not name one."""
    name, separator, _ = ciphertext.partition(_SEPARATOR.decode())
    return name if separator and len(name) == ID_LENGTH else ""


class Keyring(MultiFernet):
    """Fernet keys: the first one encrypts, all decrypt. A ciphertext begins with the id of its key.

    The id makes it possible to count values by key without opening them, and to tell a missing key from a forgery.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._by_id = {key_id(key).encode(): Fernet(key) for key in keys}
        super().__init__(list(self._by_id.values()))
        self.ids = tuple(name.decode() for name in self._by_id)

    def encrypt(self, msg: bytes) -> bytes:
        return self.ids[0].encode() + _SEPARATOR + super().encrypt(msg)

    def decrypt(self, msg: bytes | str, ttl: int | None = None) -> bytes:
        """Raises InvalidToken unless the named key opens it; a value without a name may be opened by any key."""
        text = msg.encode() if isinstance(msg, str) else msg
        name, separator, token = text.partition(_SEPARATOR)
        if not separator:
            return super().decrypt(text, ttl)
        if name not in self._by_id:
            raise InvalidToken
        return self._by_id[name].decrypt(token, ttl)


def current() -> Keyring:
    """The keys in use, which the library encrypts and decrypts with."""
    keyring: Any = library.CRYPTER
    assert isinstance(keyring, Keyring)  # noqa: S101 - set below, before anything is encrypted
    return keyring


def reload() -> Keyring:
    """Read FIELD_ENCRYPTION_KEYS_FILE again. Raises OSError or ValueError; then the keys in use stay."""
    if not settings.FIELD_ENCRYPTION_KEYS_FILE:
        raise ValueError("FIELD_ENCRYPTION_KEYS_FILE is not set, so the keys can only change with a restart.")
    text = Path(settings.FIELD_ENCRYPTION_KEYS_FILE).read_text(encoding="ascii")
    keyring = Keyring(text.replace(",", " ").split())
    library.CRYPTER = keyring
    return keyring


library.CRYPTER = Keyring(settings.FIELD_ENCRYPTION_KEY)
