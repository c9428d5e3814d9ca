"""The table of the loops that the sweep is compared with: encrypted refresh tokens and what they were exchanged for."""

from __future__ import annotations

import os
from collections.abc import Sequence

import psycopg
from cryptography.fernet import Fernet

from portal.service_urls import database

_CREATE = """
CREATE TABLE bench_grant (
    id bigserial PRIMARY KEY, version bigint NOT NULL DEFAULT 1,
    refresh_token text NOT NULL, access_token text, expires_at timestamptz, refreshed_at timestamptz
)
"""


def connect() -> psycopg.Connection:
    options = database(os.environ["DATABASE_URL"])
    return psycopg.connect(
        host=options["HOST"],
        user=options["USER"],
        dbname=options["NAME"],
        password=options["PASSWORD"],
        autocommit=True,
    )


def fernet() -> Fernet:
    return Fernet(os.environ["FIELD_ENCRYPTION_KEYS"])


def create(tokens: Sequence[str]) -> None:
    box = fernet()
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(_CREATE)
        rows = [(box.encrypt(token.encode()).decode(),) for token in tokens]
        cursor.executemany("INSERT INTO bench_grant (refresh_token) VALUES (%s)", rows)
