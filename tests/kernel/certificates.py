"""Chains that a server may show, good and bad, made for one name each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from microagent.demo import world

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

PROGRAMS = IPv4Address(world.PROGRAMS)
_DAY = timedelta(days=1)
_PKCS1 = bytes.fromhex("2a864886f70d0101")


def ec_key() -> Key:
    """What nearly every chain here is made of."""
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """RSA, of any size that OpenSSL makes."""
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        """The certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server_pem(self, *chain: "Signed") -> str:
        """Key, certificate and what a server sends after it."""
        form = serialization.PrivateFormat.PKCS8
        key = self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return key.decode() + "".join(link.pem for link in (self, *chain))


def certify(
    subject: str,
    by: Signed | None,
    *,
    key: Key | None = None,
    names: Sequence[str] = (),
    ca: bool = False,
    days: tuple[int, int] = (-1, 2),
    usage: ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    constrained_to: str = "",
    path: int | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Signed:
    """A certificate `by` an issuer, or by itself; `days` from now it begins and ends to be valid.

    `more`: extensions, and whether they are critical.
    """
    key = key or ec_key()
    now = datetime.now(UTC)
    issuer = by.certificate.subject if by else _name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if by:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if constrained_to:
        constraints = x509.NameConstraints([x509.DNSName(constrained_to)], None)
        builder = builder.add_extension(constraints, critical=True)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    return Signed(builder.sign((by.key if by else key), hashes.SHA256()), key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, ca: bool) -> x509.KeyUsage:
    # A CA here may sign handshakes as well: keyUsage must not be what it is refused for as a server.
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _with_sha1(signed: Signed, issuer: rsa.RSAPrivateKey) -> Signed:
    """The same certificate with an RSA signature over SHA-1, which the library does not make any more."""
    whole = signed.certificate.public_bytes(serialization.Encoding.DER)
    body, signature = signed.certificate.tbs_certificate_bytes, signed.certificate.signature
    # RFC 8017 appendix C: sha256WithRSAEncryption ends in 11, sha1WithRSAEncryption in 5.
    weaker = [part.replace(_PKCS1 + b"\x0b", _PKCS1 + b"\x05") for part in (body, whole)]
    signature_now = issuer.sign(weaker[0], padding.PKCS1v15(), hashes.SHA1())
    certificate = x509.load_der_x509_certificate(weaker[1].replace(signature, signature_now))
    return Signed(certificate, signed.key)


def good(root: Signed) -> dict[str, str]:
    """Chains that lead to `root`: host name -> PEM for its server."""
    chain = [root]
    for number in range(4):
        chain.insert(0, certify(f"link {number}", chain[0], ca=True))
    six = certify("six", chain[0], names=["six-links.good.test"])

    # A root that an older one has vouched for, as the web's are when they are young; and an issuer that two have.
    old = certify("a root nobody trusts any more", None, ca=True)
    by_old = certify("the operator's root", old, ca=True, key=root.key)
    crossed = certify("crossed", chain[0], names=["crossed.good.test"])
    by_both = certify("issuing", root, ca=True)
    also = certify("issuing", old, ca=True, key=by_both.key)
    twice = certify("twice", by_both, names=["twice.good.test"])

    bounded = certify("bounded", root, ca=True, constrained_to="good.test", path=0)
    return {
        "plain.good.test": certify("plain", root, names=["plain.good.test"]).server_pem(),
        "wildcard.good.test": certify("wildcard", root, names=["*.good.test"]).server_pem(),
        "rsa.good.test": certify("rsa", root, names=["rsa.good.test"], key=rsa_key(2048)).server_pem(),
        "six-links.good.test": six.server_pem(*chain),
        "crossed.good.test": crossed.server_pem(*chain[:-1], by_old, old),
        "twice.good.test": twice.server_pem(by_both, also, old),
        "bounded.good.test": certify("bounded", bounded, names=["bounded.good.test"]).server_pem(bounded),
    }


def bad(root: Signed) -> dict[str, str]:
    """Chains that lead nowhere, or for another purpose: host name -> PEM for its server."""
    found = {}

    def add(case: str, leaf: Signed, *chain: Signed) -> None:
        found[f"{case}.bad.test"] = leaf.server_pem(*chain)

    def own(case: str) -> list[str]:
        return [f"{case}.bad.test"]

    middle = certify("middle", root, ca=True)
    stranger = certify("stranger", None, ca=True)
    add("expired", certify("x", root, names=own("expired"), days=(-3, -1)))
    add("not-yet", certify("x", root, names=own("not-yet"), days=(1, 3)))
    add("self-signed", certify("x", None, names=own("self-signed")))
    add("unknown-root", certify("x", stranger, names=own("unknown-root")), stranger)
    add("wrong-host", certify("x", root, names=["other.test"]))
    add("cn-only", certify("cn-only.bad.test", root))
    add("client-only", certify("x", root, names=own("client-only"), usage=ExtendedKeyUsageOID.CLIENT_AUTH))
    add("ca-as-leaf", certify("x", root, names=own("ca-as-leaf"), ca=True))
    add("broken-chain", certify("x", middle, names=own("broken-chain")))
    expired = certify("old", root, ca=True, days=(-3, -1))
    add("expired-middle", certify("x", expired, names=own("expired-middle")), expired)
    leaf = certify("leaf", root, names=["leaf.test"])
    add("leaf-signs", certify("x", leaf, names=own("leaf-signs")), leaf)
    short = certify("short", root, ca=True, path=0)
    long = certify("long", short, ca=True)
    add("too-long", certify("x", long, names=own("too-long")), long, short)
    strong = rsa_key(2048)
    signer = certify("rsa", root, ca=True, key=strong)
    add("sha1", _with_sha1(certify("x", signer, names=own("sha1")), strong), signer)
    add("weak-key", certify("x", root, names=own("weak-key"), key=rsa_key(1024)))
    weak = certify("weak", root, ca=True, key=rsa_key(1024))
    add("weak-issuer", certify("x", weak, names=own("weak-issuer")), weak)
    bounded = certify("bounded", root, ca=True, constrained_to="good.test")
    add("constrained", certify("x", bounded, names=own("constrained")), bounded)
    excluding = x509.NameConstraints(None, [x509.DNSName("bad.test")])
    excluded = certify("excluding", root, ca=True, more=[(excluding, True)])
    add("excluded", certify("x", excluded, names=own("excluded")), excluded)
    for_clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    narrow = certify("for clients", root, ca=True, more=[(for_clients, False)])
    add("issuer-of-clients", certify("x", narrow, names=own("issuer-of-clients")), narrow)
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    add("critical", certify("x", root, names=own("critical"), more=[(unknown, True)]))
    add("address", certify("x", root, more=[(x509.SubjectAlternativeName([x509.IPAddress(PROGRAMS)]), False)]))
    add("wild.deep", certify("x", root, names=["*.bad.test"]))
    add("partial", certify("x", root, names=["part*.bad.test"]))
    add("all", certify("x", root, names=["*"]))
    add("two-stars", certify("x", root, names=["*.*.test"]))
    add("nul", certify("x", root, names=["nul.bad.test\0.other.test"]))
    found["top.test"] = certify("x", root, names=["*.test"]).server_pem()
    return found
