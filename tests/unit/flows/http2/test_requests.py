"""What goes on, what does not, and what is on record; both ends are the `h2` package's."""

import json
from typing import Any

import pytest
from h2 import events
from h2.settings import SettingCodes
from tests.unit.flows.http2.ends import ALLOWED, GET, OK, POST, Ends, Fields, but, conversation, records

from microagent.decision.verdict import Reason, refusal
from microagent.flows.http1 import Finish, ToUpstream

HEAD: Fields = [(":method", "HEAD"), *GET[1:]]


def denial(ends: Ends, stream: int) -> tuple[dict[str, str], Any]:
    """Head and body that the client got for a refused stream."""
    (head,) = ends.client_saw(events.ResponseReceived, stream)
    body = b"".join(e.data for e in ends.client_saw(events.DataReceived, stream))  # type: ignore[attr-defined]
    fields = {name.decode(): value.decode() for name, value in head.headers}  # type: ignore[attr-defined]
    return fields, json.loads(body) if body else None


@pytest.mark.parametrize("size", [1, 5, 9, 24, 1000, 1 << 20])
def test_requests_pass_and_are_recorded_whatever_the_chunking(size: int) -> None:
    ends = Ends(size=size)
    for number in range(3):
        stream = ends.request(POST, b"x" * 20000)
        ends.server.acknowledge_received_data(20000, stream)
        ends.respond(stream, body=b"y" * 30000)
        ends.client.acknowledge_received_data(30000, stream)
        ends.step()
        assert len(ends.records()) == number + 1
    record = ends.records()[-1]
    assert (record["event"], record["path"], record["status"], record["http"]) == ("egress_request", "/a", 200, "2")
    assert "secret" not in json.dumps(ends.records())
    assert ends.body_at_server(None) == b"x" * 60000
    assert not ends.finished()


def test_until_something_is_refused_header_blocks_pass_unchanged() -> None:
    ends = Ends()
    stream = ends.client.get_next_available_stream_id()
    ends.client.send_headers(stream, POST, end_stream=False)
    ends.client.send_data(stream, b"body", end_stream=True)
    sent = ends.client.data_to_send()
    before = len(ends.to_server)
    ends.from_client(sent)
    assert bytes(ends.to_server[before:]) == sent


def test_a_request_is_recorded_before_its_answer_ends() -> None:
    ends = Ends()
    stream = ends.request(GET)
    ends.server.send_headers(stream, OK, end_stream=True)
    effects = ends.talk.from_upstream(ends.server.data_to_send(), 2.5)
    assert [type(e).__name__ for e in effects] == ["Write", "ToGuest"]
    assert records(effects)[0]["duration_ms"] == 1500.0


