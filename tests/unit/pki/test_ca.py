"""The workspace's CA and its leaves, as OpenSSL sees them."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from microagent.errors import HostError, Malformed
from microagent.pki.ca import CA_LIFETIME, Issuer, create_ca

NOW = datetime.now(UTC).replace(microsecond=0)
CA, CA_KEY = create_ca("research", NOW)
ISSUER = Issuer(CA, CA_KEY)


def leaf(name: str) -> x509.Certificate:
    """The leaf for `name`, without its chain."""
    return x509.load_pem_x509_certificate(ISSUER.leaf(name, NOW)[0])


def value(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def handshake(tmp_path: Path, issuer: Issuer, name: str, asked: str, trusted: bytes) -> None:
    """Shake hands in memory: a server that is `name`, a client that asks for `asked` and trusts `trusted`."""
    chain, key = issuer.leaf(name, NOW)
    path = tmp_path / "leaf.pem"
    path.write_bytes(chain + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=trusted.decode("ascii"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=asked),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == "TLSv1.3"


@pytest.mark.parametrize("name", ["api.example", "a_b.example", "192.0.2.1", "2001:db8::7", "a" * 63 + ".example"])
def test_clients_believe_a_leaf_under_its_name(tmp_path: Path, name: str) -> None:
    handshake(tmp_path, ISSUER, name, name, CA)


@pytest.mark.parametrize("asked", ["other.example", "sub.api.example", "example", "192.0.2.1"])
def test_and_under_no_other(tmp_path: Path, asked: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, ISSUER, "api.example", asked, CA)


def test_no_workspace_believes_another(tmp_path: Path) -> None:
    # The same name on purpose: the key decides.
    other, _ = create_ca("research", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, ISSUER, "api.example", "api.example", other)


def test_openssl_verifies_the_chain(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CA)
    (tmp_path / "leaf.pem").write_bytes(ISSUER.leaf("api.example", NOW)[0])
    check = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "api.example"]
    done = subprocess.run(
        [*check, "-CAfile", "ca.pem", "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "leaf.pem: OK\n", done.stderr


def test_a_leaf_signs_nothing(tmp_path: Path) -> None:
    chain, key = ISSUER.leaf("api.example", NOW)
    below = Issuer(chain, key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, below, "evil.example", "evil.example", CA)


def test_the_ca() -> None:
    ca = x509.load_pem_x509_certificate(CA)
    assert ca.subject == ca.issuer
    assert ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "microagent research workspace CA"
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    assert (ca.not_valid_before_utc, ca.not_valid_after_utc) == (NOW - timedelta(hours=1), NOW + CA_LIFETIME)
    basic, usage = value(ca, x509.BasicConstraints), value(ca, x509.KeyUsage)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert (usage.value.key_cert_sign, usage.value.digital_signature, usage.value.crl_sign) == (True, False, False)


def test_a_leaf() -> None:
    certificate, ca = leaf("api.example"), x509.load_pem_x509_certificate(CA)
    assert value(certificate, x509.SubjectAlternativeName).value == x509.SubjectAlternativeName(
        [x509.DNSName("api.example")]
    )
    assert value(certificate, x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    assert value(certificate, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    usage = value(certificate, x509.KeyUsage).value
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)
    subject, authority = (
        value(ca, x509.SubjectKeyIdentifier).value,
        value(certificate, x509.AuthorityKeyIdentifier).value,
    )
    assert isinstance(subject, x509.SubjectKeyIdentifier)
    assert isinstance(authority, x509.AuthorityKeyIdentifier)
    assert authority.key_identifier == subject.digest
    assert certificate.not_valid_after_utc == ca.not_valid_after_utc
    assert certificate.not_valid_before_utc <= NOW


def test_serial_numbers_are_unique_and_the_key_is_the_issuers_own() -> None:
    first, second = leaf("a.example"), leaf("a.example")
    assert first.serial_number != second.serial_number
    assert first.public_key() == second.public_key() != x509.load_pem_x509_certificate(CA).public_key()
    again = x509.load_pem_x509_certificate(Issuer(CA, CA_KEY).leaf("a.example", NOW)[0])
    assert again.public_key() != first.public_key()


def test_long_names_fit() -> None:
    workspace = "w" * 63
    ca = x509.load_pem_x509_certificate(create_ca(workspace, NOW)[0])
    assert ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == workspace
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    certificate = leaf(name)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []
    assert name in str(value(certificate, x509.SubjectAlternativeName))


@pytest.mark.parametrize(
    "name",
    ["*.example", "", "a..example", "A.example", "a.example.", "a\x00b", "bücher.example", "a b", "a." * 127 + "a"],
)
def test_what_is_no_name_gets_no_leaf(name: str) -> None:
    with pytest.raises(Malformed):
        ISSUER.leaf(name, NOW)


def test_an_expired_ca_signs_nothing() -> None:
    with pytest.raises(HostError) as caught:
        ISSUER.leaf("api.example", NOW + CA_LIFETIME)
    assert "start" in caught.value.hint


def test_a_key_of_another_ca_is_refused() -> None:
    with pytest.raises(ValueError, match="does not belong"):
        Issuer(CA, create_ca("research", NOW)[1])
