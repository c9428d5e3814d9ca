"""A stranger sends bodies of hundreds of megabytes to every kind of path."""

import contextlib
import socket
from collections.abc import Callable

import psutil
import pytest

from portal.body_limits import limit_of
from portal.processes import Process
from portal.sandbox.process import free_port
from tests.faults.test_token_calls import answers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

HUGE = 200_000_000
PATHS = ["/sign-in/", "/", "/apps/add/", "/apps/1/credentials/add/", "/api/v1/teams", "/admin/login/", "/nowhere"]


@pytest.fixture
def web(start_process: Callable[..., Process]) -> tuple[int, psutil.Process]:
    port = free_port()
    process = start_process("web", ["portal.server"], BIND=f"127.0.0.1:{port}")
    process.wait_until(lambda: answers(port), seconds=60)
    return port, psutil.Process(process.pid)


def send(port: int, head: list[str], piece: bytes, most: int) -> tuple[bytes, int]:
    """Send a body piece by piece until the server has had enough; return its answer and the number of bytes sent."""
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall("\r\n".join([*head, "Host: localhost", "", ""]).encode())
        with contextlib.suppress(ConnectionError):
            while sent < most:
                client.sendall(piece)
                sent += len(piece)
        client.settimeout(5)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while data := client.recv(65536):
                answer += data
    return answer, sent


def written(process: psutil.Process) -> int:
    return int(process.io_counters().write_chars)


def test_a_declared_length_that_is_too_large_is_refused_unread(web: tuple[int, psutil.Process]) -> None:
    port, process = web
    for path in PATHS:
        before = written(process)
        head = [f"POST {path} HTTP/1.1", "Content-Type: multipart/form-data; boundary=x", f"Content-Length: {HUGE}"]
        answer, _ = send(port, head, b"", 0)
        assert answer.startswith(b"HTTP/1.1 413 "), path
        assert b"connection: close" in answer.lower()
        assert (b"application/problem+json" in answer) == path.startswith("/api/")
        _, sent = send(port, head, b"x" * 65536, HUGE)
        assert sent < HUGE // 4, path
        assert written(process) - before < 100_000, path
    assert answers(port)


def test_a_body_that_grows_too_large_is_refused_on_the_way(web: tuple[int, psutil.Process]) -> None:
    port, process = web
    for path in PATHS:
        before = written(process)
        head = [f"POST {path} HTTP/1.1", "Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: chunked"]
        _, sent = send(port, head, b"10000\r\n" + b"x" * 65536 + b"\r\n", HUGE)
        assert sent < HUGE // 4, path
        assert written(process) - before < limit_of(path) + 100_000, path
    assert answers(port)


def test_forms_that_nobody_is_signed_in_for_are_small() -> None:
    assert limit_of("/sign-in/") < limit_of("/teams/add/") < limit_of("/apps/add/")
    assert limit_of("/apps/add/../../sign-in/") <= limit_of("/apps/add/")
