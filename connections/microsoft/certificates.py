"""RSA certificates for applications. Entra gets only the public part (identity-platform/certificate-credentials)."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from connections.errors import InvalidInput

KEY_BITS = 3072
SMALLEST_KEY_BITS = 2048
MOST_MONTHS = 24
# Clocks differ: a certificate that becomes valid now might not be valid yet by Microsoft's clock.
CLOCK_SKEW = timedelta(minutes=10)
_LONGEST_COMMON_NAME = 64  # bytes; X.520 upper bound
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CertificateWithKey:
    """A certificate and its private key, both PEM; the key is unencrypted PKCS#8."""

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
    # Cut to a number of bytes without leaving half a character at the end.
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
    """Read a certificate and its key from a PFX file or one or two PEM files. Raises InvalidInput with ``field``."""
    is_pem = b"-----BEGIN " in data
    certificate, key = _from_pem(data, key_data, password) if is_pem else _from_pfx(data, password)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InvalidInput("The key is not an RSA key. Microsoft Entra takes RSA keys here.", field="certificate_file")
    if key.key_size < SMALLEST_KEY_BITS:
        raise InvalidInput(
            f"The RSA key has only {key.key_size} bits. Use one of {SMALLEST_KEY_BITS} bits or more.",
            field="certificate_file",
        )
    if certificate.public_key() != key.public_key():
        raise InvalidInput(
            "The private key belongs to another certificate. Upload the two that were made together.",
            field="key_file" if key_data else "certificate_file",
        )
    if certificate.not_valid_after_utc <= now:
        raise InvalidInput(
            f"This certificate expired on {certificate.not_valid_after_utc:%d %B %Y}. Upload a valid one.",
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


def _from_pem(data: bytes, key_data: bytes, password: str) -> tuple[x509.Certificate, object]:
    blocks = [(match.group(1), match.group(0)) for match in _PEM_BLOCK.finditer(data)]
    certificates = [block for kind, block in blocks if kind == b"CERTIFICATE"]
    keys = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    if key_data:
        keys += [match.group(0) for match in _PEM_BLOCK.finditer(key_data) if match.group(1).endswith(b"PRIVATE KEY")]
    key_field = "key_file" if key_data else "certificate_file"
    _require_one(certificates, "certificate", "certificate_file")
    _require_one(keys, "private key", key_field)
    try:
        certificate = x509.load_pem_x509_certificate(certificates[0])
    except ValueError as broken:
        raise InvalidInput("The certificate in this file cannot be read.", field="certificate_file") from broken
    return certificate, _load_key(keys[0], password, key_field)


def _require_one(blocks: list[bytes], what: str, field_name: str) -> None:
    if not blocks:
        raise InvalidInput(
            f"There is no {what} in this file. The portal needs the certificate and its private key: a PFX file, "
            "or PEM text that holds both, or two PEM files.",
            field=field_name,
        )
    if len(blocks) > 1:
        raise InvalidInput(f"There are {len(blocks)} {what}s in what you uploaded. Upload one.", field=field_name)


def _load_key(block: bytes, password: str, field_name: str) -> object:
    encrypted = b"ENCRYPTED" in block
    if encrypted and not password:
        raise InvalidInput("The private key is protected by a password. Enter it.", field="file_password")
    try:
        return serialization.load_pem_private_key(block, password.encode() if encrypted else None)
    except (ValueError, TypeError) as broken:
        # cryptography's own message might quote the input.
        if encrypted:
            raise InvalidInput("This password does not open the private key.", field="file_password") from None
        raise InvalidInput("The private key cannot be read.", field=field_name) from broken


def _from_pfx(data: bytes, password: str) -> tuple[x509.Certificate, object]:
    try:
        key, certificate, _chain = pkcs12.load_key_and_certificates(data, password.encode() or None)
    except ValueError:
        if data[:1] != b"\x30":  # every PFX and DER file begins with an ASN.1 SEQUENCE
            raise InvalidInput(
                "This is neither a PFX file nor PEM text.",
                action="Upload a .pfx or .pem file.",
                field="certificate_file",
            ) from None
        raise InvalidInput(
            "The file cannot be opened: the password is wrong, or it is not a PFX file with a private key.",
            field="file_password",
        ) from None
    if key is None or certificate is None:
        raise InvalidInput("The PFX file holds no private key. Export it again with its key.", field="certificate_file")
    return certificate, key


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
