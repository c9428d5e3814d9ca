"""SecretField: a strict wrapper around django-encrypted-model-fields. It binds every value to its place.

If the key is wrong, the library silently returns the ciphertext as if it were the value. It also decrypts values during
validation, and allows comparisons and expressions on encrypted columns. This field prevents all of that.

The encrypted text begins with the place where it belongs: table, column and the row's ``identity``. If a ciphertext is
copied elsewhere, its key still decrypts it, but it is refused because it contains another place.
"""

import logging
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from cryptography.fernet import InvalidToken
from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import models
from encrypted_model_fields.fields import EncryptedTextField, encrypt_str

from connections import keys
from connections.errors import AlteredSecret, UnreadableSecret

logger = logging.getLogger(__name__)

# The column with a row's identity. It is unique, and a trigger refuses to change it (migration 0005).
IDENTITY = "identity"
MAX_NOTED = 1000
_END = "\0"  # ends the place; no name of a table or column contains it
_JOINT = "|"  # separates identity and ciphertext in the result of a query


@dataclass(frozen=True, slots=True)
class Place:
    """Where an encrypted value is stored. ``identity`` is that of the row, as 32 hexadecimal digits."""

    table: str
    column: str
    identity: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}:{self.identity}"


# Places where this process has found a value that does not belong there. services.operations.secret_check reports them.
altered: set[Place] = set()


class Ciphertext(str):
    """A value that is encrypted for one place. Queries may store it. Plaintext must go through SecretField.encrypt."""

    __slots__ = ()


class SecretField(EncryptedTextField):  # type: ignore[misc]
    """Text that is encrypted for its row. Queries may only use ``isnull``.

    Reading raises UnreadableSecret or AlteredSecret.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"null": True, "blank": True, "editable": False, **kwargs})

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        messages: list[CheckMessage] = super().check(**kwargs)
        try:
            identity = self.model._meta.get_field(IDENTITY)
        except FieldDoesNotExist:
            identity = None
        if not (isinstance(identity, models.UUIDField) and identity.unique):
            problem = f"{self} needs the unique UUIDField “{IDENTITY}” in its model, to which its values are bound."
            messages.append(Error(problem, obj=self, id="connections.E008"))
        return messages

    def place(self, identity: UUID | str) -> Place:
        return Place(self.model._meta.db_table, self.column, str(identity).replace("-", ""))

    def encrypt(self, secret: str, identity: UUID | str) -> Ciphertext:
        """Encrypt the secret with the first key, for the row with this identity."""
        ciphertext: bytes = encrypt_str(f"{self.place(identity)}{_END}{secret}")
        return Ciphertext(ciphertext.decode("ascii"))

    def decrypt(self, ciphertext: str, identity: UUID | str) -> str:
        """Decrypt a value that is stored in the row with this identity.

        Raises UnreadableSecret if no configured key fits, and AlteredSecret if the value belongs to another place or
        was changed.
        """
        # Use the same object throughout, because the keys may be reloaded at any time.
        keyring, key_id = keys.current(), keys.id_in(ciphertext)
        try:
            opened = keyring.decrypt(ciphertext).decode()
        except InvalidToken as wrong_key:
            if key_id in keyring.ids:
                raise self.refusal(identity) from wrong_key
            raise UnreadableSecret(key_id=key_id) from wrong_key
        bound_to, _, secret = opened.partition(_END)
        if bound_to != str(self.place(identity)):
            raise self.refusal(identity)
        return secret

    def refusal(self, identity: UUID | str) -> AlteredSecret:
        """Return the error to raise for a value that doesn't belong in this row. It is logged, and noted for an
        incident.
        """
        place = self.place(identity)
        if len(altered) < MAX_NOTED:
            altered.add(place)
        logger.error("A stored secret was moved or altered: %s", place)
        return AlteredSecret(place)

    def to_python(self, value: Any) -> Any:
        return models.TextField.to_python(self, value)

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """Select the row's identity with the value, so that from_db_value can check that they belong together."""
        quote = compiler.connection.ops.quote_name
        table, _, column = sql.rpartition(".")
        if column != quote(self.column):
            raise FieldError(f"{self.name} is encrypted and can be read only as a column of its own table.")
        cast_to_text = "::text" if compiler.connection.vendor == "postgresql" else ""
        return f"{table}.{quote(IDENTITY)}{cast_to_text} || '{_JOINT}' || {sql}", params

    def from_db_value(self, value: str | None, *args: Any) -> str | None:
        if value is None:
            return None
        identity, joint, ciphertext = value.partition(_JOINT)
        if not joint:
            raise FieldError(f"{self.name} was read without its row's identity: open it with SecretField.decrypt.")
        return self.decrypt(ciphertext, identity)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        if value is None or isinstance(value, Ciphertext) or hasattr(value, "resolve_expression"):
            return value
        return self.encrypt(str(value), getattr(model_instance, IDENTITY))

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        if hasattr(value, "resolve_expression"):
            raise FieldError(f"{self.name} is encrypted: an expression would be stored as its own text.")
        if value is not None and not isinstance(value, Ciphertext):
            raise FieldError(f"{self.name} is encrypted for one row: store what SecretField.encrypt returns.")
        return None if value is None else str(value)

    def get_lookup(self, lookup_name: str) -> Any:
        if lookup_name != "isnull":
            raise FieldError(f"{self.name} is encrypted and cannot be searched; only isnull is possible.")
        return super().get_lookup(lookup_name)

    def get_transform(self, lookup_name: str) -> Any:
        raise FieldError(f"{self.name} is encrypted and cannot be transformed in a query.")

    def value_to_string(self, obj: models.Model) -> str:
        # Return "". Serializers such as dumpdata would otherwise write the plaintext to a file.
        return ""


def secret_field(model: type[models.Model], name: str) -> SecretField:
    """Return the encrypted column of a model, for code that encrypts or decrypts outside of the ORM."""
    return cast(SecretField, model._meta.get_field(name))
