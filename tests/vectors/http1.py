"""Requests that two readers could read differently: the classes of the HTTP Garden and RFC 9112, in bytes of our own.

`CASE` stands for a path that belongs to the case alone. Behind most of them stands a request that nobody may ever see:
it is for another host, and a reader who sees the first one end too early takes it for the next.
"""

from collections.abc import Iterator

HOST = "h2.ok.test"
_OWN = b"Host: h2.ok.test\r\n"
_EVIL = b"Host: evil.test\r\n"
HIDDEN = b"GET /CASE/smuggled HTTP/1.1\r\n" + _EVIL + b"\r\n"
_BLANKS = {"TAB": b"\t", "VT": b"\v", "FF": b"\f", "CR": b"\r", "LF": b"\n", "NUL": b"\0", "two spaces": b"  "} | {
    f"{byte:#x}": bytes([byte]) for byte in (0x1C, 0x1D, 0x1E, 0x1F, 0x85, 0xA0)
}


def _get(*fields: bytes, target: bytes = b"/CASE/first", version: bytes = b"HTTP/1.1", behind: bytes = HIDDEN) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + b"".join(fields) + b"\r\n" + behind


def _post(*fields: bytes, body: bytes = HIDDEN, version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST /CASE/first " + version + b"\r\n" + _OWN + b"".join(fields) + b"\r\n" + body


def _hosts() -> Iterator[tuple[str, bytes]]:
    yield "none", _get()
    yield "none in HTTP/1.0", _get(version=b"HTTP/1.0")
    yield "two", _get(_OWN, _EVIL)
    yield "two the same", _get(_OWN, _OWN)
    yield "two in other letters", _get(_OWN, b"hOsT: evil.test\r\n")
    for value in (
        b"", b"evil.test", b"h2.ok.test, evil.test", b"h2.ok.test evil.test", b"h2.ok.test\tevil.test", b"evil.test\0.h2.ok.test",
        b"h2.ok.test@evil.test", b"evil.test:80@h2.ok.test", b"h2.ok.test:", b"h2.ok.test:0", b"h2.ok.test:080", b"h2.ok.test:+80",
        b"h2.ok.test:65536", b"h2.ok.test:1", b"h2.ok.test/evil", b"h2.ok.test?evil", b"h2.ok.test#evil", b"h2.ok.test\\evil",
        b"[::1]", b"[h2.ok.test]", b"[::ffff:203.0.113.50]", b"[fe80::1%25lo]", b"203.0.113.50", b"3405803826", b"0xcb007132",
        b"h2.ok.test%00", b"h2.ok.test..", b".h2.ok.test", b"h2..ok.test", b"h2.ok.test\x85", b"h2.ok.test\xa0", b"\xa0h2.ok.test",
        b"h2\xe3\x80\x82ok.test", b"\"h2.ok.test\"", b"http://h2.ok.test", b"h2.ok.test;", b"*", b"h2.ok.test\x0b", b"h2.ok.test\x7f",
    ):  # fmt: skip
        yield f"value {value!r}", _get(b"Host: " + value + b"\r\n")
    for name in (
        b"Host ",
        b"Host\t",
        b" Host",
        b"\tHost",
        b"Host\0",
        b"\0Host",
        b"Ho\0st",
        b"Host\x0b",
        b"\xef\xbb\xbfHost",
        b"Host:",
    ):
        yield f"name {name!r}", _get(_OWN, name + b": evil.test\r\n")
        yield f"name {name!r} alone", _get(name + b": evil.test\r\n")
    yield "folded", _get(b"Host: h2.ok.test\r\n evil.test\r\n")
    yield "folded away", _get(b"Host:\r\n evil.test\r\n")
    yield "in a fold", _get(b"X: y\r\n Host: evil.test\r\n", _OWN)
    yield "behind a bare CR", _get(b"X: y\rHost: evil.test\r\n", _OWN)
    yield "behind a bare LF", _get(b"X: y\nHost: evil.test\r\n", _OWN)
    yield "behind a NUL", _get(b"X: y\0Host: evil.test\r\n", _OWN)
    yield "behind a line without colon", _get(b"evil\r\n", _OWN)
    yield "behind a field without name", _get(b": evil\r\n", _OWN)
    yield "removed by Connection", _get(b"Connection: host\r\n", _OWN)


def _targets() -> Iterator[tuple[str, bytes]]:
    for target in (
        b"http://evil.test/CASE/smuggled", b"http://evil.test:80/CASE/smuggled", b"http://h2.ok.test@evil.test/CASE/smuggled", b"HTTP://EVIL.TEST/CASE/x",
        b"http://evil.test\\@h2.ok.test/CASE/smuggled", b"http:///evil.test/CASE/smuggled", b"http:evil.test/CASE/x", b"http:/\\evil.test/CASE/x",
        b"http://h2.ok.test:1/CASE/x", b"http://h2.ok.test#evil/CASE/x", b"http://h2.ok.test?@evil.test/CASE/x", b"http://[::1]/CASE/x", b"ftp://h2.ok.test/CASE/x",
        b"//evil.test/CASE/smuggled", b"/\\evil.test/CASE/smuggled", b"\\\\evil.test/CASE/smuggled", b"///evil.test/CASE/x", b"http://h2.ok.test//evil.test/CASE/x",
        b"evil.test:80", b"evil.test/CASE/smuggled", b"/CASE/x#y", b"/CASE/\x7f", b"/CASE/\xff", b"/CASE/\0", b"/CASE/\x01", b"*", b"", b"?/CASE/x", b"/CASE/x y",
    ):  # fmt: skip
        yield f"{target!r}", _get(_OWN, target=target)
        yield f"{target!r} for Host", _get(_EVIL, target=target)
    yield "CONNECT", b"CONNECT evil.test:80 HTTP/1.1\r\nHost: evil.test:80\r\n\r\n" + HIDDEN
    yield "CONNECT to itself", b"CONNECT h2.ok.test:80 HTTP/1.1\r\nHost: h2.ok.test:80\r\n\r\n" + HIDDEN
    yield "CONNECT with a path", b"CONNECT /CASE/x HTTP/1.1\r\n" + _OWN + b"\r\n" + HIDDEN
    yield "OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + _EVIL + b"\r\n"


def _lines() -> Iterator[tuple[str, bytes]]:
    rest = b"\r\n" + _EVIL + b"\r\n"
    for name, blank in _BLANKS.items():
        yield f"{name} in the line", b"GET" + blank + b"/CASE/smuggled" + blank + b"HTTP/1.1" + rest
        yield f"{name} behind the method", b"GET" + blank + b"/CASE/smuggled HTTP/1.1" + rest
        yield f"{name} before the version", b"GET /CASE/smuggled" + blank + b"HTTP/1.1" + rest
        yield f"{name} before it all", blank + b"GET /CASE/smuggled HTTP/1.1" + rest
        yield f"{name} behind the version", b"GET /CASE/smuggled HTTP/1.1" + blank + rest
        yield f"{name} instead of a line's end", b"GET /CASE/first HTTP/1.1" + blank + _OWN + b"\r\n" + HIDDEN
    for version in (
        b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/11", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.+1", b"HTTP/-1.1",
        b"http/1.1", b"HTTP /1.1", b"HTTP/ 1.1", b"HTTPS/1.1", b"ICY/1.1", b"HTTP/1.1x", b"HTTP/1,1", b"HTTP/1.1\0", b"HTTP/\xb9.1", b"",
    ):  # fmt: skip
        yield f"version {version!r}", _get(_EVIL, target=b"/CASE/smuggled", version=version)
    for method in (
        b"G\0ET",
        b"GE T",
        b"(GET)",
        b"G\xe9T",
        b"GET\x01",
        b"\x16GET",
        b"GET:",
        b"\xef\xbb\xbfGET",
        b"PRI",
        b"get",
    ):
        yield f"method {method!r}", method + b" /CASE/smuggled HTTP/1.1" + rest
    yield "HTTP/0.9", b"GET /CASE/smuggled\r\n"
    yield "HTTP/0.9, LF", b"GET /CASE/smuggled\n"
    for line in (
        b"GET x://evil.test/CASE/smuggled", b"GET HTTP://evil.test/CASE/smuggled", b"Get /CASE/smuggled", b"GET CASE/smuggled",
        b"M-SEARCH /CASE/smuggled", b"SOURCE x://evil.test/CASE/smuggled", b"OPTIONS /CASE/smuggled RTSP/1.0", b"OPTIONS * RTSP/1.0",
        b"OPTIONS x://evil.test/CASE/smuggled RTSP/1.0", b"CONNECT evil.test:80", b"1 http://evil.test/CASE/smuggled",
    ):  # fmt: skip
        yield f"no version in {line!r}", line + rest
    yield "two blank lines", b"\r\n\r\n" + HIDDEN
    yield "bare LF everywhere", HIDDEN.replace(b"\r\n", b"\n")
    yield "bare CR everywhere", HIDDEN.replace(b"\r\n", b"\r")
    yield "LF CR everywhere", HIDDEN.replace(b"\r\n", b"\n\r")
    yield "the end in bare LF", b"GET /CASE/first HTTP/1.1\r\n" + _OWN + b"X: y\n\n" + HIDDEN
    yield "PROXY", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n" + HIDDEN
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN


def _lengths() -> Iterator[tuple[str, bytes]]:
    real = b"%d" % len(HIDDEN)
    for value in (
        b"+0", b"-0", b"+" + real, b"-1", b"0x0", b"0b0", b"0_0", b"00", b"0" + real, b"1_0", b"1 0", b"0,0", b"0, " + real, real + b", 0",
        b"", b"\x0b0", b"0\x0b", b"0\x0c", b"0\0", b"\x850", b"0\xa0", b"0.0", b"1e1", b"0;x", b"\"0\"", b"NaN", b"18446744073709551616",
        b"340282366920938463463374607431768211456", b"\xd9\xa0", b"\xef\xbc\x90", b"0\r\n 5", b"\r\n 0", b"0\r" + real, b"0\n" + real,
    ):  # fmt: skip
        yield f"length {value!r}", _post(b"Content-Length: " + value + b"\r\n")
    for name in (b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content-Length\0", b"\0Content-Length", b"Content\0-Length",
                 b"Content-Length\x0b", b"Content_Length", b"Content-Length:", b"\xef\xbb\xbfContent-Length", b"Content-Length\xa0"):  # fmt: skip
        yield f"length as {name!r}", _post(name + b": " + real + b"\r\n")
        yield f"length and {name!r}", _post(b"Content-Length: 0\r\n", name + b": " + real + b"\r\n")
    yield "two lengths", _post(b"Content-Length: 0\r\n", b"Content-Length: " + real + b"\r\n")
    yield "two lengths the same", _post(b"Content-Length: 0\r\n", b"Content-Length: 0\r\n")
    yield (
        "length that Connection removes",
        _post(b"Connection: content-length\r\n", b"Content-Length: " + real + b"\r\n"),
    )
    yield "length of what is a body", _post(b"Content-Length: " + real + b"\r\n")
    yield "length of a GET's body", _get(_OWN, b"Content-Length: " + real + b"\r\n")
    yield "length of nothing", _post(b"Content-Length: 0\r\n")
    yield "no length", _post()
    yield "Expect", _post(b"Content-Length: " + real + b"\r\n", b"Expect: 100-continue\r\n")
    yield "Expect the unknown", _post(b"Content-Length: " + real + b"\r\n", b"Expect: miracles\r\n")
    yield "Range", _get(_OWN, b"Range: bytes=0-\r\n", b"Content-Length: " + real + b"\r\n")


def _unread() -> Iterator[tuple[str, bytes]]:
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        for name, fields, body in (
            ("length", b"Content-Length: %d\r\n" % len(HIDDEN), HIDDEN),
            ("length, behind a blank line", b"Content-Length: %d\r\n" % (len(HIDDEN) + 2), b"\r\n" + HIDDEN),
            ("length, not waited for", b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
            ("chunks", b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
        ):
            yield f"{method.decode()}, {name}", method + b" /CASE/first HTTP/1.1\r\n" + _OWN + fields + b"\r\n" + body


def _codings() -> Iterator[tuple[str, bytes]]:
    ended = b"0\r\n\r\n" + HIDDEN
    for value in (
        b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\x85chunked", b"\xa0chunked", b"chunked\xa0", b"chunked\0", b"\0chunked", b",chunked",
        b"chunked,", b", chunked", b"chunked, chunked", b"identity", b"identity, chunked", b"chunked, identity", b"gzip, chunked", b"chunked, gzip",
        b"xchunked", b"chunkedx", b"x chunked", b"chunked x", b"chunked;q=1", b"\"chunked\"", b"'chunked'", b"ch\xc5\xbfunked", b"cow", b"",
        b"chunked\r\n identity", b"\r\n chunked", b"identity\r\n chunked", b"cow\rTransfer-Encoding: chunked", b"cow\nTransfer-Encoding: chunked",
        b"chunked\rX: y", b"chun\xadked", b"\xef\xbb\xbfchunked", b"CHUNKED\x1f", b"chun\x00ked",
    ):  # fmt: skip
        yield f"coding {value!r}", _post(b"Transfer-Encoding: " + value + b"\r\n", body=ended)
        both = b"Content-Length: %d\r\n" % len(ended)
        yield f"coding {value!r} with a length", _post(b"Transfer-Encoding: " + value + b"\r\n", both, body=ended)
    for name in (b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"Transfer-Encoding\0", b"\0Transfer-Encoding",
                 b"Transfer\0-Encoding", b"Transfer_Encoding", b"Transfer-Encoding:", b"Transfer-Encoding\x0b", b"Transfer Encoding",
                 b"X:y\rTransfer-Encoding", b"X:y\nTransfer-Encoding", b"\xef\xbb\xbfTransfer-Encoding", b"TE", b"Transfer-Encodin\xc7\xa7"):  # fmt: skip
        yield f"coding as {name!r}", _post(name + b": chunked\r\n", body=ended)
        length = b"Content-Length: %d\r\n" % len(ended)
        yield f"coding as {name!r} with a length", _post(name + b": chunked\r\n", length, body=ended)
        yield (
            f"coding as {name!r} behind no length",
            _post(b"Content-Length: 0\r\n", name + b": chunked\r\n", body=ended),
        )
    yield "length, then coding", _post(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", body=ended)
    yield "coding, then length", _post(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", body=ended)
    yield "coding twice", _post(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", body=ended)
    yield (
        "coding twice the same",
        _post(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n", body=ended),
    )
    yield "coding in HTTP/1.0", _post(b"Transfer-Encoding: chunked\r\n", body=ended, version=b"HTTP/1.0")
    old = (b"Transfer-Encoding: chunked\r\n", b"Connection: keep-alive\r\n")
    yield "coding in HTTP/1.0 that is kept alive", _post(*old, body=ended, version=b"HTTP/1.0")
    yield (
        "coding that Connection removes",
        _post(b"Transfer-Encoding: chunked\r\n", b"Connection: transfer-encoding\r\n", body=ended),
    )
    yield "coding in a GET", _get(_OWN, b"Transfer-Encoding: chunked\r\n", behind=ended)
    yield "coding as it should be", _post(b"Transfer-Encoding: chunked\r\n", body=ended)


def _chunks() -> Iterator[tuple[str, bytes]]:
    for size in (
        b"+1", b"-1", b"0x1", b"1_", b"0_1", b" 1", b"1 ", b"\t1", b"1\t", b"01", b"1\0", b"1\x0b", b"\x851", b"1g", b"1.0", b"", b"1,", b"\"1\"",
        b"10000000000000001", b"fffffffffffffffff", b"1 ;a", b"1; a", b"1;a=\rb", b"1;a=\nb", b"1;a\0", b"1;\"\r\n\"", b"1;a=\"\\\"", b"1;\x0b",
        b"1\r", b"1\n", b"\xd9\xa1", b"1;a\r\nx",
    ):  # fmt: skip
        body = size + b"\r\nx\r\n0\r\n\r\n" + HIDDEN
        yield f"chunk size {size!r}", _post(b"Transfer-Encoding: chunked\r\n", body=body)
    bodies = {
        "bare LF behind the size": b"1\nx\r\n0\r\n\r\n",
        "bare LF behind the chunk": b"1\r\nx\n0\r\n\r\n",
        "bare CR behind the size": b"1\rx\r\n0\r\n\r\n",
        "bare CR behind the chunk": b"1\r\nx\r0\r\n\r\n",
        "nothing behind the chunk": b"1\r\nx0\r\n\r\n",
        "two bytes behind the chunk": b"1\r\nxyz\r\n0\r\n\r\n",
        "LF at the end": b"0\n\n",
        "LF at the very end": b"0\r\n\n",
        "CR at the end": b"0\r\n\rX",
        "CR CR LF at the end": b"0\r\n\r\r\n",
        "several zeros": b"000\r\n\r\n",
        "an extension of nothing": b"0;x\r\n\r\n",
        "an extension that hides a CR": b"2;\rxx\r\n4c\r\n0\r\n\r\n",
        "a trailer": b"0\r\nX: y\r\n\r\n",
        "a trailer without a colon": b"0\r\nevil\r\n\r\n",
        "a trailer that is folded": b"0\r\nX: y\r\n z\r\n\r\n",
        "a trailer in bare LF": b"0\r\nX: y\n\n",
        "a trailer with a CR": b"0\r\nX: y\rz: a\r\n\r\n",
        "a trailer with a NUL": b"0\r\nX: y\0\r\n\r\n",
        "Host as a trailer": b"0\r\n" + _EVIL + b"\r\n",
        "a length as a trailer": b"0\r\nContent-Length: 5\r\n\r\n",
        "a coding as a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "a space before the end": b"0\r\n \r\n",
        "a line before the next": b"0\r\n\r\n\r\n",
        "many extensions": b"1;" + b"a" * 5000 + b"\r\nx\r\n0\r\n\r\n",
        "no end": b"",
    }
    for name, body in bodies.items():
        yield f"chunks: {name}", _post(b"Transfer-Encoding: chunked\r\n", body=body + HIDDEN)


def _fields() -> Iterator[tuple[str, bytes]]:
    for field in (b"evil", b": evil", b" X: y", b"\tX: y", b"X : y", b"X\0: y", b"X: y\0", b"X: \x01", b"X: \x7f", b"X: y\x0b", b"X(: y", b"X\xe9: y",
                  b"X: y\r\n z", b"X: y\rZ: a", b"X: y\nZ: a", b"X: \r\n\tz", b"X", b"X: y\r\n\r", b"=: y", b"X: y\x1b[2J"):  # fmt: skip
        yield f"field {field!r}", _get(_OWN, field + b"\r\n")
        yield f"field {field!r} first", _get(field + b"\r\n", _OWN)
    yield "as many fields as are too many", _get(_OWN, b"X: y\r\n" * 300)
    yield "a field of 100 kB", _get(_OWN, b"X: " + b"y" * 100_000 + b"\r\n")
    for value in (
        b"h2c",
        b"HTTP/2.0",
        b"TLS/1.0",
        b"websocket",
        b"websocket, h2c",
        b"evil",
        b"",
        b"\x00",
        b"h2c\r\nUpgrade: websocket",
    ):
        connection = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        yield f"Upgrade {value!r}", _get(_OWN, connection, b"Upgrade: " + value + b"\r\n")
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    asked = (_OWN, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", key)
    # Nobody here answers 101: what stands behind is another request, and for another host.
    yield "a WebSocket that is not wanted", _get(*asked)
    yield "a WebSocket with a length", _get(*asked, b"Content-Length: %d\r\n" % len(HIDDEN))
    yield "close, then more", _get(_OWN, b"Connection: close\r\n")
    yield "HTTP/1.0, then more", _get(_OWN, version=b"HTTP/1.0")
    yield "HEAD, then more", b"HEAD /CASE/first HTTP/1.1\r\n" + _OWN + b"\r\n" + HIDDEN
    yield "another host behind", _get(_OWN)
    yield "the same host behind", _get(_OWN, behind=b"GET /CASE/second HTTP/1.1\r\n" + _OWN + b"\r\n")
    yield "three at once", _get(_OWN, behind=b"GET /CASE/second HTTP/1.1\r\n" + _OWN + b"\r\n" + HIDDEN)


CASES = {
    f"{group}: {name}": payload
    for group, cases in {
        "Host": _hosts(),
        "target": _targets(),
        "line": _lines(),
        "length": _lengths(),
        "unread": _unread(),
        "coding": _codings(),
        "chunks": _chunks(),
        "fields": _fields(),
    }.items()
    for name, payload in cases
}