REFUSED: dict[str, tuple[Fields, str]] = {
    "another host": (but(GET, authority="evil.test"), "host_mismatch"),
    "another port": (but(GET, authority="api.ok.test:8443"), "host_mismatch"),
    "host differs": ([*GET, ("host", "evil.test")], "request_malformed"),
    "no authority": (but(GET, authority=None), "request_malformed"),
    "user-info": (but(GET, authority="api.ok.test@evil.test"), "request_malformed"),
    "two authorities": ([GET[2], *GET], "request_malformed"),
    "CONNECT": ([(":method", "CONNECT"), (":authority", "api.ok.test:443")], "connect_refused"),
    "extended CONNECT": ([*but(GET, method="CONNECT"), (":protocol", "websocket")], "connect_refused"),
    "plain scheme": (but(GET, scheme="http"), "request_malformed"),
    "no path": (but(GET, path=None), "request_malformed"),
    "empty path": (but(GET, path=""), "request_malformed"),
    "absolute path": (but(GET, path="https://evil.test/"), "request_malformed"),
    "two slashes": (but(GET, path="//evil.test/x"), "request_malformed"),
    "slash and backslash": (but(GET, path="/\\evil.test/x"), "request_malformed"),
    "a length that is none": ([*GET, ("content_length", "5")], "request_malformed"),
    "space in the path": (but(GET, path="/ HTTP/1.1"), "request_malformed"),
    "upper case": ([*GET, ("Accept", "x")], "request_malformed"),
    "connection": ([*GET, ("connection", "close")], "request_malformed"),
    "transfer-encoding": ([*POST, ("transfer-encoding", "chunked")], "request_malformed"),
    "upgrade": ([*GET, ("upgrade", "websocket")], "request_malformed"),
    "te": ([*GET, ("te", "gzip")], "request_malformed"),
    "late pseudo": ([("accept", "x"), *GET], "request_malformed"),
    "unknown pseudo": ([*GET, (":x", "y")], "request_malformed"),
    "CR LF in a value": ([*GET, ("x", "y\r\nhost: evil.test")], "request_malformed"),
    "NUL in a value": ([*GET, ("x", "y\0")], "request_malformed"),
    "space before a value": ([*GET, ("x", " y")], "request_malformed"),
    "two lengths": ([*POST, ("content-length", "1"), ("content-length", "1")], "request_malformed"),
    "promised body": ([*POST, ("content-length", "1")], "request_malformed"),
    "too many fields": ([*GET, *((f"x{n}", "") for n in range(200))], "request_malformed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_stream_reaches_nobody_and_the_others_live_on(case: str) -> None:
    fields, reason = REFUSED[case]
    ends = Ends()
    first = ends.request([*GET, ("x-indexed", "before")])
    arrived = len(ends.at_server)
    refused = ends.request(fields)
    assert len(ends.at_server) == arrived
    (record,) = ends.records()
    assert (record["event"], record["reason"], record["signal"]) == ("egress_deny", reason, "denied")
    assert bool(record.get("error")) is (reason == "request_malformed")
    assert not record.get("hint")
    head, body = denial(ends, refused)
    assert head[":status"] == ("400" if reason == "request_malformed" else "403")
    assert body["decision"] == head["x-microagent-decision"]
    # The compression state of both directions has survived it.
    later = ends.request([*GET, ("x-indexed", "before"), ("x-more", "after")])
    assert ("x-indexed", "before") in _headers(ends, later)
    for stream in (later, first):
        ends.respond(stream)
        (answer,) = ends.client_saw(events.ResponseReceived, stream)
        assert (b"x-long", b"v" * 300) in answer.headers  # type: ignore[attr-defined]
    assert [r["status"] for r in ends.records()[1:]] == [200, 200]
    assert not ends.finished()


def _headers(ends: Ends, stream: int) -> list[tuple[str, str]]:
    (request,) = ends.server_saw(events.RequestReceived, stream)
    return [(name.decode(), value.decode()) for name, value in request.headers]  # type: ignore[attr-defined]


def test_a_policy_that_changed_refuses_the_next_stream() -> None:
    ends = Ends(refusal(Reason.NAME_NOT_LISTED, "api.ok.test"))
    head, body = denial(ends, ends.request(GET))
    assert (head[":status"], body["reason"]) == ("403", "name_not_listed")
    assert not ends.server_saw(events.RequestReceived)


def test_a_refused_head_gets_no_body() -> None:
    ends = Ends(refusal(Reason.NAME_NOT_LISTED, "api.ok.test"))
    stream = ends.request(HEAD)
    assert denial(ends, stream)[1] is None
    assert ends.client_saw(events.StreamEnded, stream)


def test_the_body_of_a_refused_upload_is_dropped_and_its_window_given_back() -> None:
    ends = Ends()
    for _ in range(8):
        refused = ends.request(but(POST, authority="evil.test"), b"x" * 16000, end=False)
        assert ends.client_saw(events.StreamReset, refused)
    assert ends.client.outbound_flow_control_window == 65535
    stream = ends.request(POST, b"y" * 30000)
    assert ends.body_at_server(stream) == b"y" * 30000


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 10, len(HIDDEN)])
def test_a_request_in_the_body_of_a_get_reaches_nobody(piece: int) -> None:
    """A server in front hands it on as HTTP/1.1, and one behind it that leaves bodies unread takes it for the next."""
    ends = Ends()
    stream = ends.request(GET, end=False)
    for at in range(0, len(HIDDEN), piece):
        ends.client.send_data(stream, HIDDEN[at : at + piece])
        ends.step()
        if ends.client_saw(events.StreamReset, stream):
            break
    assert ends.body_at_server(stream) == b""
    assert ends.server_saw(events.StreamReset, stream)
    assert denial(ends, stream)[0][":status"] == "400"
    assert [r["event"] for r in ends.records()] == ["egress_deny", "egress_request"]
    assert ends.client.outbound_flow_control_window == 65535
    # Bodies of other methods are what they are, and other bodies of this one pass.
    posted = ends.request(POST, HIDDEN)
    assert ends.body_at_server(posted) == HIDDEN
    for body in (b'{"query": 1}', b"a=1&b=2", b"x" * 16000, b"line\nline", b"\x00" * 40000):
        got = ends.request(GET, body)
        assert ends.body_at_server(got) == body
        ends.server.acknowledge_received_data(len(body), got)
        ends.step()
    assert not ends.finished()


def test_what_is_kept_back_goes_with_its_trailers_and_is_given_back_with_its_stream() -> None:
    ends = Ends()
    trailed = ends.request(GET, b"a=1", end=False)
    assert ends.body_at_server(trailed) == b""
    ends.client.send_headers(trailed, [("x-sum", "1")], end_stream=True)
    ends.step()
    assert ends.body_at_server(trailed) == b"a=1"
    assert ends.server_saw(events.TrailersReceived, trailed)
    given_up = ends.request(GET, b"b=2", end=False)
    before = ends.client.outbound_flow_control_window
    ends.client.reset_stream(given_up)
    ends.step()
    assert ends.body_at_server(given_up) == b""
    assert ends.client.outbound_flow_control_window == before + 3
    assert not ends.finished()


