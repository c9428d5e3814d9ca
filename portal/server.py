"""``python -m portal.server``: the web process. It is uvicorn, with the limits that a server on the network needs."""

from __future__ import annotations

import asyncio
import contextlib
import logging.config
import os
import resource
import signal
import socket

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from portal import logs, settings_model

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 4000  # per process, including idle ones and those waiting for a token
KEEP_ALIVE = 5  # seconds
SILENCE = 10.0  # seconds for a client to send the head of a request, or to continue reading
MAX_HEAD = 65536  # bytes of a request's first line and headers, and of any data after its body
MAX_LINE = 8190  # bytes of a request's URL; more than the API's own limit, which returns a problem response
GRACE = 30  # seconds for unfinished requests when the server stops


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits for clients that send or read slowly, or never stop sending."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._bytes: int | None = 0  # bytes of the head, or since the last chunk of the body; None between requests
        self._is_head_complete = False
        self._silence = self.loop.call_later(SILENCE, self.transport.close)
        self._unread: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence.cancel()
        self._stop_watching()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Stop waiting for tokens. uvicorn calls this for each connection when the server stops."""
        self.app.stop_waiting()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._bytes is not None:
            self._bytes += len(data)
        super().data_received(data)
        if self._bytes is not None and self._bytes > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._silence.cancel()
        self._silence = self.loop.call_later(SILENCE, self.transport.close)
        self._bytes, self._is_head_complete = 0, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_head_complete:  # later headers are trailers, which no proxy has checked
            super().on_header(name, value.rstrip(b" \t"))  # trailing whitespace is not part of the value (RFC 9110)

    def on_headers_complete(self) -> None:
        self._silence.cancel()
        self._bytes, self._is_head_complete = 0, True
        if len(self.url) > MAX_LINE:
            raise ValueError("The address is too long.")  # httptools turns this into a parser error, with status 400
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Watch a client that leaves much of the response unread. Until it continues, the application occupies a
        thread.
        """
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _watch_reading(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(SILENCE, self._check_reading, size)

    def _check_reading(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch_reading()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


class WebProcesses(Multiprocess):
    """uvicorn's parent process. On SIGHUP, its children reload the encryption keys instead of being restarted."""

    def handle_hup(self) -> None:
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def serve(application: str = "portal.asgi:application") -> None:
    """Serve until SIGTERM or SIGINT. Each worker process imports ``application``."""
    settings = settings_model.load()
    logging.config.dictConfig(logs.configuration(settings.LOG_LEVEL))
    allow_open_files(2 * MAX_CONNECTIONS)
    config = uvicorn.Config(
        application,
        workers=settings.WEB_WORKERS,
        loop="uvloop",
        http=Protocol,
        interface="asgi3",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    listener = listen(settings.BIND)
    if settings.WEB_WORKERS > 1:
        WebProcesses(config, sockets=[listener]).run()
    else:
        uvicorn.Server(config).run(sockets=[listener])


def listen(address: str) -> socket.socket:
    """Listen at ``host:port``, ``[host]:port`` or ``unix:path``, and log the address."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(2048)
        shown = address
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family, backlog=2048)
        shown = f"http://{address.rpartition(':')[0]}:{listener.getsockname()[1]}"
    logger.info("Listening at: %s (%s)", shown, os.getpid())
    return listener


def allow_open_files(number: int) -> None:
    """Raise this process's limit of open files as far as allowed, because each connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(hard, number)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ in ("__main__", "__mp_main__"):  # child processes import this module as __mp_main__
    logs.start()
if __name__ == "__main__":
    serve()
