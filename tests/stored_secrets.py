"""Reads and changes encrypted columns by plain SQL, as somebody who may write to the database could."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.fernet import Fernet
from django.db import connection as database
from django.db import models
from encrypted_model_fields import fields as library

from connections.fields import Ciphertext, secret_field
from connections.keys import Keyring


def stored(row: models.Model, column: str) -> str:
    """Return the value of the column as it is stored."""
    with database.cursor() as cursor:
        cursor.execute(f'SELECT "{column}" FROM {row._meta.db_table} WHERE id = %s', [row.pk])
        return str(cursor.fetchone()[0])


def plant(row: models.Model, column: str, text: str | None) -> None:
    """Write ``text`` into the column, past the field."""
    with database.cursor() as cursor:
        cursor.execute(f'UPDATE {row._meta.db_table} SET "{column}" = %s WHERE id = %s', [text, row.pk])


def encrypted(row: Any, **secrets: str) -> dict[str, Ciphertext]:
    """Return these secrets encrypted for the row, for ``filter(...).update(**encrypted(row, access_token="x"))``."""
    return {name: secret_field(type(row), name).encrypt(text, row.identity) for name, text in secrets.items()}


def new_key() -> str:
    return Fernet.generate_key().decode()


@contextmanager
def using_keys(*keys: str) -> Iterator[Keyring]:
    """Run a block with these encryption keys; the first one encrypts."""
    before, library.CRYPTER = library.CRYPTER, Keyring(keys)
    try:
        yield library.CRYPTER
    finally:
        library.CRYPTER = before


def under_a_lost_key(text: str = "sealed with a key that is gone") -> str:
    """Return a ciphertext whose key is not configured here."""
    return Keyring([new_key()]).encrypt(text.encode()).decode()
