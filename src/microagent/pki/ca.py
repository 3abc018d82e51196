"""One CA a workspace, and the leaves it signs (RFC 5280; contract 7.6).

A CA reaches one level down and lives for 30 days; a leaf carries exactly one name. ECDSA P-256 throughout:
every client that speaks TLS 1.2 verifies it, and signing costs a tenth of a millisecond.
"""

import re
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from microagent.errors import HostError, Malformed

CA_LIFETIME: Final = timedelta(days=30)
# A guest's clock may be behind the host's, and a certificate from the future is refused.
_CLOCK_SKEW: Final = timedelta(hours=1)
# RFC 5280 appendix A: ub-common-name.
_MAX_COMMON_NAME: Final = 64
# Canonical names only, so no "*" and nothing that could be read as two names (see wire.hostname).
_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


def create_ca(workspace: str, now: datetime) -> tuple[bytes, bytes]:
    """Make a CA for `workspace`; return its certificate and its private key as PEM. `now` is aware."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A workspace's name can be longer than the room it has here; O holds the whole of it.
    room = _MAX_COMMON_NAME - len("microagent  workspace CA")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, workspace),
            x509.NameAttribute(NameOID.COMMON_NAME, f"microagent {workspace[:room]} workspace CA"),
        ]
    )
    certificate = (
        _builder(key.public_key(), now - _CLOCK_SKEW, now + CA_LIFETIME)
        .subject_name(subject)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


class Issuer:
    """Signs leaves with a workspace's CA; all have one key, which each Issuer makes anew and nobody stores."""

    def __init__(self, cert_pem: bytes, key_pem: bytes) -> None:
        """ValueError if the PEM cannot be read, or the key is not that of the certificate."""
        self._certificate = x509.load_pem_x509_certificate(cert_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or self._certificate.public_key() != key.public_key():
            raise ValueError("the CA's key does not belong to its certificate")
        self._key = key
        self._chain_pem = _pem(self._certificate)
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key_pem = _key_pem(self._leaf_key)
        identifier = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)

    def leaf(self, name: str, now: datetime) -> tuple[bytes, bytes]:
        """Return the chain and the key, as PEM, of a server that is `name`, canonical or an IP address.

        Raises Malformed if `name` is neither, HostError when the CA has expired.
        """
        san = x509.SubjectAlternativeName([_general_name(name)])
        end = self._certificate.not_valid_after_utc
        if now >= end:
            raise HostError("the workspace's CA has expired", "stop and start the workspace: that renews its CA")
        certificate = (
            _builder(self._leaf_key.public_key(), self._certificate.not_valid_before_utc, end)
            .subject_name(_leaf_subject(name))
            .issuer_name(self._certificate.subject)
            .add_extension(san, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate) + self._chain_pem, self._leaf_key_pem


def _builder(key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    """Begin a certificate; 159 random bits make its serial number unique (RFC 5280 section 4.1.2.2)."""
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """The one bit each needs (RFC 5280 section 4.2.1.3): keyCertSign, or digitalSignature for ECDHE."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _leaf_subject(name: str) -> x509.Name:
    """People read the common name, programs the alternative names; what is too long is only in the latter."""
    who = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "microagent")]
    if len(name) <= _MAX_COMMON_NAME:
        who.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    return x509.Name(who)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        if _NAME.fullmatch(name) is None:
            raise Malformed("not a name that a certificate can carry") from None
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
