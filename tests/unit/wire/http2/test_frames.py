"""Frames against `hyperframe`, header blocks against `hpack`'s own encoder."""

import hpack
import hyperframe.frame
import pytest
from hyperframe.exceptions import HyperframeError
from hypothesis import given
from hypothesis import strategies as st

from microagent.wire.http2 import (
    BlockDecoder,
    ConnectionFault,
    Setting,
    build_headers,
    build_settings,
    data_length_untrusted,
    encode_literal,
    fragment_untrusted,
    parse_settings_untrusted,
    split_frames_untrusted,
)

FIELD = st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300))
FIELDS = st.lists(FIELD, max_size=20)
PADDING = st.integers(0, 255)


@st.composite
def frames(draw: st.DrawFn) -> list[hyperframe.frame.Frame]:
    """Frames as `hyperframe` makes them."""
    stream, data, pad = draw(st.integers(1, 2**31 - 1)), draw(st.binary(max_size=200)), draw(PADDING)
    kinds = (
        hyperframe.frame.DataFrame(stream, data, pad_length=pad, flags=("PADDED",)),
        hyperframe.frame.DataFrame(stream, data, flags=("END_STREAM",)),
        hyperframe.frame.HeadersFrame(stream, data, pad_length=pad, flags=("PADDED", "PRIORITY", "END_HEADERS")),
        hyperframe.frame.HeadersFrame(stream, data),
        hyperframe.frame.ContinuationFrame(stream, data, flags=("END_HEADERS",)),
        hyperframe.frame.PushPromiseFrame(stream, 2, data),
        hyperframe.frame.SettingsFrame(0, {1: 4096, 4: 1 << 20}),
        hyperframe.frame.SettingsFrame(0, flags=("ACK",)),
        hyperframe.frame.PingFrame(0, b"12345678"),
        hyperframe.frame.GoAwayFrame(0, stream, 2, data),
        hyperframe.frame.WindowUpdateFrame(draw(st.sampled_from((0, stream))), stream),
        hyperframe.frame.RstStreamFrame(stream, 8),
        hyperframe.frame.PriorityFrame(stream, 0, 16),
    )
    return draw(st.lists(st.sampled_from(kinds), max_size=8))


@given(frames(), st.integers(1, 50))
def test_frames_in_any_pieces_are_those_that_were_made(made: list[hyperframe.frame.Frame], size: int) -> None:
    wire = b"".join(frame.serialize() for frame in made)
    got, left = [], b""
    for at in range(0, len(wire), size):
        left += wire[at : at + size]
        more, used = split_frames_untrusted(left)
        got += more
        left = left[used:]
    assert left == b""
    assert [f.wire for f in got] == [f.serialize() for f in made]
    assert [(f.kind, f.stream) for f in got] == [(f.type, f.stream_id) for f in made]
    for mine, theirs in zip(got, made, strict=True):
        if isinstance(theirs, hyperframe.frame.DataFrame):
            assert data_length_untrusted(mine.wire) == len(theirs.data)
        elif isinstance(theirs, hyperframe.frame.HeadersFrame | hyperframe.frame.ContinuationFrame):
            assert fragment_untrusted(mine.wire) == theirs.data


@given(st.binary(max_size=60))
def test_what_we_take_for_a_frame_is_one_for_hyperframe_too(tail: bytes) -> None:
    wire = len(tail[:40]).to_bytes(3, "big") + tail[40:46].ljust(6, b"\0") + tail[:40]
    try:
        (frame,), _ = split_frames_untrusted(wire)
        fragment = data_length_untrusted(frame.wire) if frame.kind == 0 else fragment_untrusted(frame.wire)
    except ConnectionFault:
        return
    theirs, length = hyperframe.frame.Frame.parse_frame_header(memoryview(wire[:9]))
    try:
        theirs.parse_body(memoryview(wire[9:]))
    except HyperframeError:
        # It also reads what SETTINGS and the like say, which is not the splitter's.
        assert frame.kind in (2, 4, 5, 7), frame
        return
    assert length == frame.length
    if isinstance(theirs, hyperframe.frame.DataFrame):
        assert fragment == len(theirs.data)
    elif isinstance(theirs, hyperframe.frame.HeadersFrame):
        assert fragment == theirs.data


