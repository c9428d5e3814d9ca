"""The servers of a benchmark: PostgreSQL, Valkey, the sandbox behind TLS, and the portal's processes.

All files are in .cache/bench/ and are removed afterwards.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portal.dev_servers import PostgreSQL, Valkey
from portal.processes import Process, stop_all
from portal.sandbox.process import SandboxProcess
from portal.sandbox.process import start as start_sandbox

ROOT = Path(__file__).resolve().parent.parent


class TokenServer:
    """benchmarks/token_server.py in a process of its own."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.token_server", certificate, key],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._read()

    def issued(self) -> int:
        """Return how many tokens it has issued."""
        return int(self._ask("count"))

    def delay(self, seconds: float) -> None:
        """Wait so long before each answer."""
        self._ask(f"delay {seconds}")

    def stop(self) -> None:
        self._child.terminate()
        self._child.communicate(timeout=10)

    def _ask(self, command: str) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{command}\n")
        self._child.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline().strip()
        if not line:
            raise SystemExit("The token server of the benchmark ended.")
        return line


class Stage:
    """The servers of one benchmark; ``environment`` is for the portal's processes.

    ``token_server`` puts a token endpoint that costs next to nothing in the place of the sandbox.
    """

    def __init__(self, *, token_server: bool = False) -> None:
        self.directory = ROOT / ".cache" / "bench" / str(os.getpid())
        self.directory.mkdir(parents=True)
        self._processes: list[Process] = []
        self.postgres = PostgreSQL(self.directory / "postgres", fast=False)
        self.valkey = Valkey(self.directory / "valkey")
        self.certificate, key = make_certificate(self.directory)
        self._microsoft: TokenServer | SandboxProcess
        if token_server:
            self._microsoft = self.tokens = TokenServer(self.certificate, key)
        else:
            self._microsoft = self.sandbox = start_sandbox(tls=(self.certificate, key))
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "DATABASE_URL": self.postgres.create_database("portal"),
            "REDIS_URL": self.valkey.url(),
            "MICROSOFT_SANDBOX_URL": self._microsoft.url,
            "MICROSOFT_CA_BUNDLE": str(self.certificate),
            "PORTAL_URL": "http://localhost:8000",
            "LOG_LEVEL": "INFO",
        }

    def launch(self, name: str, *arguments: str, **more: str) -> Process:
        """Run ``python -m arguments`` until it is stopped, by ``close`` if not before."""
        process = Process(
            name,
            [sys.executable, "-m", *arguments],
            log=self.directory / f"{name}.log",
            environment={**self.environment, **more},
            directory=ROOT,
        )
        self._processes.append(process)
        return process

    def worker(self, **environment: str) -> Process:
        """Start a worker as in docs/operating.md; return it when it is ready for tasks."""
        command = ["celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle"]
        worker = self.launch("worker", *command, "--without-gossip", **environment)
        worker.wait_for_line(" ready.", seconds=30)
        return worker

    def close(self) -> None:
        """Stop everything and remove its files."""
        stop_all(self._processes)
        self._microsoft.stop()
        self.valkey.stop()
        self.postgres.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def cpu_seconds(*roots: int) -> float:
    """Return the processor time (user and system) that these processes and all descendants, even ended ones, have used."""
    total = 0.0
    for root in roots:
        process = psutil.Process(root)
        own = process.cpu_times()
        total += own.user + own.system + own.children_user + own.children_system
        for child in process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def memory_mb(root: int) -> float:
    """Return the memory of a process and its descendants, counting shared pages once (PSS; RSS if PSS is missing)."""
    process = psutil.Process(root)
    total = 0
    for running in [process, *process.children(recursive=True)]:
        full = running.memory_full_info()
        total += getattr(full, "pss", 0) or full.rss
    return total / 1024 / 1024


def goal(name: str, value: float, *, most: float | None = None, least: float | None = None) -> bool:
    """Print a figure beside its goal; return whether it is reached."""
    is_reached = (most is None or value <= most) and (least is None or value >= least)
    bound = f"at most {most:g}" if most is not None else f"at least {least:g}"
    print(f"  {name:<40} {value:8.2f}   goal: {bound}, {'reached' if is_reached else 'MISSED'}")
    return is_reached


def served(url: str) -> bool:
    """Whether a page of the portal is there."""
    request = urllib.request.Request(url, headers={"Host": "localhost"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for 127.0.0.1; returns the paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
