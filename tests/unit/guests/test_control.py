import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.errors import Malformed
from microagent.guests.control import (
    Began,
    Exited,
    Failed,
    MarkedStream,
    Ready,
    Started,
    parse_report_untrusted,
    shutdown_request,
)

MARK = b"12083a24-77cd-4741-9abb-5ebe5232fb73"


def test_reports() -> None:
    assert parse_report_untrusted(b"started") == Started()
    assert parse_report_untrusted(b"ready " + MARK) == Ready(MARK)
    assert parse_report_untrusted(b"began") == Began()
    assert parse_report_untrusted(b"exit 137") == Exited(137)
    assert parse_report_untrusted(b"unprepared 9") == Exited(9, prepared=False)
    assert parse_report_untrusted(b"failed no\x1b[31mroot") == Failed("no.[31mroot")
    assert shutdown_request(10) == b"shutdown 10\n"


@pytest.mark.parametrize(
    "line",
    [b"", b"ready", b"ready x", b"ready " + MARK + b" ", b"exit", b"exit -1", b"exit 256", b"exit 1 2", b"exit \xb2",
     b"exit 0x1", b"exit 1\r", b"started ", b"EXIT 1", b"failed " + b"x" * 600, b"began 1", b"unprepared",
     b"unprepared 256"],
)  # fmt: skip
def test_anything_else_is_malformed(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_report_untrusted(line)


@given(st.binary(max_size=64) | st.sampled_from([b"exit ", b"ready "]).flatmap(lambda w: st.binary().map(w.__add__)))
def test_any_bytes_are_a_report_or_malformed(line: bytes) -> None:
    try:
        parse_report_untrusted(line)
    except Malformed:
        return


def passed(chunks: list[bytes]) -> tuple[bytes, bool]:
    stream = MarkedStream()
    stream.expect(MARK)
    out = b"".join(stream.feed_untrusted(chunk) for chunk in chunks)
    return out + stream.rest(), stream.complete


@given(st.lists(st.binary(max_size=8) | st.sampled_from([MARK[:9], MARK[9:20], MARK])), st.lists(st.integers(0, 200)))
def test_a_stream_passes_whole_but_for_the_mark_at_its_end(parts: list[bytes], cuts: list[int]) -> None:
    content = b"".join(parts)
    whole = content + MARK
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    assert passed([whole[a:b] for a, b in itertools.pairwise(edges)]) == (content, True)


@given(st.lists(st.binary(max_size=8)))
def test_a_stream_that_breaks_off_loses_nothing(chunks: list[bytes]) -> None:
    assert passed(chunks) == (b"".join(chunks), False)
    assert passed([*chunks, MARK[:-1]]) == (b"".join(chunks) + MARK[:-1], False)


def test_nothing_is_kept_back_that_cannot_be_the_mark() -> None:
    stream = MarkedStream()
    stream.expect(MARK)
    assert stream.feed_untrusted(b"prompt> ") == b"prompt> "
    assert stream.feed_untrusted(b"a 12") == b"a "
    assert stream.feed_untrusted(b"x") == b"12x"
