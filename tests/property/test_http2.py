"""Whatever frames the two sides send, in whatever pieces: nothing is raised, and no request goes on undecided."""

import hpack
from hyperframe import frame as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.flows.http2.ends import GET, OK, conversation, records

from microagent.flows.http1 import Effect, Finish, ToGuest, ToUpstream
from microagent.wire.http2 import BlockDecoder, fragment_untrusted, split_frames_untrusted

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIELDS = st.sampled_from(
    [
        *[GET] * 4,
        *[[(":method", "POST"), *GET[1:]]] * 3,
        *[OK] * 4,
        [*GET[:2], (":authority", "evil.test"), GET[3]],
        [*GET, ("host", "evil.test")],
        [*GET, ("transfer-encoding", "chunked")],
        [(":method", "CONNECT"), (":authority", "api.ok.test:443")],
        [*GET, ("content-length", "2")],
        [("x-trailer", "1")],
        OK,
        [(":status", "100")],
        [(":status", "101")],
        [],
    ]
)
# Mostly what a client or a server would send; a frame that breaks the connection hides all that follows it.
KIND = st.sampled_from(
    ["head"] * 8 + ["data"] * 3 + ["split head", "window", "reset", "ping", "odd stream"] * 2 + ["any"]
)


@st.composite
def frames(draw: st.DrawFn) -> list[bytes]:
    """One direction's frames, most of them good, with one HPACK encoder behind all of them."""
    encoder, last = hpack.Encoder(), -1
    entries = draw(st.dictionaries(st.sampled_from([1, 4, 8, 9]), st.integers(0, 70000), max_size=3))
    made = [hf.SettingsFrame(0, entries).serialize()]
    for kind in draw(st.lists(KIND, max_size=12)):
        fresh = last + 2 if draw(st.integers(0, 3)) else max(last, 1)
        ends = {"END_STREAM"} if draw(st.booleans()) else set[str]()
        match kind:
            case "head" | "split head" | "odd stream":
                last = max(last, fresh)
                number = fresh if kind != "odd stream" else draw(st.integers(1, 9))
                block = encoder.encode(draw(FIELDS))
                cut = len(block) if kind != "split head" else draw(st.integers(0, len(block)))
                whole = {"END_HEADERS"} if kind != "split head" else set[str]()
                made.append(hf.HeadersFrame(number, block[:cut], flags=ends | whole).serialize())
                if kind == "split head":
                    made.append(hf.ContinuationFrame(number, block[cut:], flags=("END_HEADERS",)).serialize())
            case "data":
                made.append(hf.DataFrame(max(last, 1), b"hi", flags=ends).serialize())
            case "window":
                made.append(hf.WindowUpdateFrame(draw(st.sampled_from([0, max(last, 1)])), 100).serialize())
            case "reset":
                made.append(hf.RstStreamFrame(max(last, 1), 8).serialize())
            case "ping":
                made.append(hf.PingFrame(0, b"12345678").serialize())
            case _:
                made.append(draw(st.binary(min_size=1, max_size=12)))
    return made


@settings(max_examples=300)
@given(frames(), frames(), st.integers(1, 40))
def test_no_request_goes_on_that_was_not_decided(guest: list[bytes], upstream: list[bytes], size: int) -> None:
    talk, effects = conversation(), list[Effect]()
    effects += talk.from_guest(PREFACE, 1.0)
    ways = [(talk.from_guest, b"".join(guest)), (talk.from_upstream, b"".join(upstream))]
    for at in range(0, max(len(data) for _, data in ways), size):
        for feed, data in ways:
            if at < len(data):
                effects += feed(data[at : at + size], 1.0)
    effects += talk.upstream_ended(2.0)
    out = b"".join(e.data for e in effects if isinstance(e, ToUpstream))
    went, used = split_frames_untrusted(out[len(PREFACE) :])
    assert used == len(out) - len(PREFACE)
    back = b"".join(e.data for e in effects if isinstance(e, ToGuest))
    assert split_frames_untrusted(back)[1] == len(back)
    # What went on decodes, block for block, and names nobody else; each request has its record.
    decoder, block, asked = BlockDecoder(65536), b"", 0
    decoder.announced(65536)
    for frame in went:
        if frame.kind in (1, 9):
            block += fragment_untrusted(frame.wire)
            if frame.flags & 4:
                fields = dict(decoder.decode_untrusted(block))
                block = b""
                if b":method" in fields:
                    asked += 1
                    assert fields[b":authority"] == b"api.ok.test"
                    assert fields[b":method"] in (b"GET", b"POST")
                    assert b"transfer-encoding" not in fields
    told = [record for record in records(effects) if record["event"] == "egress_request"]
    assert len(told) == asked
    assert sum(isinstance(e, Finish) for e in effects) == 1
