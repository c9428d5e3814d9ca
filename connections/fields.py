"""SecretField: a strict wrapper around django-encrypted-model-fields.

If the key is wrong, the library silently returns the ciphertext as if it were the value. It also decrypts values during
validation, and allows comparisons and expressions on encrypted columns. This field prevents all of that.
"""

from typing import Any

from cryptography.fernet import InvalidToken
from django.core.exceptions import FieldError
from django.db import models
from django.db.models.expressions import BaseExpression
from encrypted_model_fields.fields import EncryptedTextField, decrypt_str, encrypt_str

from connections.errors import UnreadableSecret


def encrypt(secret: str) -> str:
    """Encrypt with the first configured key, in the form in which the column stores it."""
    ciphertext: bytes = encrypt_str(secret)
    return ciphertext.decode("ascii")


def decrypt(ciphertext: str) -> str:
    """Decrypt a stored value. Raises UnreadableSecret if no configured key fits, or if it was never encrypted."""
    try:
        secret: str = decrypt_str(ciphertext)
    except InvalidToken as wrong_key:
        raise UnreadableSecret from wrong_key
    return secret


class SecretField(EncryptedTextField):  # type: ignore[misc]
    """Text encrypted at rest. Reading raises UnreadableSecret if no key fits; queries may only use ``isnull``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"null": True, "blank": True, "editable": False, **kwargs})

    def to_python(self, value: Any) -> Any:
        return models.TextField.to_python(self, value)

    def from_db_value(self, value: str | None, *args: Any) -> str | None:
        return None if value is None else decrypt(value)

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        if isinstance(value, BaseExpression) or hasattr(value, "resolve_expression"):
            raise FieldError(f"{self.name} is encrypted: an expression would be stored as its own text.")
        return None if value is None else encrypt(str(value))

    def get_lookup(self, lookup_name: str) -> Any:
        if lookup_name != "isnull":
            raise FieldError(f"{self.name} is encrypted and cannot be searched; only isnull is possible.")
        return super().get_lookup(lookup_name)

    def get_transform(self, lookup_name: str) -> Any:
        raise FieldError(f"{self.name} is encrypted and cannot be transformed in a query.")

    def value_to_string(self, obj: models.Model) -> str:
        # Serializers such as dumpdata would write the plaintext to a file.
        return ""
