"""Floods, bombs and broken rules: bounded, told to the peer, and on record. Each case has its control beside it."""

from collections.abc import Callable

import hpack
import pytest
from h2 import events
from hyperframe.frame import (
    AltSvcFrame,
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from tests.unit.flows.http2.ends import GET, OK, POST, Ends, Fields

from microagent.flows.http1 import ToGuest
from microagent.flows.http2.limits import Bucket
from microagent.wire.http2 import ConnectionFault

CALM = 0xB


def headers(stream: int, fields: Fields = GET, flags: tuple[str, ...] = ("END_HEADERS", "END_STREAM")) -> bytes:
    """A HEADERS frame that uses no table."""
    block = hpack.Encoder()
    block.header_table_size = 0
    block.table_size_changes.clear()
    return HeadersFrame(stream, block.encode(fields), flags=flags).serialize()


def frame(made: Frame) -> bytes:
    return made.serialize()


def rapid_reset(n: int) -> bytes:
    return headers(2 * n + 1) + frame(RstStreamFrame(2 * n + 1, 8))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": rapid_reset,
    "denied streams": lambda n: headers(2 * n + 1, [(":method", "CONNECT"), (":authority", "evil.test")]),
    "ping": lambda n: frame(PingFrame(0, b"12345678")),
    "settings": lambda n: frame(SettingsFrame(0, {4: n})),
    "priority": lambda n: frame(PriorityFrame(2 * n + 1)),
    "unknown frames": lambda n: b"\x00\x00\x01\xbb\x00\x00\x00\x00\x00x",
    "window updates": lambda n: frame(WindowUpdateFrame(0, 1)),
    "empty data": lambda n: (headers(1, POST, ("END_HEADERS",)) if not n else b"") + frame(DataFrame(1, b"")),
    "padding only": lambda n: (
        (headers(1, POST, ("END_HEADERS",)) if not n else b"")
        + frame(DataFrame(1, b"", pad_length=3, flags=("PADDED",)))
    ),
    "data behind the end": lambda n: (
        (headers(1) + frame(RstStreamFrame(1, 8)) if not n else b"") + frame(DataFrame(1, b"x"))
    ),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_ends_in_enhance_your_calm(case: str) -> None:
    ends = Ends()
    for number in range(40):  # the control: a little of it is fine
        if case == "settings" and number == 10:
            break
        ends.effects += ends.talk.from_guest(FLOODS[case](number), 1.0)
    assert not ends.finished()
    before = len(ends.effects)
    for number in range(40, 4000):
        if ends.finished():
            break
        ends.effects += ends.talk.from_guest(FLOODS[case](number), 1.0)
    assert ends.finished() == "denied"
    said = [e.data for e in ends.effects[before:] if isinstance(e, ToGuest)]
    assert said[-1].endswith(CALM.to_bytes(4, "big"))
    (record,) = [r for r in ends.records() if r["event"] == "egress_cap_exceeded"]
    assert record["limit"]
    assert ends.talk.from_guest(headers(99999), 1.0) == []


def test_a_bucket_is_filled_once() -> None:
    now = 12345.0  # the clock did not begin with us
    bucket = Bucket("too many", (10.0, 1.0))
    for _ in range(10):
        bucket.take(now)
    with pytest.raises(ConnectionFault):
        bucket.take(now)
    bucket.take(now + 1)
    with pytest.raises(ConnectionFault):
        bucket.take(now + 1)


def test_what_comes_at_a_modest_rate_is_no_flood() -> None:
    ends = Ends()
    for number in range(5000):
        ends.effects += ends.talk.from_guest(rapid_reset(number), 1.0 + number / 50)
    assert not ends.finished()
    assert len(ends.records()) == 5000


def test_a_receiver_may_acknowledge_as_much_as_it_gets() -> None:
    ends = Ends()
    stream = ends.request(GET)
    ends.server.send_headers(stream, OK)
    ends.step()
    for _ in range(5000):
        ends.effects += ends.talk.from_upstream(frame(DataFrame(stream, b"x")), 1.0)
        for update in (WindowUpdateFrame(0, 1), WindowUpdateFrame(stream, 1), PingFrame(0, b"12345678")):
            ends.effects += ends.talk.from_guest(frame(update), 1.0)
    assert not ends.finished()


def bomb() -> bytes:
    """A small block that decodes to far more: one large entry in the table, then nothing but references to it."""
    block = b"\x40\x01x\x7f\x80\x1e" + b"a" * 3967 + b"\xbe" * 12000
    return frame(HeadersFrame(1, block, flags=("END_HEADERS", "END_STREAM")))


BLOCKS: dict[str, tuple[list[bytes], int]] = {
    "HPACK bomb": ([bomb()], CALM),
    "endless block": (
        [frame(HeadersFrame(1, b"\x00\x01x\x7f" + b"\xff" * 4, flags=()))]
        + [frame(ContinuationFrame(1, b"a" * 16000))] * 5,
        CALM,
    ),
    "block in crumbs": ([frame(HeadersFrame(1, b"", flags=()))] + [frame(ContinuationFrame(1, b""))] * 20, CALM),
    "not HPACK": ([frame(HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=("END_HEADERS",)))], 9),
    "table larger than allowed": ([frame(HeadersFrame(1, b"\x3f\xe1\xff\x03", flags=("END_HEADERS",)))], 9),
    "block interrupted": (
        [frame(HeadersFrame(1, b"\x82", flags=())), frame(PingFrame(0, b"12345678"))],
        1,
    ),
    "block of two streams": (
        [frame(HeadersFrame(1, b"\x82", flags=())), frame(ContinuationFrame(3, b"\x84", flags=("END_HEADERS",)))],
        1,
    ),
    "continuation of nothing": ([frame(ContinuationFrame(1, b"\x84", flags=("END_HEADERS",)))], 1),
    "even stream": ([headers(2)], 1),
    "data on an idle stream": ([frame(DataFrame(7, b"x"))], 1),
    "reset of an idle stream": ([frame(RstStreamFrame(7, 8))], 1),
    "push from the guest": ([frame(PushPromiseFrame(1, 2, b"\x82", flags=("END_HEADERS",)))], 1),
    "frame too large": ([b"\x00\x40\x01\x00\x00\x00\x00\x00\x01"], 6),
    "window of nothing": ([b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"], 1),
    "reserved bit": ([b"\x00\x00\x08\x06\x00\x80\x00\x00\x00" + b"x" * 8], 1),
    "undefined flag": ([b"\x00\x00\x08\x06\x08\x00\x00\x00\x00" + b"x" * 8], 1),
    "unasked acknowledgement": ([frame(SettingsFrame(0, flags=("ACK",)))], 1),
    "too much padding": ([b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\x05"], 1),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_a_broken_rule_ends_the_connection_and_nothing_of_it_goes_on(case: str) -> None:
    frames, code = BLOCKS[case]
    ends = Ends()
    assert not ends.finished()
    arrived = len(ends.to_server)
    ends.from_client(b"".join(frames))
    assert ends.finished() == "denied"
    assert len(ends.to_server) == arrived
    (bye,) = ends.client_saw(events.ConnectionTerminated)
    assert bye.error_code == code  # type: ignore[attr-defined]
    assert any(r["event"] in ("egress_deny", "egress_cap_exceeded") for r in ends.records())


def test_more_streams_than_announced_are_refused_and_may_be_tried_again() -> None:
    ends = Ends()
    refused = RstStreamFrame(2 * 256 + 1, 7).serialize()
    for number in range(300):
        effects = ends.talk.from_guest(headers(2 * number + 1), 1.0)
        assert [type(e).__name__ for e in effects] == ["ToUpstream" if number < 256 else "ToGuest"]
        if number == 256:
            assert effects == [ToGuest(refused)]


def test_push_is_switched_off_and_a_server_that_pushes_is_cut_off() -> None:
    ends = Ends()
    assert not ends.server.remote_settings.enable_push
    stream = ends.request(GET)
    ends.from_server(frame(PushPromiseFrame(stream, 2, b"\x82", flags=("END_HEADERS",))))
    assert ends.finished() == "malformed response"
    assert [r["event"] for r in ends.records()] == ["egress_mitm_upstream_error", "egress_request"]


def test_extended_connect_is_not_offered() -> None:
    ends = Ends()
    ends.from_server(frame(SettingsFrame(0, {8: 1, 3: 7})))
    assert ends.client.remote_settings.enable_connect_protocol == 0
    assert ends.client.remote_settings.max_concurrent_streams == 7


def test_frames_that_lead_elsewhere_are_dropped() -> None:
    ends = Ends()
    before = len(ends.to_client)
    ends.from_server(frame(AltSvcFrame(0, b"api.ok.test", b'h3=":443"')))
    ends.from_server(b"\x00\x00\x02\x0c\x00\x00\x00\x00\x00\x00\x00")
    assert len(ends.to_client) == before
    ends.from_server(frame(PingFrame(0, b"12345678")))
    assert len(ends.to_client) > before


RESPONSES: dict[str, list[bytes]] = {
    "101": [headers(1, [(":status", "101")], ("END_HEADERS",))],
    "no status": [headers(1, [("x", "y")])],
    "two statuses": [headers(1, [(":status", "200"), (":status", "200")])],
    "odd status": [headers(1, [(":status", "2000")])],
    "a request's field": [headers(1, [(":status", "200"), (":path", "/")])],
    "data first": [frame(DataFrame(1, b"x"))],
    "interim that ends": [headers(1, [(":status", "100")])],
    "endless interim": [headers(1, [(":status", "100")], ("END_HEADERS",))] * 17,
    "CR LF": [headers(1, [(":status", "200"), ("x", "a\r\nb")])],
    "transfer-encoding": [headers(1, [(":status", "200"), ("transfer-encoding", "chunked")])],
}


@pytest.mark.parametrize("case", RESPONSES)
def test_a_malformed_response_is_a_bad_gateway_and_ends_its_stream_alone(case: str) -> None:
    ends = Ends()
    stream = ends.request(GET)
    for piece in RESPONSES[case]:
        ends.from_server(piece)
    (answer,) = ends.client_saw(events.ResponseReceived, stream)
    assert (b":status", b"502") in answer.headers  # type: ignore[attr-defined]
    assert [r["event"] for r in ends.records()] == ["egress_mitm_upstream_error", "egress_request"]
    again = ends.request(GET)
    assert again in {e.stream_id for e in ends.server_saw(events.RequestReceived)}  # type: ignore[attr-defined]
    assert not ends.finished()


@pytest.mark.parametrize(("promised", "end"), [(3, False), (5, True), (4, True)])
def test_a_body_of_another_length_than_promised_ends_its_stream(promised: int, end: bool) -> None:
    ends = Ends()
    stream = ends.request([*POST, ("content-length", str(promised))], end=False)
    ends.client.send_data(stream, b"xxxx", end_stream=end)
    ends.step()
    wrong = promised != 4
    assert bool(ends.server_saw(events.StreamReset, stream)) == wrong
    assert bool(ends.server_saw(events.DataReceived, stream)) != wrong
    if wrong:
        assert [r["event"] for r in ends.records()] == ["egress_deny", "egress_request"]
    assert not ends.finished()
