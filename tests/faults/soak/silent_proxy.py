"""A TCP proxy on loopback that can fall silent: like a NAT that forgot a connection, it sends no FIN and no RST."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class SilentProxy:
    """Forwards connections to a unix socket. ``cut`` makes those that are open silent; later ones work."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._generation = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._generation += 1

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        generation = self._generation
        try:
            server.connect(str(self._target))
        except OSError:  # the server is down
            client.close()
            return
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=(source, target, generation), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if generation == self._generation:
                    target.sendall(chunk)
        if generation != self._generation:
            return  # neither side hears that the other has gone
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
