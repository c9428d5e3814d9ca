"""Sends POST requests to URLs that people entered, without giving access to the portal's own network (SSRF).

Connections only go to addresses that were resolved and checked here, even if the name resolves to others a moment
later. Redirects and proxies are not used, and only the beginning of a response is read.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import urlsplit

import certifi
import pycurl
from django.utils.encoding import iri_to_uri

from connections import domain_names
from connections.errors import PortalError

TIMEOUT = 10.0  # seconds for everything after name resolution
MAX_ANSWER = 4096
_URL_LENGTH = 2000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Networks that are not on the internet, although Python considers some of them "global".
_INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "168.63.129.16/32",  # Azure's own services, which are only reachable from inside virtual machines
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "fec0::/10",
    )
)
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)


class TargetRefused(PortalError):
    """The portal must not send to this address; the error says why."""

    code = "target_refused"
    cause = "The portal can't send to this address."
    action = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A permitted address, split into parts. The path is a secret, so the repr leaves it out."""

    url: str
    host: str
    port: int

    def __repr__(self) -> str:
        return f"<target {self.host}>"


@dataclass(frozen=True, slots=True)
class PostResult:
    """The status of the response. If none arrived, ``status`` is 0 and ``failure`` says why."""

    status: int
    failure: str = ""

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def problem(self) -> str:
        """Return a sentence about what went wrong."""
        if self.failure:
            return self.failure
        if 300 <= self.status < 400:
            return f"The receiver responded with a redirect ({self.status}), which isn't followed."
        return f"The receiver responded with status {self.status}."


def parse_target(url: str, *, allow_private: bool = False) -> Target:
    """Parse a URL and check its form, but not where it leads. Raises TargetRefused with a sentence for the form."""
    if len(url) > _URL_LENGTH or any(not ("!" <= letter <= "~" or letter > "\x9f") for letter in url):
        raise TargetRefused("This isn't a valid web address. It is too long, or contains spaces or control characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as wrong:
        raise TargetRefused("This isn't a valid web address.") from wrong
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise TargetRefused("The address must start with https://.")
    if parts.username is not None or parts.password is not None:
        raise TargetRefused("The address contains a user name. Remove everything between // and @.")
    host = _host(parts.hostname or "")
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    address = iri_to_uri(parts._replace(netloc=authority, fragment="").geturl())
    return Target(address, host, port or (443 if parts.scheme == "https" else 80))


def check(target: Target, *, allow_private: bool = False) -> list[str]:
    """Return the host's addresses. Raises TargetRefused if one is not on the internet, and OSError if there is none."""
    resolved = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in resolved))
    if not allow_private and not all(is_public(ipaddress.ip_address(item.partition("%")[0])) for item in addresses):
        raise TargetRefused(
            f"{target.host} is on a private network.",
            action="An operator can allow this with ALERT_PRIVATE_TARGETS.",
        )
    return addresses


def is_public(address: Address) -> bool:
    """Whether the address is on the internet. For an IPv6 address that embeds an IPv4 address, the latter decides."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and any(address in network for network in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and int(address) >> 32 == 0:  # ::/96, the obsolete notation for embedded IPv4 addresses
            return False
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not any(address in network for network in _INSIDE)


def post(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    allow_private: bool = False,
    ca_bundle: str = "",
    timeout: float = TIMEOUT,
) -> PostResult:
    """Send ``body`` and return the result. Never raises; a failure to send is part of the result.

    ``timeout`` is in seconds; ``ca_bundle`` is a PEM file (by default, certifi's).
    """
    try:
        target = parse_target(url, allow_private=allow_private)
        addresses = check(target, allow_private=allow_private)
    except TargetRefused as refused:
        return PostResult(0, refused.cause)
    except OSError:
        return PostResult(0, "The server name can't be resolved.")
    return _send(target, addresses, body, headers, ca_bundle=ca_bundle or certifi.where(), timeout=timeout)


def _host(text: str) -> str:
    """Return the host in ASCII. Notations that programs might read differently are rejected (0x7f.1, 2130706433)."""
    if _is_address(text):
        return str(ipaddress.ip_address(text))
    try:
        name = domain_names.to_ascii(text.rstrip("."))
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1][0].isdigit():
        raise TargetRefused("The address has no valid host name.")
    return name


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # without a zone ID


def _send(
    target: Target, addresses: list[str], body: bytes, headers: dict[str, str], *, ca_bundle: str, timeout: float
) -> PostResult:
    received = BytesIO()

    def receive(chunk: bytes) -> int:
        return received.write(chunk) if received.tell() + len(chunk) <= MAX_ANSWER else 0

    handle = pycurl.Curl()
    try:
        handle.setopt(pycurl.URL, target.url)
        if not _is_address(target.host):
            # Connect only to the checked addresses.
            pinned = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
            handle.setopt(pycurl.RESOLVE, [f"{target.host}:{target.port}:{pinned}"])
        handle.setopt(pycurl.NOPROXY, "*")  # a proxy from the environment would resolve the name again
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.CAINFO, ca_bundle)
        handle.setopt(pycurl.TIMEOUT_MS, int(timeout * 1000))
        handle.setopt(pycurl.USERAGENT, "m365-connection-portal")
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in {**headers, "Expect": ""}.items()])
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.POSTFIELDS, body)
        handle.setopt(pycurl.WRITEFUNCTION, receive)
        handle.perform()
        return PostResult(handle.getinfo(pycurl.RESPONSE_CODE))
    except pycurl.error as failed:
        status = handle.getinfo(pycurl.RESPONSE_CODE)
        if failed.args[0] == pycurl.E_WRITE_ERROR and status:
            return PostResult(status)  # the response is longer than MAX_ANSWER, but only its status matters
        return PostResult(0, _REASONS.get(failed.args[0], "The connection was interrupted."))
    finally:
        handle.close()


_REASONS = {
    pycurl.E_OPERATION_TIMEDOUT: "The receiver didn't respond in time.",
    pycurl.E_COULDNT_CONNECT: "The receiver refused the connection.",
    pycurl.E_PEER_FAILED_VERIFICATION: "The receiver's certificate isn't trusted.",
    pycurl.E_SSL_CONNECT_ERROR: "The encrypted connection failed.",
}
