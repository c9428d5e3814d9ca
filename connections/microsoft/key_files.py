"""Opens files with private keys in a separate process with little time and memory.

The file itself sets how often its password is hashed (RFC 7292, appendix B; RFC 8018; RFC 7914), and this number may be
in an encrypted part. Two thousand million rounds would keep a thread of the portal busy for an hour.
"""

import base64
import contextlib
import json
import resource
import subprocess
import sys

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

PROCESSOR_TIME = 2  # seconds; a million rounds take about half a second
MEMORY = 2**30  # bytes of address space; scrypt's parameters in the file set how much memory it needs
_LONGEST = 30  # seconds of real time, for a busy machine
_NOT_OPENED, _OUT_OF_MEMORY = 3, 4  # exit codes


class NotOpened(ValueError):
    """The password is wrong, or the file has another format."""


class TooExpensive(ValueError):
    """Opening the file takes more time or memory than any legitimate file needs."""


def open_pfx(data: bytes, password: str) -> tuple[list[x509.Certificate], object]:
    """Return a PFX file's certificates, starting with that of the key, and its private key (None if there is none).

    Raises NotOpened or TooExpensive.
    """
    certificates, key = _run("pfx", data, password)
    return (
        x509.load_pem_x509_certificates(certificates.encode()) if certificates else [],
        serialization.load_pem_private_key(key.encode(), None) if key else None,
    )


def open_pem_key(block: bytes, password: str) -> object:
    """Return the private key of an encrypted PEM block. Raises NotOpened or TooExpensive."""
    _, key = _run("pem", block, password)
    return serialization.load_pem_private_key(key.encode(), None)


def _run(kind: str, data: bytes, password: str) -> tuple[str, str]:
    question = json.dumps([kind, base64.b64encode(data).decode(), password])
    try:
        # With -I, only installed packages can be imported.
        child = subprocess.run(  # noqa: S603 - our own program; what was uploaded goes to its standard input
            [sys.executable, "-I", __file__],
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooExpensive from None
    if child.returncode == _NOT_OPENED:
        raise NotOpened
    if child.returncode < 0 or child.returncode == _OUT_OF_MEMORY:  # killed, for example because its time is up
        raise TooExpensive
    child.check_returncode()
    certificates, key = json.loads(child.stdout)
    return certificates, key


def _open() -> tuple[str, str]:
    """Read the input in the child process from standard input, and open the file."""
    kind, data, password = json.load(sys.stdin)
    content, secret = base64.b64decode(data), password.encode() or None
    if kind == "pfx":
        key, own, others = pkcs12.load_key_and_certificates(content, secret)
        certificates = [own, *others] if own else others
    else:
        key, certificates = serialization.load_pem_private_key(content, secret), []
    no_password = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return (
        "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates),
        key.private_bytes(serialization.Encoding.PEM, form, no_password).decode() if key else "",
    )


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_TIME, PROCESSOR_TIME))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        answer = _open()
    except (MemoryError, InternalError):  # OpenSSL reports a failed allocation as an internal error
        return _OUT_OF_MEMORY
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return _NOT_OPENED
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
