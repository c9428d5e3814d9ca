"""SecretField: the strict wrapper round django-encrypted-model-fields.

The library returns the ciphertext as if it were the value when the key is wrong, decrypts what it is asked to
validate, and lets encrypted columns be compared and computed with. Each of those silently destroys or leaks a
secret, so this field refuses them.
"""

from typing import Any

from cryptography.fernet import InvalidToken
from django.core.exceptions import FieldError
from django.db import models
from django.db.models.expressions import BaseExpression
from encrypted_model_fields.fields import EncryptedTextField, decrypt_str, encrypt_str

from connections.errors import UnreadableSecret


def encrypt(secret: str) -> str:
    """Encrypt ``secret`` with the first configured key, as the column stores it."""
    sealed: bytes = encrypt_str(secret)
    return sealed.decode("ascii")


def decrypt(sealed: str) -> str:
    """Decrypt a stored value.

    Raises UnreadableSecret if no configured key opens it (wrong key, or never encrypted).
    """
    try:
        opened: str = decrypt_str(sealed)
    except InvalidToken as wrong_key:
        raise UnreadableSecret from wrong_key
    return opened


class SecretField(EncryptedTextField):  # type: ignore[misc]
    """A text column that is encrypted at rest. "No secret" is NULL.

    Reading raises UnreadableSecret when no key fits. Only ``isnull`` may be asked of it in a query.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("null", True)
        kwargs.setdefault("blank", True)
        kwargs.setdefault("editable", False)
        super().__init__(*args, **kwargs)

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
        # Serializers (dumpdata) would write the plaintext into a file.
        return ""
