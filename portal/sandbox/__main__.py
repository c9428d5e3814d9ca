"""Starts the sandbox: ``python -m portal.sandbox --port 9000``."""

import argparse
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import django
from gunicorn.app.base import BaseApplication

THREADS = 48


def is_loopback(host: str) -> bool:
    """Whether the address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_free(host: str, port: int) -> bool:
    """Whether the port is free. gunicorn itself would keep trying for five seconds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m portal.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (others are rejected)")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--state", type=Path, help="a JSON file that stores the sandbox's state between runs")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve HTTPS with this certificate and key")
    parser.add_argument("--public-url", help="the public URL, if it differs from host and port")
    parser.add_argument("--portal-url", default="http://localhost:8000", help="URL of the portal under test")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input is closed")
    options = parser.parse_args(argv)
    if not is_loopback(options.host):
        parser.error("the sandbox has no access control, so it listens only on loopback addresses")
    if options.state is not None and not options.state.absolute().parent.is_dir():
        parser.error(f"the directory of --state {options.state} doesn't exist")
    if not is_free(options.host, options.port):
        parser.error(f"port {options.port} of {options.host} is in use")
    if not options.public_url:
        scheme = "https" if options.tls else "http"
        host = f"[{options.host}]" if ":" in options.host else options.host
        options.public_url = f"{scheme}://{host}:{options.port}"
    return options


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with exactly one worker process, because the sandbox's state is in that process's memory."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        super().__init__()

    def load_config(self) -> None:
        """Configure gunicorn from the command-line options only."""
        settings: dict[str, Any] = {
            "bind": f"{self.options.host}:{self.options.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": THREADS,
            "keepalive": 75,
            "timeout": 0,  # requests may hang on purpose, which is one of the sandbox's features
            "graceful_timeout": 1,
            "loglevel": "error",
            "control_socket_disable": True,
            "post_worker_init": self.ready,
            "worker_exit": self.stopping,
        }
        if self.options.tls:
            settings["certfile"], settings["keyfile"] = self.options.tls
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load_wsgi_config(self) -> None:
        """Load nothing, because there is no configuration file."""

    def load(self) -> Any:
        """Build the world and the application in the worker process."""
        # Override the environment variable, which may contain the portal's settings.
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.sandbox.settings"
        django.setup(set_prefix=False)
        from django.conf import settings
        from django.core.handlers.wsgi import WSGIHandler

        from portal.sandbox import seed, state

        host = self.options.public_url.partition("://")[2].partition("/")[0].rpartition(":")[0]
        settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, *([host] if host else [])]
        world = state.World(
            public_url=self.options.public_url, portal_url=self.options.portal_url, path=self.options.state
        )
        if self.options.state is not None and self.options.state.exists():
            world.load(json.loads(self.options.state.read_text()))
        else:
            with world.change():
                seed.plant(world)
        state.use(world)
        self.world = world
        return WSGIHandler()

    def ready(self, worker: Any) -> None:
        """Announce that the sandbox accepts connections."""
        print(f"Sandbox ready at {self.options.public_url}", flush=True)

    def stopping(self, arbiter: Any, worker: Any) -> None:
        """Release the requests that hang on purpose."""
        if hasattr(self, "world"):
            self.world.stopping.set()


def stop_with_stdin() -> None:
    """Stop when standard input closes. This also happens if the parent process dies."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    options = arguments(sys.argv[1:])
    if options.stop_with_stdin:
        stop_with_stdin()
    Server(options).run()


if __name__ == "__main__":
    main()
