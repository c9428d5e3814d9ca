"""RSA certificates for applications. Entra only gets the public part (identity-platform/certificate-credentials)."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from connections.errors import InvalidInput
from connections.microsoft import key_files

KEY_BITS = 3072
SMALLEST_KEY_BITS = 2048
MOST_MONTHS = 24
# Clocks differ. A certificate that is valid from this moment might not be valid yet by Microsoft's clock.
CLOCK_SKEW = timedelta(minutes=10)
_LONGEST_CHAIN = 20
_LONGEST_COMMON_NAME = 64  # bytes; X.520 upper bound
_TOO_EXPENSIVE = (
    "The password of this file is hashed too many times. Export it again with at most a million iterations."
)
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CertificateWithKey:
    """A certificate and its private key, both in PEM. The key is unencrypted PKCS#8."""

    certificate: str
    private_key: str = field(repr=False)
    thumbprint: str  # SHA-256 of the DER form, in upper-case hex
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CertificateDetails:
    """Details of a certificate; thumbprints are in upper-case hex."""

    subject: str
    sha1: str
    sha256: str
    starts_at: datetime
    expires_at: datetime


def generate(common_name: str, *, months: int, now: datetime) -> CertificateWithKey:
    """Create a self-signed RSA certificate for ``months`` of 30.4 days. Raises InvalidInput unless 1 ≤ months ≤ 24."""
    if not 1 <= months <= MOST_MONTHS:
        raise InvalidInput(f"A certificate can be valid for 1 to {MOST_MONTHS} months.", field="months")
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    # Cut the name to a number of bytes without leaving part of a character at the end.
    shortened = common_name.encode()[:_LONGEST_COMMON_NAME].decode("utf-8", "ignore")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, shortened)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=round(months * 365.25 / 12)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def read(data: bytes, *, key_data: bytes = b"", password: str = "", now: datetime) -> CertificateWithKey:
    """Read a certificate and its key from a PFX file, or from one or two PEM files. Raises InvalidInput with ``field``.

    The files may contain a whole chain in any order; the certificate that belongs to the key is returned.
    """
    is_pem = b"-----BEGIN " in data
    chain, key = _from_pem(data, key_data, password) if is_pem else _from_pfx(data, password)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InvalidInput("The key isn't an RSA key. Microsoft Entra requires RSA keys.", field="certificate_file")
    if key.key_size < SMALLEST_KEY_BITS:
        raise InvalidInput(
            f"The RSA key has only {key.key_size} bits. Use a key with at least {SMALLEST_KEY_BITS} bits.",
            field="certificate_file",
        )
    certificate = _matching(chain, key, now)
    if certificate is None:
        raise InvalidInput(
            "The private key doesn't match the certificate. Upload a matching pair.",
            field="key_file" if key_data else "certificate_file",
        )
    if certificate.not_valid_after_utc <= now:
        raise InvalidInput(
            f"This certificate expired on {certificate.not_valid_after_utc:%d %B %Y}. Upload a valid one.",
            field="certificate_file",
        )
    if certificate.not_valid_before_utc > now:
        raise InvalidInput(
            f"This certificate is not valid before {certificate.not_valid_before_utc:%d %B %Y, %H:%M} UTC, so Microsoft "
            "would refuse it. Upload it then, or use one that is valid now.",
            field="certificate_file",
        )
    return _pair(certificate, key)


