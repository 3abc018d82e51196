"""Whether OpenSSL's server asks for another hello is what we say of its first bytes; in any pieces, and any records."""

import ssl
import tempfile
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.hellos import openssl_hello, records

from microagent.demo.authority import Authority
from microagent.wire.hello_retry import retry_size_untrusted

WARNING, FATAL = b"\x15\x03\x03\x00\x02\x01\x70", b"\x15\x03\x03\x00\x02\x02\x28"
# OpenSSL's client sends a share for X25519.
AGAIN, AT_ONCE, TLS12 = ("secp384r1", False), ("X25519", False), ("secp384r1", True)


@cache
def answer(curve: str, tls12: bool) -> bytes:
    """What OpenSSL's server says to a hello, when this is the one curve that it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Python's setter knows no X25519, which OpenSSL prefers by itself.
    if curve != "X25519":
        context.set_ecdh_curve(curve)
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(Authority.create().server_pem(("a.example",)))
        pem.flush()
        context.load_cert_chain(pem.name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(openssl_hello("a.example", tls12=tls12))
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    return outgoing.read()


def first_record(data: bytes) -> bytes:
    return data[: 5 + int.from_bytes(data[3:5], "big")]


def test_a_server_that_asks_again_is_known_by_its_random() -> None:
    data = answer(*AGAIN)
    assert data[len(first_record(data)) :] == b"\x14\x03\x03\x00\x01\x01"  # what OpenSSL sends behind it
    assert retry_size_untrusted(data) == len(first_record(data))
    assert retry_size_untrusted(WARNING + data) == len(WARNING + first_record(data))


@pytest.mark.parametrize("kind", [AT_ONCE, TLS12])
def test_a_server_that_goes_on_is_known_by_its_random_as_well(kind: tuple[str, bool]) -> None:
    assert retry_size_untrusted(answer(*kind)) == 0
    assert retry_size_untrusted(answer(*kind)[:15]) == 0  # its first bytes tell, of which one could be the same
    assert retry_size_untrusted(answer(*kind)[:11]) is None


@pytest.mark.parametrize(
    "data",
    [FATAL, b"\x17\x03\x03\x00\x01x", b"SSH-2.0-x\r\n", b"\x16\x02\x00\x00\x01\x02", b"\x16\x03\x03\x00\x04\x02\0\0\0"],
)
def test_what_is_no_server_hello_does_not_ask_again(data: bytes) -> None:
    assert retry_size_untrusted(data) == 0


@given(st.sampled_from([AGAIN, AT_ONCE, TLS12]), st.integers(1, 60))
def test_it_is_the_same_in_any_records_and_any_packets(kind: tuple[str, bool], size: int) -> None:
    message = first_record(answer(*kind))[5:]
    data = records(message, size, version=b"\x03\x03")
    whole = len(data) if kind == AGAIN else 0
    found = [retry_size_untrusted(data[:count]) for count in range(len(data) + 1)]
    told = [answer for answer in found if answer is not None]
    assert set(told) == {whole}
    assert found[-len(told) :] == told  # once told, more bytes change nothing
    assert retry_size_untrusted(data + b"anything") == whole
