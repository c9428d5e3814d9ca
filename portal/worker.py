"""Gunicorn's threaded worker with a waiting room (portal/waiting.py)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from portal.waiting import AGAIN, AT_A_TIME, MAY_WAIT, WAIT, Wait, WaitingRoom

# What the kernel waits for a silent client while a thread reads from it or writes to it (struct timeval).
_PATIENCE = struct.pack("ll", 10, 0)


class _PutAside(BaseException):
    """Leaves gunicorn's request handling without an answer. No Exception, so that nothing on the way answers it."""

    def __init__(self, wait: Wait) -> None:
        super().__init__()
        self.wait = wait


class _OnceMore:
    """A parser that hands out the request it has parsed already, then goes on as before."""

    def __init__(self, parser: Any, request: Any) -> None:
        self._parser, self._request = parser, request

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request, self._request = self._request, None
        return request if request is not None else next(self._parser)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class Worker(ThreadWorker):  # type: ignore[misc]
    """The worker of portal/gunicorn.conf.py."""

    def init_process(self) -> None:
        """Called by gunicorn in the new process."""
        self._handled = threading.local()
        self.room = WaitingRoom(self.enqueue_req, at_a_time=AT_A_TIME * self.cfg.threads)
        super().init_process()

    def load_wsgi(self) -> None:
        """Called by gunicorn once the process is ready for the application."""
        super().load_wsgi()
        application: Any = self.wsgi  # type: ignore[has-type]

        def watched(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if self._handled.again:
                environ[AGAIN] = True
            elif environ["REQUEST_METHOD"] in ("GET", "HEAD"):
                environ[MAY_WAIT] = True
            answer: Any = application(environ, start_response)
            wait: Wait | None = environ.get(WAIT)
            if wait is not None and MAY_WAIT in environ and self.room.has_room(wait):
                answer.close()
                raise _PutAside(wait)
            return answer  # type: ignore[no-any-return]

        self.wsgi = watched

    def enqueue_req(self, conn: Any) -> None:
        """Called by gunicorn with a connection that has a request: bound how long each piece of it may take."""
        if not conn.initialized:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                conn.sock.setsockopt(socket.SOL_SOCKET, option, _PATIENCE)
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Remember which request this thread is at."""
        self._handled.request, self._handled.again = req, isinstance(conn.parser, _OnceMore)
        if self._handled.again:
            # The next request on this connection is a new one.
            conn.parser = conn.parser._parser
        return super().handle_request(req, conn)

    def handle(self, conn: Any) -> Any:
        """One request, in one of the threads; gunicorn gets the result in ``finish_request``."""
        try:
            return super().handle(conn)
        except _PutAside as aside:
            conn.parser = _OnceMore(conn.parser, self._handled.request)
            return aside

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Called by gunicorn in its main thread with what ``handle`` returned."""
        aside = None if fs.cancelled() or fs.exception() else fs.result()
        if isinstance(aside, _PutAside):
            try:
                self.room.put(conn, aside.wait)
            except RuntimeError:  # no thread to be had; as gunicorn does with what it cannot answer
                self.nr_conns -= 1
                conn.close()
        else:
            super().finish_request(conn, fs)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Asked to stop: whoever waits is answered at once."""
        self.room.closing = True
        super().handle_exit(sig, frame)
