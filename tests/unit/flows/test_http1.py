"""The HTTP/1.1 conversation: what goes on, what does not, and what is on record."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from microagent.decision.verdict import Action, Reason, Verdict, refusal
from microagent.flows.http1 import Effect, Finish, HttpConversation, ToGuest, ToUpstream, Write

GET = b"GET /a?token=secret HTTP/1.1\r\nHost: api.ok.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def conversation(verdict: Verdict | None = None) -> HttpConversation:
    allowed = verdict or Verdict(Action.ALLOW, Reason.NAME_LISTED, host="api.ok.test")
    ids = (f"d{n}" for n in itertools.count())
    return HttpConversation(lambda: allowed, "api.ok.test", 443, "203.0.113.10:443", "flow1", lambda: next(ids))


def out(effects: list[Effect]) -> bytes:
    return b"".join(e.data for e in effects if isinstance(e, ToUpstream))


def back(effects: list[Effect]) -> bytes:
    return b"".join(e.data for e in effects if isinstance(e, ToGuest))


def records(effects: list[Effect]) -> list[dict[str, object]]:
    return [{"event": str(e.record.event), **e.record.fields} for e in effects if isinstance(e, Write)]


def test_a_request_passes_unchanged_and_is_recorded_without_its_query() -> None:
    talk = conversation()
    assert out(talk.from_guest(GET, 1.0)) == GET
    effects = talk.from_upstream(OK, 1.5)
    assert back(effects) == OK
    (record,) = records(effects)
    assert record["path"] == "/a"
    assert (record["status"], record["bytes_out"], record["bytes_in"]) == (200, len(GET), len(OK))
    assert record["duration_ms"] == 500.0
    assert "secret" not in json.dumps(record)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_any_chunking_gives_the_same_conversation(size: int) -> None:
    post = b"POST /b HTTP/1.1\r\nHost: api.ok.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"

    def pieces(data: bytes) -> Iterator[bytes]:
        return (data[at : at + size] for at in range(0, len(data), size))

    talk = conversation()
    effects: list[Effect] = []
    for request, response in ((post, answer), (GET, OK)):
        for piece in pieces(request):
            effects += talk.from_guest(piece, 1.0)
        for piece in pieces(response):
            effects += talk.from_upstream(piece, 1.0)
    assert out(effects) == post + GET
    assert back(effects) == answer + OK
    assert [r["path"] for r in records(effects)] == ["/b", "/a"]


def test_pipelined_requests_wait_for_their_turn() -> None:
    talk = conversation()
    assert out(talk.from_guest(GET + GET, 1.0)) == GET
    assert not talk.wants_guest
    effects = talk.from_upstream(OK, 1.0)
    assert out(effects) == GET
    assert len(records(effects)) == 1


def test_another_host_on_the_same_connection_is_refused_and_does_not_go_on() -> None:
    talk = conversation()
    evil = b"GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    assert out(talk.from_guest(GET + evil, 1.0)) == GET
    effects = talk.from_upstream(OK, 1.0)
    assert out(effects) == b""
    assert back(effects).startswith(OK + b"HTTP/1.1 403 ")
    deny = records(effects)[-1]
    assert (deny["event"], deny["reason"], deny["host"]) == ("egress_deny", "host_mismatch", "evil.test")
    assert (deny["method"], deny["path"], deny["signal"]) == ("GET", "/x", "denied")
    assert isinstance(effects[-1], Finish)


def test_a_denial_says_what_is_wrong_or_what_would_help_where_that_of_a_connection_does() -> None:
    (malformed,) = records(conversation().from_guest(GET.replace(b"Host", b"Host: x\r\nHost", 1), 1.0))
    assert (malformed["reason"], malformed["signal"], "hint" in malformed) == ("request_malformed", "denied", False)
    assert "Host" in str(malformed["error"])
    changed = replace(refusal(Reason.NAME_NOT_LISTED, "api.ok.test"), would_permit="allow: api.ok.test")
    (denied,) = records(conversation(changed).from_guest(GET, 1.0))
    assert (denied["reason"], denied["signal"], "error" in denied) == ("name_not_listed", "denied", False)
    assert denied["hint"] == "the policy entry `allow: api.ok.test` would permit it"


def post(body: bytes, method: bytes = b"POST", length: int | None = None) -> bytes:
    head = b" /p HTTP/1.1\r\nHost: api.ok.test\r\nContent-Length: %d\r\n\r\n"
    return method + head % (len(body) if length is None else length) + body


def test_a_body_that_a_server_did_not_wait_for_does_not_go_on() -> None:
    """It would be the next request to a server that answers `Expect: 100-continue`, or a GET, by the head alone."""
    talk = conversation()
    assert out(talk.from_guest(post(b"", length=len(GET)), 1.0)) == post(b"", length=len(GET))
    effects = talk.from_upstream(OK, 1.0)
    assert back(effects) == OK
    assert isinstance(effects[-1], Finish)
    assert not talk.wants_guest
    talk = conversation()
    talk.from_guest(post(b"ab", length=4), 1.0)
    assert back(talk.from_upstream(OK[:-1], 1.0)) == OK[:-1]  # the answer begins early, and ends when it may
    assert out(talk.from_guest(b"cd", 1.0)) == b"cd"
    assert not [effect for effect in talk.from_upstream(OK[-1:], 1.0) if isinstance(effect, Finish)]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_body_that_is_a_request_is_refused_with_methods_that_have_none(method: bytes, size: int) -> None:
    """Servers that leave it unread, http.server among them, take it for the next request."""
    for body in (GET, b"\r\n" + GET, b"POST http://evil.test/ HTTP/1.0\r\n\r\n"):
        talk, sent, said = conversation(), b"", b""
        request = post(body, method)
        for at in range(0, len(request), size):
            effects = talk.from_guest(request[at : at + size], 1.0)
            sent, said = sent + out(effects), said + back(effects)
        assert (sent, said[:13]) == (post(b"", method, len(body)), b"HTTP/1.1 400 ")
    for body in (b'{"query": "GET / HTTP/1.1"}', b"a=1&b=2", b"\0\1", b"x"):
        talk, sent = conversation(), b""
        request = post(body, method)
        for at in range(0, len(request), size):
            sent += out(talk.from_guest(request[at : at + size], 1.0))
        assert sent == request
        assert not talk.wants_guest


def test_a_policy_that_changed_refuses_the_next_request() -> None:
    effects = conversation(refusal(Reason.NAME_NOT_LISTED, "api.ok.test")).from_guest(GET, 1.0)
    assert out(effects) == b""
    assert records(effects)[0]["reason"] == "name_not_listed"
    assert json.loads(back(effects).split(b"\r\n\r\n", 1)[1])["decision"] == "d0"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"CONNECT api.ok.test:443 HTTP/1.1\r\nHost: api.ok.test:443\r\n\r\n", "connect_refused"),
        (GET[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", "upgrade_refused"),
        (b"GET / HTTP/1.1\r\nHost: api.ok.test:444\r\n\r\n", "host_mismatch"),
        (GET[:-2] + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: api.ok.test\r\n X: folded\r\n\r\n", "request_malformed"),
        (b"GET / HTTP/1.1\nHost: api.ok.test\n\n", "request_malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request_malformed"),
    ],
)
def test_what_is_no_plain_request_is_refused_and_nothing_goes_on(head: bytes, reason: str) -> None:
    effects = conversation().from_guest(head, 1.0)
    assert out(effects) == b""
    assert records(effects)[0]["reason"] == reason
    assert isinstance(effects[-1], Finish)


# The example of RFC 6455 section 1.3.
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
UPGRADE = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
WEBSOCKET = GET[:-2] + UPGRADE + KEY + VERSION + b"\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n" + UPGRADE + ACCEPT + b"\r\n"


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (KEY, b""),
        (KEY, KEY + KEY),
        (KEY, b"Sec-WebSocket-Key: short\r\n"),
        (KEY, KEY.replace(b"Q==", b"R==")),  # bits that no base64 writer sets
        (VERSION, b""),
        (VERSION, b"Sec-WebSocket-Version: 8\r\n"),
        (b"keep-alive, Upgrade", b"keep-alive"),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        (b"GET", b"POST"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (VERSION, VERSION + b"Content-Length: 5\r\n"),
    ],
)
def test_half_a_websocket_handshake_is_refused(part: bytes, instead: bytes) -> None:
    assert out(conversation().from_guest(WEBSOCKET, 1.0)) == WEBSOCKET
    assert part in WEBSOCKET
    effects = conversation().from_guest(WEBSOCKET.replace(part, instead), 1.0)
    assert out(effects) == b""
    assert records(effects)[0]["reason"] == "upgrade_refused"


@pytest.mark.parametrize(
    "accept", [b"", ACCEPT + ACCEPT, ACCEPT.replace(b"s3p", b"S3p"), ACCEPT.replace(b"Oo=", b"Oo")]
)
def test_101_without_its_proof_is_a_bad_gateway(accept: bytes) -> None:
    talk = conversation()
    talk.from_guest(WEBSOCKET, 1.0)
    effects = talk.from_upstream(SWITCHED.replace(ACCEPT, accept), 1.0)
    assert back(effects).startswith(b"HTTP/1.1 502 ")
    assert not talk.tunnel


def test_a_websocket_becomes_a_tunnel_only_with_101() -> None:
    upgrade, switched = WEBSOCKET, SWITCHED
    talk = conversation()
    assert out(talk.from_guest(upgrade, 1.0)) == upgrade
    assert back(talk.from_upstream(switched + b"frame", 1.0)) == switched + b"frame"
    assert out(talk.from_guest(GET, 1.0)) == GET
    assert talk.tunnel

    refused = conversation()
    refused.from_guest(upgrade, 1.0)
    refused.from_upstream(OK, 1.0)
    assert not refused.tunnel


def test_101_that_nobody_asked_for_is_a_bad_gateway() -> None:
    talk = conversation()
    talk.from_guest(GET, 1.0)
    effects = talk.from_upstream(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", 1.0)
    assert back(effects).startswith(b"HTTP/1.1 502 ")


def test_bytes_that_no_request_asked_for_end_the_connection() -> None:
    talk = conversation()
    talk.from_guest(GET, 1.0)
    effects = talk.from_upstream(OK + OK, 1.0)
    assert back(effects) == OK
    assert effects[-1] == Finish("unsolicited response")
    idle = conversation()
    assert idle.from_upstream(OK, 1.0) == [Finish("unsolicited response")]


def test_a_body_that_ends_with_the_connection() -> None:
    talk = conversation()
    talk.from_guest(GET, 1.0)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert back(talk.from_upstream(head + b"some", 1.0)) == head + b"some"
    effects = talk.upstream_ended(2.0)
    assert records(effects)[0]["bytes_in"] == len(head) + 4
    assert isinstance(effects[-1], Finish)


def test_a_response_to_head_has_no_body() -> None:
    talk = conversation()
    talk.from_guest(b"HEAD / HTTP/1.1\r\nHost: api.ok.test\r\n\r\n", 1.0)
    effects = talk.from_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 1.0)
    assert records(effects)[0]["status"] == 200
    assert talk.wants_guest


def test_an_unfinished_exchange_is_on_record_too() -> None:
    talk = conversation()
    talk.from_guest(GET, 1.0)
    (record,) = records(talk.upstream_ended(2.0))
    assert record["status"] == 0
