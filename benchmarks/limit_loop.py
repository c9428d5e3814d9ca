"""The limit: what refreshing costs with libcurl, Fernet and one statement for each batch, and nothing else.

Nothing is classified, checked, recorded or reported here, and nobody else may refresh the same rows meanwhile.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import psycopg
import pycurl

from benchmarks import grants, loop
from portal.sandbox import seed

BATCH = 500
IN_FLIGHT = 200
GATHER = 0.004  # seconds to wait for more answers
_WRITE = """
UPDATE bench_grant AS g SET refresh_token = v.refresh, access_token = v.access, expires_at = v.expires,
    refreshed_at = %b, version = g.version + 1
FROM unnest(%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::timestamptz[])
    AS v(id, seen, refresh, access, expires)
WHERE g.id = v.id AND g.version = v.seen
"""


class Limit:
    def __init__(self) -> None:
        self._database = grants.connect()
        self._fernet = grants.fernet()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, IN_FLIGHT)
        self._idle = [_handle() for _ in range(IN_FLIGHT)]
        client = {"grant_type": "refresh_token", "client_id": seed.CONNECTIONS_APP, "scope": "Mail.Read"}
        self._prefix = urlencode({**client, "client_secret": seed.CONNECTIONS_SECRET}) + "&refresh_token="

    def refresh(self, count: int) -> None:
        for first in range(0, count, BATCH):
            rows = self._database.execute(
                "SELECT id, version, refresh_token FROM bench_grant ORDER BY id LIMIT %s OFFSET %s",
                (min(BATCH, count - first), first),
            ).fetchall()
            self._write(list(self._exchange(rows)))

    def _exchange(self, rows: list[Any]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        waiting, running = iter(rows), 0
        while True:
            while self._idle and (row := next(waiting, None)):
                handle, handle.body, handle.row = self._idle.pop(), BytesIO(), row
                token = self._fernet.decrypt(row[2]).decode()
                handle.setopt(pycurl.POSTFIELDS, self._prefix + token)
                handle.setopt(pycurl.WRITEDATA, handle.body)
                self._multi.add_handle(handle)
                running += 1
            if not running:
                return
            self._multi.perform()
            _, done, failed = self._multi.info_read()
            if failed:
                raise RuntimeError(failed[0][2])
            if not done:
                self._multi.select(1.0)
                time.sleep(GATHER)
            for handle in done:
                self._multi.remove_handle(handle)
                self._idle.append(handle)
                running -= 1
                yield handle.row[0], handle.row[1], json.loads(handle.body.getvalue())

    def _write(self, answers: list[tuple[int, int, dict[str, Any]]]) -> None:
        now = datetime.now(UTC)
        columns = [
            [pk for pk, _, _ in answers],
            [seen for _, seen, _ in answers],
            [self._fernet.encrypt(answer["refresh_token"].encode()).decode() for _, _, answer in answers],
            [self._fernet.encrypt(answer["access_token"].encode()).decode() for _, _, answer in answers],
            [now + timedelta(seconds=answer["expires_in"]) for _, _, answer in answers],
        ]
        with psycopg.Cursor(self._database) as cursor:
            cursor.execute(_WRITE, [now, *columns])


class _Handle(pycurl.Curl):  # type: ignore[misc]
    """A request that knows its row and keeps its answer."""

    row: Any
    body: BytesIO


def _handle() -> _Handle:
    handle = _Handle()
    handle.setopt(pycurl.URL, f"{os.environ['MICROSOFT_SANDBOX_URL']}/{seed.CONTOSO}/oauth2/v2.0/token")
    handle.setopt(pycurl.CAINFO, os.environ["MICROSOFT_CA_BUNDLE"])
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    return handle


if __name__ == "__main__":
    loop.serve(Limit().refresh)
