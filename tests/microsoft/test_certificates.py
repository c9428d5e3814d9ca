"""Certificates are generated correctly, and uploaded ones are read or rejected with the reason."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12
from cryptography.x509.oid import NameOID

from connections.errors import InvalidInput
from connections.microsoft import certificates, clouds, token_endpoint

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PAIR = certificates.generate("Robots", months=12, now=NOW)
OTHER = certificates.generate("Other", months=12, now=NOW)
BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def key_of(pair: certificates.CertificateWithKey) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pair.private_key.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def encrypted_key(pair: certificates.CertificateWithKey, password: bytes) -> bytes:
    return key_of(pair).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )


def pfx(pair: certificates.CertificateWithKey, password: bytes = b"") -> bytes:
    certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"x", key_of(pair), certificate, None, protection)


def self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *, end: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(end - timedelta(days=900)).not_valid_after(end)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, NoEncryption())
    return certificate + private


def test_a_generated_certificate_is_rsa_and_valid_for_the_given_months() -> None:
    key, details = key_of(PAIR), certificates.read_details(PAIR.certificate)
    assert key.key_size >= 2048
    assert details.subject == "CN=Robots"
    assert details.starts_at <= NOW
    assert timedelta(days=364) < details.expires_at - NOW < timedelta(days=367)
    assert (details.sha256, details.expires_at) == (PAIR.thumbprint, PAIR.expires_at)
    assert (len(details.sha1), len(details.sha256)) == (40, 64)
    assert "PRIVATE" not in PAIR.certificate + repr(PAIR)


def test_a_name_too_long_for_a_certificate_is_cut() -> None:
    details = certificates.read_details(certificates.generate("x" + "ü" * 100, months=1, now=NOW).certificate)
    assert details.subject == f"CN=x{'ü' * 31}"


def test_it_signs_a_client_assertion() -> None:
    clouds_url = clouds.CLOUDS["global"].token_url("contoso.com")
    credential = token_endpoint.ClientCertificate(PAIR.private_key, PAIR.thumbprint)
    assertion = token_endpoint.client_assertion(credential, "client", clouds_url)
    claims = jwt.decode(assertion, key_of(PAIR).public_key(), algorithms=["PS256"], audience=clouds_url)
    assert claims["sub"] == "client"


@pytest.mark.parametrize(
    ("data", "key", "password"),
    [
        ((PAIR.certificate + PAIR.private_key).encode(), b"", ""),
        (PAIR.certificate.replace("\n", "\r\n").encode(), PAIR.private_key.encode(), ""),
        (PAIR.certificate.encode(), encrypted_key(PAIR, b"pass"), "pass"),
        (pfx(PAIR), b"", ""),
        (pfx(PAIR, "pässwort".encode()), b"", "pässwort"),
    ],
    ids=["one PEM", "two PEM files, CRLF", "protected key", "PFX", "protected PFX"],
)
def test_an_uploaded_pair_is_read(data: bytes, key: bytes, password: str) -> None:
    assert certificates.read(data, key_data=key, password=password, now=NOW) == PAIR


@pytest.mark.parametrize(
    ("data", "key", "password", "field", "says"),
    [
        (PAIR.certificate.encode(), b"", "", "certificate_file", "no private key"),
        (PAIR.private_key.encode(), b"", "", "certificate_file", "no certificate"),
        (PAIR.certificate.encode(), OTHER.private_key.encode(), "", "key_file", "belongs to another"),
        (PAIR.certificate.encode(), b"rubbish", "", "key_file", "no private key"),
        ((PAIR.certificate + OTHER.certificate + PAIR.private_key).encode(), b"", "", "certificate_file", "2 cert"),
        (PAIR.certificate.encode(), encrypted_key(PAIR, b"pass"), "", "file_password", "protected"),
        (PAIR.certificate.encode(), encrypted_key(PAIR, b"pass"), "wrong", "file_password", "does not open"),
        (pfx(PAIR, b"pass"), b"", "wrong", "file_password", "password is wrong"),
        (pfx(PAIR, b"pass")[:200], b"", "pass", "file_password", "cannot be opened"),
        (b"\x00\x01 nonsense", b"", "", "certificate_file", "neither"),
        (b"", b"", "", "certificate_file", "neither"),
        (BROKEN + PAIR.private_key.encode(), b"", "", "certificate_file", "cannot be read"),
    ],
)
def test_a_bad_upload_is_refused_with_the_reason(data: bytes, key: bytes, password: str, field: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        certificates.read(data, key_data=key, password=password, now=NOW)
    assert caught.value.field == field
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (self_signed(rsa.generate_private_key(65537, 1024), end=NOW + timedelta(days=9)), "1024 bits"),
        (self_signed(ec.generate_private_key(ec.SECP256R1()), end=NOW + timedelta(days=9)), "not an RSA key"),
        (self_signed(key_of(PAIR), end=NOW - timedelta(seconds=1)), "expired on 23 November 2026"),
    ],
)
def test_a_certificate_that_microsoft_would_refuse_is_refused_here(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        certificates.read(data, now=NOW)