def read_details(pem: str) -> CertificateDetails:
    """Return the details of a stored certificate; dates are in UTC."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return CertificateDetails(
        subject=certificate.subject.rfc4514_string(),
        sha1=certificate.fingerprint(hashes.SHA1()).hex().upper(),  # noqa: S303 - shown next to Entra's, proves nothing
        sha256=certificate.fingerprint(hashes.SHA256()).hex().upper(),
        starts_at=certificate.not_valid_before_utc.astimezone(UTC),
        expires_at=certificate.not_valid_after_utc.astimezone(UTC),
    )


def not_yet_valid(pem: str, *, now: datetime) -> str:
    """Return a sentence on when a stored certificate becomes valid; "" if it already is, or cannot be read."""
    try:
        details = read_details(pem)
    except ValueError:
        return ""
    if details.starts_at <= now:
        return ""
    return f"The certificate {details.sha256[:8]} is not valid before {details.starts_at:%d %B %Y, %H:%M} UTC."


def _matching(chain: list[x509.Certificate], key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate | None:
    """Return the certificate of the key; None if the chain has none.

    If the key has several certificates, those that are already valid are preferred, then the one that lasts longest.
    """
    own = [certificate for certificate in chain if _belongs(certificate, key)]
    return max(own, key=lambda item: (item.not_valid_before_utc <= now, item.not_valid_after_utc), default=None)


def _belongs(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):  # an issuer's key may be of an unsupported type
        return False


def _from_pem(data: bytes, key_data: bytes, password: str) -> tuple[list[x509.Certificate], object]:
    blocks = [(match.group(1), match.group(0)) for match in _PEM_BLOCK.finditer(data + b"\n" + key_data)]
    certificates = [block for kind, block in blocks if kind == b"CERTIFICATE"]
    keys = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    key_field = "key_file" if key_data else "certificate_file"
    _require_some(certificates, "certificate", "certificate_file")
    _require_some(keys, "private key", key_field)
    if len(keys) > 1:
        raise InvalidInput(f"There are {len(keys)} private keys in what you uploaded. Upload one.", field=key_field)
    try:
        chain = [x509.load_pem_x509_certificate(block) for block in certificates[:_LONGEST_CHAIN]]
    except ValueError as broken:
        raise InvalidInput("The certificate in this file can't be read.", field="certificate_file") from broken
    return chain, _load_key(keys[0], password, key_field)


def _require_some(blocks: list[bytes], what: str, field_name: str) -> None:
    if not blocks:
        raise InvalidInput(
            f"This file contains no {what}. Upload the certificate and its private key as a PFX file, or as one or two "
            "PEM files.",
            field=field_name,
        )


def _load_key(block: bytes, password: str, field_name: str) -> object:
    encrypted = b"ENCRYPTED" in block
    if encrypted and not password:
        raise InvalidInput("The private key is protected by a password. Enter the password.", field="file_password")
    try:
        return key_files.open_pem_key(block, password) if encrypted else serialization.load_pem_private_key(block, None)
    except key_files.NotOpened:
        raise InvalidInput("This password doesn't match the private key.", field="file_password") from None
    except key_files.TooExpensive:
        raise InvalidInput(_TOO_EXPENSIVE, field=field_name) from None
    except (ValueError, TypeError) as broken:
        raise InvalidInput("The private key can't be read.", field=field_name) from broken


def _from_pfx(data: bytes, password: str) -> tuple[list[x509.Certificate], object]:
    try:
        chain, key = key_files.open_pfx(data, password)
    except key_files.TooExpensive:
        raise InvalidInput(_TOO_EXPENSIVE, field="certificate_file") from None
    except key_files.NotOpened:
        if data[:1] != b"\x30":  # every PFX and DER file begins with an ASN.1 SEQUENCE
            raise InvalidInput(
                "This is neither a PFX file nor PEM text.",
                action="Upload a .pfx or .pem file.",
                field="certificate_file",
            ) from None
        raise InvalidInput(
            "The file can't be opened. The password is wrong, or it isn't a PFX file with a private key.",
            field="file_password",
        ) from None
    if key is None or not chain:
        raise InvalidInput(
            "The PFX file contains no private key. Export it again with its key.", field="certificate_file"
        )
    return chain[:_LONGEST_CHAIN], key


def _pair(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> CertificateWithKey:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return CertificateWithKey(
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        private_key=private.decode(),
        thumbprint=certificate.fingerprint(hashes.SHA256()).hex().upper(),
        expires_at=certificate.not_valid_after_utc,
    )
