"""A token endpoint over TLS that costs next to nothing, so that it is not what a benchmark measures.

Every POST is answered with about 2.5 KB, like Microsoft's: an access token, a new refresh token and an ID token. Run as
``python -m benchmarks.token_server CERTIFICATE KEY``. Reads commands from standard input, one a line: ``count`` prints
how many tokens were issued, ``delay 0.15`` sets the seconds before each answer.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
import sys
from typing import Any

import uvloop

from portal.sandbox import seed

ACCOUNT = "ada@contoso.example"
issued = itertools.count(1)
state: dict[str, Any] = {"issued": 0, "delay": 0.0, "url": ""}


def _jwt(claims: dict[str, Any], size: int) -> str:
    """Return text with the form and about the size of a signed token."""
    encoded = base64.urlsafe_b64encode(json.dumps({**claims, "pad": "x" * size}).encode()).rstrip(b"=").decode()
    return f"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.{encoded}.{'s' * 342}"


_ACCOUNT = {"tid": seed.CONTOSO, "oid": seed.fixed_id("ada"), "preferred_username": ACCOUNT, "name": ACCOUNT}
_ACCESS = _jwt({"aud": "graph", "ver": "1.0"}, 500)
_ID = _jwt({"aud": seed.CONNECTIONS_APP, "ver": "2.0", "sub": "ada", "exp": 4_000_000_000, **_ACCOUNT}, 100)
_TOKENS = json.dumps(
    {
        "token_type": "Bearer",
        "scope": "https://graph.microsoft.com/Mail.Read openid profile",
        "expires_in": 3600,
        "access_token": f"{_ACCESS}-NUMBER",
        "refresh_token": f"1.{'A' * 700}-NUMBER",
        "id_token": _ID,
    }
)
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"


def _answer(body: str) -> bytes:
    return f"{_HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Endpoint(asyncio.Protocol):
    """One connection of a client, which sends one request at a time."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, rest = head.lower().partition(b"\r\ncontent-length:")
        if len(body) < int(rest.partition(b"\r\n")[0] or 0):
            return
        self._received = b""
        if head.startswith(b"POST"):
            asyncio.get_running_loop().call_later(state["delay"], self._send_tokens)
        else:
            path = head.split(b" ", 2)[1].decode().partition("/v2.0/")[0]
            self._transport.write(_answer(_discovery(f"{state['url']}{path}")))

    def _send_tokens(self) -> None:
        if not self._transport.is_closing():
            state["issued"] += 1
            self._transport.write(_answer(_TOKENS.replace("NUMBER", str(next(issued)))))


def _discovery(authority: str) -> str:
    endpoints = {"authorization_endpoint": "authorize", "token_endpoint": "token", "device_authorization_endpoint": "x"}
    return json.dumps(
        {"issuer": f"{authority}/v2.0", **{name: f"{authority}/oauth2/v2.0/{end}" for name, end in endpoints.items()}}
    )


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0, ssl=context, backlog=1000)
    state["url"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(state["url"], flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, _, value = line.strip().partition(" ")
        if command == "delay":
            state["delay"] = float(value)
        print(state["issued"], flush=True)


if __name__ == "__main__":
    uvloop.run(main())
