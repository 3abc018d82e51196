"""Every request is decided, not every connection: what smuggles a second one past the first reaches nobody."""

import pytest
from tests.kernel.conftest import MakeWorkspace

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

API_HTTP = Destination("tcp", world.API, 80)
OK, EVIL = b"Host: api.ok.test\r\n", b"Host: evil.test\r\n"
HIDDEN = b"GET /smuggled HTTP/1.1\r\n" + EVIL + b"\r\n"

PAYLOADS = {
    "second request for another host": b"GET / HTTP/1.1\r\n" + OK + b"\r\n" + HIDDEN,
    "two hosts": b"GET /smuggled HTTP/1.1\r\n" + OK + EVIL + b"\r\n",
    "two equal hosts": b"GET /smuggled HTTP/1.1\r\n" + OK + OK + b"\r\n",
    "no host": b"GET /smuggled HTTP/1.1\r\n\r\n",
    "space before the colon": b"GET /smuggled HTTP/1.1\r\nHost : api.ok.test\r\n\r\n",
    "folded host": b"GET /smuggled HTTP/1.1\r\nHost: api.ok.test\r\n evil.test\r\n\r\n",
    "NUL in the host": b"GET /smuggled HTTP/1.1\r\nHost: evil.test\0.api.ok.test\r\n\r\n",
    "absolute form for another host": b"GET http://evil.test/smuggled HTTP/1.1\r\n" + OK + b"\r\n",
    "absolute form, host for another": b"GET http://api.ok.test/smuggled HTTP/1.1\r\n" + EVIL + b"\r\n",
    "another port": b"GET /smuggled HTTP/1.1\r\nHost: api.ok.test:8080\r\n\r\n",
    "user-info": b"GET /smuggled HTTP/1.1\r\nHost: api.ok.test@evil.test\r\n\r\n",
    "CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "CONNECT to the allowed host": b"CONNECT api.ok.test:80 HTTP/1.1\r\nHost: api.ok.test:80\r\n\r\n" + HIDDEN,
    "length and chunked": b"POST /smuggled HTTP/1.1\r\n"
    + OK
    + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "two lengths": b"POST /smuggled HTTP/1.1\r\n" + OK + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + HIDDEN,
    "length with a plus": b"POST /smuggled HTTP/1.1\r\n" + OK + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "length list": b"POST /smuggled HTTP/1.1\r\n" + OK + b"Content-Length: 0, 60\r\n\r\n" + HIDDEN,
    "odd chunked": b"POST /smuggled HTTP/1.1\r\n" + OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": b"POST /smuggled HTTP/1.1\r\n"
    + OK
    + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "chunked in HTTP/1.0": b"POST /smuggled HTTP/1.0\r\n"
    + OK
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "bare LF": b"GET /smuggled HTTP/1.1\n" + OK.replace(b"\r\n", b"\n") + b"\n" + HIDDEN,
    "bare CR": b"GET /smuggled HTTP/1.1\r\nX: a\rHost: evil.test\r\n" + OK + b"\r\n",
    "h2c upgrade": b"GET /smuggled HTTP/1.1\r\n"
    + OK
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "h2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "two slashes": b"GET //evil.test/smuggled HTTP/1.1\r\n" + OK + b"\r\n",
    "websocket without a key": b"GET /smuggled HTTP/1.1\r\n"
    + OK
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    + HIDDEN,
    "HTTP/0.9": b"GET /smuggled\r\n",
    "chunk with a bare LF": b"POST /sink HTTP/1.1\r\n" + OK + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n" + HIDDEN,
    "chunk size with a sign": b"POST /sink HTTP/1.1\r\n"
    + OK
    + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n"
    + HIDDEN,
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_nothing_hides_behind_an_allowed_request(oracle: Oracle, workspace: MakeWorkspace, case: str) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.dig("+short", "api.ok.test").strip() == world.API
    lab.guest.tcp(world.API, 80, PAYLOADS[case], seconds=1)
    assert lab.guest.curl("http://api.ok.test/").stdout == "hello from api.ok.test\n"
    arrived = lab.internet.evidence().requests
    assert {request.host for request in arrived} == {"api.ok.test"}
    assert not [request for request in arrived if "smuggled" in request.path]
    lab.wait_for("egress_request", path="/", status=200)
    told = [record for record in lab.records("egress_request") if record.get("status") != 403]
    assert len(told) >= len(arrived)  # no request arrives that no record tells of
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()
