"""Certificates are generated correctly, and uploaded ones are read or rejected with the reason."""

import base64
import resource
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12
from cryptography.x509.oid import NameOID

from connections.errors import InvalidInput
from connections.microsoft import certificates, clouds, key_files, token_endpoint

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
        (PAIR.certificate.encode(), OTHER.private_key.encode(), "", "key_file", "match the certificate"),
        (PAIR.certificate.encode(), b"rubbish", "", "key_file", "no private key"),
        ((PAIR.certificate + PAIR.private_key + OTHER.private_key).encode(), b"", "", "certificate_file", "2 private"),
        (
            (OTHER.certificate * 3 + PAIR.private_key).encode(),
            b"",
            "",
            "certificate_file",
            "doesn.t match the certificate",
        ),
        (PAIR.certificate.encode(), encrypted_key(PAIR, b"pass"), "", "file_password", "protected"),
        (
            PAIR.certificate.encode(),
            encrypted_key(PAIR, b"pass"),
            "wrong",
            "file_password",
            "doesn't match the private key",
        ),
        (pfx(PAIR, b"pass"), b"", "wrong", "file_password", "password is wrong"),
        (pfx(PAIR, b"pass")[:200], b"", "pass", "file_password", "can't be opened"),
        (b"\x00\x01 nonsense", b"", "", "certificate_file", "neither"),
        (b"", b"", "", "certificate_file", "neither"),
        (BROKEN + PAIR.private_key.encode(), b"", "", "certificate_file", "can't be read"),
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
        (self_signed(ec.generate_private_key(ec.SECP256R1()), end=NOW + timedelta(days=9)), "isn't an RSA key"),
        (self_signed(key_of(PAIR), end=NOW - timedelta(seconds=1)), "expired on 23 November 2026"),
    ],
)
def test_a_certificate_that_microsoft_would_refuse_is_refused_here(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        certificates.read(data, now=NOW)


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    return bytes([tag]) + (bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2)) + content


def expensive_pfx() -> bytes:
    """Return a PFX file whose password is hashed 2^31 - 1 times (RFC 7292, 4)."""
    data, sha256 = bytes.fromhex("2a864886f70d010701"), bytes.fromhex("608648016503040201")
    content = _der(0x30, _der(6, data), _der(0xA0, _der(4, _der(0x30))))
    digest = _der(0x30, _der(0x30, _der(6, sha256), _der(5)), _der(4, b"m" * 32))
    return _der(0x30, _der(2, b"\x03"), content, _der(0x30, digest, _der(4, b"salt" * 2), _der(2, b"\x7f\xff\xff\xff")))


@pytest.mark.slow
def test_a_pfx_file_that_would_keep_the_portal_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_files, "_LONGEST", 60)
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(InvalidInput, match="hashed too many times") as refused:
        certificates.read(expensive_pfx(), password="secret", now=NOW)
    assert refused.value.field == "certificate_file"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < key_files.PROCESSOR_TIME + 2


def scrypt_key() -> bytes:
    """Return an encrypted PKCS #8 key whose scrypt wants 2^24 x 1024 x 128 bytes."""
    scrypt, pbes2, aes = "2b06010401da47040b", "2a864886f70d01050d", "60864801650304012a"
    numbers = [_der(2, (2**24).to_bytes(4)), _der(2, (1024).to_bytes(2)), _der(2, b"\x01")]
    derivation = _der(0x30, _der(6, bytes.fromhex(scrypt)), _der(0x30, _der(4, b"salt" * 4), *numbers))
    cipher = _der(0x30, _der(6, bytes.fromhex(aes)), _der(4, b"i" * 16))
    algorithm = _der(0x30, _der(6, bytes.fromhex(pbes2)), _der(0x30, derivation, cipher))
    text = base64.encodebytes(_der(0x30, algorithm, _der(4, b"x" * 1200)))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + text + b"-----END ENCRYPTED PRIVATE KEY-----\n"


def test_a_key_that_would_take_all_memory_is_given_up() -> None:
    """scrypt's parameters say how much memory it takes (RFC 7914)."""
    with pytest.raises(InvalidInput):
        certificates.read(PAIR.certificate.encode() + scrypt_key(), password="secret", now=NOW)


def test_the_process_that_opens_a_file_leaves_nothing_of_it_in_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = subprocess.run

    def spied(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments, options.get("env")))
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", spied)
    certificates.read(pfx(PAIR, b"hunter2"), password="hunter2", now=NOW)
    assert seen
    assert "hunter2" not in repr(seen)


ISSUERS = OTHER.certificate + certificates.generate("Root", months=12, now=NOW).certificate


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (PAIR.certificate + ISSUERS + PAIR.private_key, ""),
        (ISSUERS + PAIR.certificate + PAIR.private_key, ""),
        (PAIR.private_key + ISSUERS + PAIR.certificate, ""),
        (ISSUERS + PAIR.certificate, PAIR.private_key),
        (ISSUERS, PAIR.private_key + PAIR.certificate),
        (PAIR.certificate + PAIR.certificate + PAIR.private_key, ""),
    ],
    ids=["own first", "own last", "key first", "two files", "own beside the key", "own twice"],
)
def test_of_a_whole_chain_the_keys_own_certificate_is_used(data: str, key: str) -> None:
    assert certificates.read(data.encode(), key_data=key.encode(), now=NOW) == PAIR


def test_of_a_pfx_with_a_chain_the_keys_own_certificate_is_used() -> None:
    issuers = [x509.load_pem_x509_certificate(OTHER.certificate.encode())]
    own = x509.load_pem_x509_certificate(PAIR.certificate.encode())
    data = pkcs12.serialize_key_and_certificates(b"x", key_of(PAIR), own, issuers, NoEncryption())
    assert certificates.read(data, now=NOW) == PAIR


def test_of_certificates_renewed_for_the_same_key_the_valid_one_that_lasts_longest_is_used() -> None:
    key, day = key_of(PAIR), timedelta(days=1)
    old, good, later = (self_signed(key, end=NOW + days * day) for days in (-5, 300, 1_000))
    data = b"".join(pem.partition(b"-----BEGIN PRIVATE")[0] for pem in (later, old, good)) + PAIR.private_key.encode()
    assert certificates.read(data, now=NOW).expires_at == NOW + 300 * day


def test_a_certificate_that_is_not_valid_yet_is_told() -> None:
    data = self_signed(key_of(PAIR), end=NOW + timedelta(days=901))
    with pytest.raises(InvalidInput, match="not valid before 24 November 2026, 12:00 UTC") as caught:
        certificates.read(data, now=NOW)
    assert caught.value.field == "certificate_file"
    pem = data.partition(b"-----BEGIN PRIVATE")[0].decode()
    assert "not valid before 24 November 2026" in certificates.not_yet_valid(pem, now=NOW)
    assert certificates.not_yet_valid(pem, now=NOW + timedelta(days=2)) == ""
