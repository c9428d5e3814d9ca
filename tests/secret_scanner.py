"""Searches the database, broker, cache and logs for secrets in clear text.

``found()`` recognises secrets by their shape and also searches for known ones.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import redis
from django.conf import settings
from django.db import connection as database

from tests.environment import run_directory

# JSON Web Tokens (access and ID tokens); refresh tokens and codes in the format of Entra and the sandbox; the sandbox's
# client secrets; private keys. No word boundaries, because values in a database file follow each other without a gap.
SHAPES = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{8,}|[01]\.A[\w-]{20,}|sbx8Q~[\w.~-]{8,}|BEGIN (?:RSA )?PRIVATE KEY")


def found(known: Iterable[str] = ()) -> list[str]:
    """Return every place with a secret in clear text, as "place: first characters"."""
    needles = [secret.encode() for secret in known if secret]
    traces = []
    for place, content in places():
        hits = [match.group() for match in SHAPES.finditer(content)] + [
            needle for needle in needles if needle in content
        ]
        traces += [f"{place}: {hit[:12].decode()}..." for hit in dict.fromkeys(hits)]
    return traces


def places() -> Iterator[tuple[str, bytes]]:
    """Yield all stored content as raw bytes."""
    yield from _database()
    yield from _redis()
    for log in sorted((run_directory() / "logs").glob("*")):
        yield f"log {log.name}", log.read_bytes()


def _database() -> Iterator[tuple[str, bytes]]:
    if database.vendor == "sqlite":
        database.ensure_connection()
        yield "database dump", "\n".join(database.connection.iterdump()).encode()
        # The files also contain deleted rows and the write-ahead log.
        name = str(database.settings_dict["NAME"])
        for path in sorted(Path(name).parent.glob(f"{Path(name).name}*")):
            # In a separate process: closing the file here would drop this process's SQLite locks (POSIX), and the next
            # writer would corrupt the database.
            content = subprocess.run(["cat", str(path)], capture_output=True, check=True).stdout
            yield f"database file {path.name}", content
        return
    with database.cursor() as cursor:
        for table in database.introspection.table_names(cursor):
            cursor.execute(f'SELECT string_agg(t::text, chr(10)) FROM "{table}" t')
            yield f"table {table}", (cursor.fetchone()[0] or "").encode()


def _redis() -> Iterator[tuple[str, bytes]]:
    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        for key in client.scan_iter():
            # DUMP returns the stored value, whatever its type.
            yield f"broker key {key!r}", key + (client.dump(key) or b"")
    finally:
        client.close()