@given(st.lists(FIELDS, min_size=1, max_size=4))
def test_blocks_decode_to_what_was_encoded(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder, after = hpack.Encoder(), BlockDecoder(65536), BlockDecoder(65536)
    for number, fields in enumerate(blocks):
        got = decoder.decode_untrusted(encoder.encode(fields))
        assert got == fields
        # What is written again without a table says the same, to a decoder that had one.
        assert after.decode_untrusted(encode_literal(got, shrink=number == 0)) == fields


def test_a_sensitive_field_stays_sensitive() -> None:
    secret = hpack.NeverIndexedHeaderTuple("authorization", "x")
    (field,) = BlockDecoder(65536).decode_untrusted(hpack.Encoder().encode([secret]))
    assert encode_literal([field], shrink=False)[0] == 0x10


@given(st.binary(max_size=200))
def test_any_block_raises_only_connection_faults(block: bytes) -> None:
    decoder = BlockDecoder(65536)
    try:
        ours = decoder.decode_untrusted(block)
    except ConnectionFault:
        return
    assert ours == list(hpack.Decoder().decode(block, raw=True))


def test_the_size_of_a_table_follows_the_acknowledgement() -> None:
    grow = b"\x3f\xe1\x7f"  # 16384 + 31 - 31 = 16352 or so: more than the 4096 that hold first
    decoder = BlockDecoder(65536)
    with pytest.raises(ConnectionFault):
        decoder.decode_untrusted(grow)
    decoder = BlockDecoder(65536)
    decoder.announced(65536)
    decoder.decode_untrusted(grow)
    decoder.acknowledged()
    decoder.announced(100)
    decoder.decode_untrusted(b"\x82")  # sent before the other side knew
    decoder.acknowledged()
    with pytest.raises(ConnectionFault):
        decoder.decode_untrusted(b"\x82")
    with pytest.raises(ConnectionFault):
        decoder.acknowledged()


def test_a_long_block_is_cut_into_frames_that_fit() -> None:
    block = bytes(40000)
    wire = build_headers(5, block, end_stream=True)
    got, used = split_frames_untrusted(wire)
    assert used == len(wire)
    assert [f.kind for f in got] == [1, 9, 9]
    assert [f.flags for f in got] == [1, 0, 4]
    assert b"".join(fragment_untrusted(f.wire) for f in got) == block


def test_settings_are_read_and_written() -> None:
    entries = [(int(Setting.HEADER_TABLE_SIZE), 0), (int(Setting.INITIAL_WINDOW_SIZE), 2**31 - 1), (0xABCD, 7)]
    (frame,), _ = split_frames_untrusted(build_settings(entries))
    assert parse_settings_untrusted(frame.payload) == entries


@pytest.mark.parametrize("entry", [(2, 2), (4, 1 << 31), (5, 16383), (5, 1 << 24)])
def test_settings_out_of_range_are_refused(entry: tuple[int, int]) -> None:
    with pytest.raises(ConnectionFault):
        parse_settings_untrusted(build_settings([entry])[9:])


@pytest.mark.parametrize("wire", [b"", b"\0" * 8, b"\0\0\1\0\x08\0\0\0\1\1", b"\0\0\0\0\x08\0\0\0\1"])
def test_padding_that_does_not_fit_is_refused(wire: bytes) -> None:
    with pytest.raises(ConnectionFault):
        data_length_untrusted(wire)
    headers = wire[:3] + b"\1" + wire[4:]
    if len(wire) > 8:
        with pytest.raises(ConnectionFault):
            fragment_untrusted(headers)
