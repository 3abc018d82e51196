"""The one spelling of a name off the wire: what is a name, and the many things that are not."""

import pytest

from microagent.errors import Malformed
from microagent.wire.hostname import normalize_untrusted


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"api.ok.test", "api.ok.test"),
        (b"API.OK.Test.", "api.ok.test"),
        (b"localhost", "localhost"),
        (b"_dmarc.ok.test", "_dmarc.ok.test"),
        (b"-odd-.test", "-odd-.test"),
        (b"xn--bcher-kva.test", "xn--bcher-kva.test"),
        (b"4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"),
        (b"host2", "host2"),
        (b"0xg.test", "0xg.test"),
        (b"a" * 63 + b".test", "a" * 63 + ".test"),
        (b"a." * 126 + b"a", "a." * 126 + "a"),
        (b"a." * 126 + b"a.", "a." * 126 + "a"),
    ],
)
def test_names(raw: bytes, name: str) -> None:
    assert normalize_untrusted(raw) == name


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "an empty host name"),
        (b".", "an empty host name"),
        (b"..", "an empty label in a host name"),
        (b".ok.test", "an empty label in a host name"),
        (b"a..test", "an empty label in a host name"),
        (b"a.test..", "an empty label in a host name"),
        (b"evil.test\0.ok.test", "byte 0x00 in a host name"),
        (b"a b.test", "byte 0x20 in a host name"),
        (b" a.test", "byte 0x20 in a host name"),
        (b"a.test\n", "byte 0x0a in a host name"),
        (b"a.test:443", "byte 0x3a in a host name"),
        (b"user@a.test", "byte 0x40 in a host name"),
        (b"*.test", "byte 0x2a in a host name"),
        (b"a/b.test", "byte 0x2f in a host name"),
        (b"a\\.b.test", "byte 0x5c in a host name"),
        ("bücher.test".encode(), "byte 0xc3 in a host name"),
        (b"\xffa.test", "byte 0xff in a host name"),
        ("ａ.test".encode(), "byte 0xef in a host name"),
        ("\u212a.test".encode(), "byte 0xe2 in a host name"),
        (b"[::1]", "byte 0x5b in a host name"),
        (b"::1", "byte 0x3a in a host name"),
        (b"10.0.0.1", "an IP address in the place of a host name"),
        (b"10.0.0.1.", "an IP address in the place of a host name"),
        (b"127.1", "an IP address in the place of a host name"),
        (b"0x7f.1", "an IP address in the place of a host name"),
        (b"a.0X7F", "an IP address in the place of a host name"),
        (b"a.0x", "an IP address in the place of a host name"),
        (b"2130706433", "an IP address in the place of a host name"),
        (b"0177.0.0.1", "an IP address in the place of a host name"),
        (b"a" * 64 + b".test", "a label of more than 63 bytes in a host name"),
        (b"a." * 126 + b"ab", "a host name of 254 bytes, the limit is 253"),
    ],
)
def test_what_is_no_name(raw: bytes, what: str) -> None:
    with pytest.raises(Malformed) as caught:
        normalize_untrusted(raw)
    assert caught.value.what == what
