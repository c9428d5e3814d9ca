"""A small load client that simulates many concurrent automations, on one thread with a socket per caller."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One response; ``seconds`` is the time from sending to the last byte."""

    status: int
    headers: dict[str, str]
    seconds: float
    body: dict[str, Any] = field(default_factory=dict)


async def call(port: int, path: str, key: str, method: str = "GET") -> Answer:
    """Make one call on a separate socket."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {key}\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        raw = await reader.read()
    finally:
        writer.close()
    top, _, content = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, time.monotonic() - began, json.loads(content or b"{}"))


async def calls(port: int, path: str, key: str, count: int) -> list[Answer]:
    """Make ``count`` concurrent calls."""
    return list(await asyncio.gather(*(call(port, path, key) for _ in range(count))))


async def one_after_the_other(port: int, path: str, key: str, seconds: float) -> list[Answer]:
    """Make calls one after the other for this many seconds."""
    end, answers = time.monotonic() + seconds, list[Answer]()
    while time.monotonic() < end:
        answers.append(await call(port, path, key))
    return answers


def wait_until_early_in_a_minute() -> None:
    """Wait until the current minute does not end during the test, because rate limits apply per clock minute."""
    if (second := time.time() % 60) > 45:
        time.sleep(60 - second)
