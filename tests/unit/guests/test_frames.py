import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.errors import Malformed
from microagent.guests.frames import (
    MAX_PAYLOAD,
    OUTPUT_WINDOW,
    Ended,
    FrameReader,
    Output,
    Refused,
    Report,
    Request,
    Started,
    Terminal,
    Wanted,
    frame,
    greeting,
    opening,
)

MARK = b"0123456789abcdef"
ANSWER = frame(b"h", 0, MARK)


def read(chunks: list[bytes]) -> list[Report]:
    reader = FrameReader(MARK)
    return [report for chunk in chunks for report in reader.feed_untrusted(chunk)]


def cut(whole: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(whole), *(min(at, len(whole)) for at in cuts)})
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


SAID = [
    (frame(b"s", 1), Started(1)),
    (frame(b"1", 1, b"out"), Output(1, 1, b"out")),
    (frame(b"2", 2**32 - 1, b"e" * MAX_PAYLOAD), Output(2**32 - 1, 2, b"e" * MAX_PAYLOAD)),
    (frame(b"c", 1, b"\0\1\0\0"), Wanted(1, 65536)),
    (frame(b"x", 1, b"\x89"), Ended(1, 137)),
    (frame(b"f", 1, b"no\x1b[31mroom"), Refused(1, "no.[31mroom")),
]


def test_what_execd_says() -> None:
    whole = ANSWER + b"".join(data for data, _ in SAID)
    assert read([whole]) == [report for _, report in SAID]


@given(st.binary(max_size=100), st.lists(st.sampled_from(SAID), max_size=5), st.lists(st.integers(0, 20000)))
def test_pieces_change_nothing_and_what_is_for_an_earlier_agent_is_skipped(
    before: bytes, said: list[tuple[bytes, Report]], cuts: list[int]
) -> None:
    whole = before + ANSWER + b"".join(data for data, _ in said)
    assert read(cut(whole, cuts)) == [report for _, report in said]


@given(st.lists(st.binary(max_size=64)), st.booleans())
def test_any_bytes_are_reports_or_malformed(chunks: list[bytes], greeted: bool) -> None:
    try:
        read([ANSWER, *chunks] if greeted else chunks)
    except Malformed:
        return


@given(st.sampled_from(list(b"s12cxfh\0a")), st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_any_frame_is_a_report_or_malformed(kind: int, number: int, payload: bytes) -> None:
    try:
        (report,) = read([ANSWER + frame(bytes((kind,)), number, payload)])
    except Malformed:
        return
    assert report.number == number


@pytest.mark.parametrize(
    "data",
    [
        frame(b"s", 1, b"x"),
        frame(b"1", 1),
        frame(b"x", 1, b"ab"),
        frame(b"c", 1, b"abc"),
        frame(b"f", 1, b"x" * 129),
        frame(b"i", 1, b"x"),
        ANSWER,
        b"1" + bytes(4) + b"\xff\xff",
    ],
)
def test_what_execd_does_not_say_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read([ANSWER + data])


def test_a_guest_that_never_answers_takes_no_memory() -> None:
    reader = FrameReader(MARK)
    for _ in range(100):
        assert reader.feed_untrusted(b"h" * 65536) == []
    assert len(reader._buffer) < len(ANSWER)


def test_a_greeting_ends_whatever_frame_broke_off() -> None:
    """A frame that lacks all of its payload is filled by zeros, and the rest of them is skipped."""
    assert greeting(MARK) == bytes(7 + MAX_PAYLOAD) + ANSWER


def test_a_request_is_cut_into_frames() -> None:
    request = Request(["cat", "a b"], {"K": "v" * 40000}, "me", "/tmp", Terminal(24, 80))
    assert request.to_bytes() == b"\1\0\x18\0\x50\0\1/tmp\0me\0K=" + b"v" * 40000 + b"\0cat\0a b\0"
    frames = list(opening(5, request))
    assert [len(part) - 7 for part in frames[:-1]] == [16384, 16384, len(request.to_bytes()) - 2 * 16384]
    assert frames[-1] == frame(b"c", 5, OUTPUT_WINDOW.to_bytes(4, "big")) + frame(b"o", 5)


@pytest.mark.parametrize("request_", [Request(["a\0b"], {}), Request(["a"], {"": "x"}), Request(["a" * (1 << 20)], {})])
def test_what_linux_cannot_run(request_: Request) -> None:
    with pytest.raises(Malformed):
        request_.to_bytes()
