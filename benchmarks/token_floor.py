"""The minimum cost of a token request under the portal's server: no framework, one SQL statement, one decryption.

It takes the place of portal.asgi: same server, same database, but nothing is checked, limited, recorded or logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

import psycopg
from cryptography.fernet import Fernet

from portal import service_urls
from portal.server import serve

CONNECTIONS = 8
_STATEMENT = """
SELECT c.access_token, c.expires_at, c.granted_scopes FROM connections_apikey k
JOIN connections_connection c ON c.owner_id = k.owner_id WHERE k.digest = %s AND c.id = %s
"""


class Floor:
    """The ASGI application, with persistent connections to the database."""

    def __init__(self) -> None:
        self._fernet = Fernet(os.environ["FIELD_ENCRYPTION_KEYS"].split(",")[0])
        self._connections: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()

    def stop_waiting(self) -> None:
        """Called by portal.server when it stops."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            place = service_urls.database(os.environ["DATABASE_URL"])
            login = {"host": place["HOST"], "dbname": place["NAME"], "user": place["USER"]}
            for _ in range(CONNECTIONS):
                self._connections.put_nowait(await psycopg.AsyncConnection.connect(**login, autocommit=True))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b"{}"
        if scope["path"] != "/healthz":
            key = dict(scope["headers"])[b"authorization"].removeprefix(b"Bearer ")
            parameters = [hashlib.sha256(key).hexdigest(), int(scope["path"].split("/")[4])]
            connection = await self._connections.get()
            try:
                row = await (await connection.execute(_STATEMENT, parameters, prepare=True)).fetchone()
            finally:
                self._connections.put_nowait(connection)
            assert row is not None
            # A stored value is the key's id and a ciphertext, which holds the value's place and the token.
            opened = self._fernet.decrypt(row[0].partition(":")[2].encode()).decode()
            token = opened.partition("\0")[2]
            answer = {"access_token": token, "token_type": "Bearer", "expires_at": row[1].isoformat(), "scope": row[2]}
            body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


application = Floor()

if __name__ == "__main__":
    serve("benchmarks.token_floor:application")
