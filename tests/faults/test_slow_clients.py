"""Clients that are slow, silent or never stop sending: they hold neither the server's threads nor its connections."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import uvicorn

from portal import server
from portal.wsgi_bridge import WSGIBridge

SILENCE = 0.5


class Application:
    """A WSGI application behind the bridge, with one thread; remembers the environments of its calls."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self._bridge = WSGIBridge(self._answer, threads=1)

    def stop_waiting(self) -> None:
        """Required by the server, as in portal.asgi.Portal."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._bridge(scope, receive, send)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environs.append(environ)
        is_stream = environ["PATH_INFO"] == "/stream"
        body = [b"x" * 1_000_000] * 50 if environ["PATH_INFO"] == "/large" else [b"done"] * (1000 if is_stream else 1)
        start_response("200 OK", [] if is_stream else [("Content-Length", str(sum(map(len, body))))])
        return body


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setattr(server, "SILENCE", SILENCE)
    return Application()


@pytest.fixture
def port(application: Application) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    options: dict[str, Any] = {"ws": "none", "log_config": None, "access_log": False, "lifespan": "off"}
    config = uvicorn.Config(
        application,
        http=server.Protocol,
        loop="uvloop",
        timeout_keep_alive=1,
        interface="asgi3",
        proxy_headers=False,
        **options,
    )
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    while not web.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    web.should_exit = web.force_exit = True
    thread.join()


def connect(port: int, *lines: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall("\r\n".join([*lines, ""]).encode())
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes the connection. Raises TimeoutError if it does not."""
    read = b""
    with client:
        while data := client.recv(65536):
            read += data
    return read


def test_a_client_that_does_not_read_gives_its_thread_back(port: int) -> None:
    with connect(port, "GET /large HTTP/1.1", "Host: localhost", ""):
        other = connect(port, "GET / HTTP/1.1", "Host: localhost", "Connection: close", "")
        assert read_all(other).endswith(b"done")


def test_a_client_that_reads_slowly_gets_everything(port: int) -> None:
    with connect(port, "GET /large HTTP/1.1", "Host: localhost", "Connection: close", "") as client:
        length = 0
        while data := client.recv(1_000_000):
            length += len(data)
            time.sleep(0.02)
    assert length > 50_000_000


def test_empty_lines_do_not_keep_a_connection_open(port: int) -> None:
    client = connect(port, "GET / HTTP/1.1", "Host: localhost", "")
    assert client.recv(65536)
    client.sendall(b"\r\n")
    assert read_all(client) == b""


CHUNKED = ["POST / HTTP/1.1", "Host: localhost", "X-Forwarded-For: 192.0.2.1", "Transfer-Encoding: chunked", ""]


def test_what_follows_a_body_is_no_header(port: int, application: Application) -> None:
    client = connect(port, *CHUNKED, "3", "abc", "0", "X-Forwarded-For: 192.0.2.9", "X-Other: 1", "")
    assert client.recv(65536).endswith(b"done")
    client.close()
    (environ,) = application.environs
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
    assert "HTTP_X_OTHER" not in environ


@pytest.mark.parametrize("endless", ["X-Header: 1\r\n", "x"])
def test_no_end_of_what_follows_a_body_is_refused(port: int, endless: str) -> None:
    client = connect(port, *CHUNKED, "3", "abc", "0", "X-Header: 1")
    with client, pytest.raises(OSError):
        client.sendall(endless.encode() * 10_000_000)


def test_a_large_body_in_small_chunks_arrives(port: int) -> None:
    chunk = ["400", "x" * 1024]
    client = connect(port, *CHUNKED, *chunk * 5000, "0", "")
    assert client.recv(65536).endswith(b"done")
    client.close()


def test_space_after_a_header_is_no_part_of_it(port: int, application: Application) -> None:
    client = connect(port, "GET / HTTP/1.1", "Host: localhost \t", "X-Other: a b ", "Connection: close", "")
    assert read_all(client).endswith(b"done")
    (environ,) = application.environs
    assert (environ["HTTP_HOST"], environ["HTTP_X_OTHER"]) == ("localhost", "a b")


def test_a_stream_for_an_old_client_has_a_length_and_no_chunks(port: int) -> None:
    answer = read_all(connect(port, "GET /stream HTTP/1.0", "Host: localhost", ""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: 4000" in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert body == b"done" * 1000


def test_a_stream_for_a_client_of_today_is_chunked(port: int) -> None:
    answer = read_all(connect(port, "GET /stream HTTP/1.1", "Host: localhost", "Connection: close", ""))
    assert b"transfer-encoding: chunked" in answer[:500].lower()


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix"])
def test_a_client_cannot_move_the_portal_below_a_path(port: int, application: Application, header: str) -> None:
    client = connect(port, "GET /page HTTP/1.1", "Host: localhost", f"{header}: /evil", "Connection: close", "")
    assert read_all(client).endswith(b"done")
    (environ,) = application.environs
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/page")
