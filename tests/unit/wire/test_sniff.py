"""What must not be called opaque, and what must not be kept waiting."""

import pytest
from tests.unit.wire.hellos import openssl_hello

from microagent.wire.sniff import MAX_SNIFF, Sniffed, sniff_untrusted

HTTP = [
    b"GET / HTTP/1.1\r\n",
    b"\r\nGET / HTTP/1.1\r\n",
    b"\n\n  POST / HTTP/1.1\r\n",
    b"get / http/1.1\n",
    b"GET\t/\tHTTP/1.1\r\n",
    b"SSH-2.0-x / HTTP/1.1\r\nHost: evil.example\r\n",
    b"X" * 5000 + b" / HTTP/1.1\r\n",
    b"GET /caf\xc3\xa9 HTTP/1.1\r\n",
    b"GET /\x00 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET /\r\n",
    b"GET http://example.org/\r\n",
    b"GET\x1c/\x1cHTTP/1.1\r\n",
    b"GET\r/\rHTTP/1.1\r\n",
    b"\xa0GET / HTTP/1.1\r\n",
    b"\x85\x1eGET / HTTP/1.1\r\n",
    b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
    b"(GET) / HTTP/1.1\r\n",
    b"G\xe9T / HTTP/1.1\r\n",
    b"GET\x01 / HTTP/1.1\r\n",
    b"GET\0",
    b"GET /a HTTP/1.1\0\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
    b"A" * MAX_SNIFF,
    b"A " + b"b" * MAX_SNIFF,
]
TLS = [
    openssl_hello("example.org"),
    b"\x16",
    b"\x16\x00\x00",
    b"\x15\x03\x01\x00\x02\x01\x00",
    b"\x15\x00\x01\x00\x02\x01Z",
    b"\x15\x0f\n\x00\x02\x01",
    b"\x14\x03",
    b"\x17\x03",
    b"\x80\x2e\x01\x03\x01",
    b"\x80\x2e\x01\x00\x02",
]
OPAQUE = [
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    b"SSH-2.0-Go\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"GET key\r\n",
    b"EHLO example.org\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"\x10\x1a\x00\x04MQTT",
    b"AMQP\x00\x00\x09\x01",
    b"\x13BitTorrent protocol",
    b"\x05\x01\x00",
    b"\x15\x10",
    b"\x15\x01\x01\x00\x00\x2e",
    b"\x14\x02",
    b"GIOP\x01\x02",
    b"JRMI\x00\x02K",
    b"0\x0c\x02\x01\x01\x60\x07",
    b"8=FIX.4.4\x01",
    b"0032git-upload-pack /project.git\0host=example.org\0",
    b"<?xml version='1.0'?><stream:stream to='example.org'>",
    b'{"id": 1, "method": "server.version"}',
    b"\x80\x00\x00\x28",
    b"\x80\x2e\x01\x04",
    b"\xff\xfd\x18",
]
MORE = [
    b"",
    b"G",
    b"GET",
    b"GET ",
    b"GET ke",
    b"\r\n",
    b"SSH-2.0-Open",
    b"\x15",
    b"\x15\x02",
    b"GET x\0",
    b"\r\n\r\n\0",
    b"\x80",
    b"\x80\x2e\x01",
]


@pytest.mark.parametrize(
    ("data", "expected"),
    [(data, kind) for kind, all_data in zip(Sniffed, (TLS, HTTP, OPAQUE, MORE), strict=True) for data in all_data],
)
def test_sniff(data: bytes, expected: Sniffed) -> None:
    assert sniff_untrusted(data) is expected
