"""Files of CA certificates: what is one, and what is said about what is not."""

import pytest
from cryptography.hazmat.primitives import serialization
from tests.kernel.certificates import Signed, certify

from microagent.pki.roots import parse_roots
from microagent.pki.server import unfit_untrusted

ROOT = certify("root", None, ca=True)


def test_certificates_are_kept_and_comments_are_not() -> None:
    assert parse_roots(f"# my root\r\n{ROOT.pem}\n  Subject: x\n{ROOT.pem}") == ROOT.pem * 2
    assert parse_roots(ROOT.pem.replace("\n", "\r\n")) == ROOT.pem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not PEM certificates"),
        ("hello", "not PEM certificates"),
        (ROOT.pem[:-20], "not PEM certificates"),
        (ROOT.pem + "-----BEGIN CERTIFICATE-----", "not PEM certificates"),
        (ROOT.pem + ROOT.pem.replace("MII", "AAA", 1), "certificate 2 cannot be read"),
        (ROOT.server_pem(), "private key"),
        (ROOT.pem.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "not certificates alone"),
        (ROOT.pem + " " * (1 << 20), "over 1 MiB"),
    ],
)
def test_what_is_no_such_file_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_roots(text)


def test_a_ca_is_no_server_unless_it_is_trusted_itself() -> None:
    def der(signed: Signed) -> bytes:
        return signed.certificate.public_bytes(serialization.Encoding.DER)

    assert unfit_untrusted(der(certify("x", ROOT, names=["x.test"]))) == ""
    assert unfit_untrusted(der(ROOT)) == ""
    assert "CA's" in unfit_untrusted(der(certify("x", ROOT, names=["x.test"], ca=True)))
    # Its own issuer by name, and not by signature.
    assert "CA's" in unfit_untrusted(der(certify("root", ROOT, names=["x.test"], ca=True)))
    assert "cannot be read" in unfit_untrusted(b"\x30\x00")