def test_the_servers_view_of_the_guests_window_is_never_larger_than_the_guests() -> None:
    ends = Ends()
    for _ in range(200):
        refused = ends.request(but(GET, authority="evil.test"))
        for data in ends.client_saw(events.DataReceived, refused):
            ends.client.acknowledge_received_data(len(data.data), refused)  # type: ignore[attr-defined]
        ends.step()
        assert ends.server.outbound_flow_control_window <= ends.client.inbound_flow_control_window


def test_a_refusal_without_room_for_its_body_still_says_which_decision_it_was() -> None:
    ends = Ends()
    ends.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    ends.step()
    head, body = denial(ends, ends.request(but(GET, authority="evil.test")))
    assert (head[":status"], body) == ("403", None)
    assert head["x-microagent-decision"]


def test_trailers_interim_responses_and_resets_pass() -> None:
    ends = Ends()
    stream = ends.client.get_next_available_stream_id()
    ends.client.send_headers(stream, [*POST, ("te", "trailers")])
    ends.client.send_data(stream, b"x")
    ends.client.send_headers(stream, [("x-sum", "1")], end_stream=True)
    ends.step()
    ends.server.send_headers(stream, [(":status", "103"), ("link", "x")])
    ends.server.send_headers(stream, OK)
    ends.server.send_data(stream, b"y")
    ends.server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    ends.step()
    assert ends.server_saw(events.TrailersReceived, stream)
    assert ends.client_saw(events.InformationalResponseReceived, stream)
    assert ends.client_saw(events.TrailersReceived, stream)
    cancelled = ends.request(POST, b"x", end=False)
    ends.client.reset_stream(cancelled)
    ends.step()
    assert ends.server_saw(events.StreamReset, cancelled)
    assert [r["status"] for r in ends.records()] == [200, 0]


def test_many_streams_at_once_in_any_order() -> None:
    ends = Ends()
    streams = [ends.request(POST, b"x" * 10, end=False) for _ in range(100)]
    for stream in reversed(streams):
        ends.client.end_stream(stream)
        ends.step()
        ends.respond(stream)
    assert len(ends.records()) == 100
    assert {r["status"] for r in ends.records()} == {200}


def test_what_comes_late_for_a_stream_that_the_guest_reset_is_dropped() -> None:
    ends = Ends()
    stream = ends.request(GET)
    ends.server.send_headers(stream, [*OK, ("x-late", "1")])
    ends.server.send_data(stream, b"z" * 10000)
    late = ends.server.data_to_send()
    ends.client.reset_stream(stream)
    ends.step()
    before = ends.server.outbound_flow_control_window
    ends.from_server(late)
    assert not ends.client_saw(events.ResponseReceived, stream)
    assert ends.server.outbound_flow_control_window == before + 10000
    again = ends.request(GET)
    ends.respond(again, [*OK, ("x-late", "1")])
    (answer,) = ends.client_saw(events.ResponseReceived, again)
    assert (b"x-late", b"1") in answer.headers  # type: ignore[attr-defined]


def test_an_unfinished_stream_is_on_record_when_the_connection_ends() -> None:
    ends = Ends()
    ends.request(GET)
    effects = ends.talk.upstream_ended(3.0)
    assert records(effects)[0]["status"] == 0
    assert effects[-1] == Finish("upstream closed")


def test_http1_where_http2_was_agreed_on_ends_the_connection() -> None:
    talk = conversation(ALLOWED)
    effects = talk.from_guest(b"GET / HTTP/1.1\r\nHost: api.ok.test\r\n\r\n", 1.0)
    assert not [e for e in effects if isinstance(e, ToUpstream)]
    assert records(effects)[0]["reason"] == "request_malformed"
    assert isinstance(effects[-1], Finish)


def test_a_stream_lives_for_hours() -> None:
    ends = Ends()
    stream = ends.request(POST, b"x", end=False)
    ends.server.send_headers(stream, OK)
    for minute in range(600):
        ends.now = 1.0 + 60.0 * minute
        ends.client.ping(b"12345678")
        ends.client.send_data(stream, b"m")
        ends.server.send_data(stream, b"m")
        ends.step()
        for side in (ends.client, ends.server):
            side.acknowledge_received_data(1, stream)
        ends.step()
    ends.client.end_stream(stream)
    ends.server.end_stream(stream)
    ends.step()
    (record,) = ends.records()
    assert record["duration_ms"] == 599 * 60_000.0
    assert not ends.finished()
