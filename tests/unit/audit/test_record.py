"""Records become one ASCII line each, whatever a guest put into them; and each line holds the one before."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.audit import chain
from microagent.audit.record import MAX_TEXT, Event, Record, body, timestamp


def line(record: Record, seq: int = 1) -> bytes:
    return body(record, ts="2026-01-02T03:04:05.000006Z", seq=seq, ident="abc", workspace="research")


def test_common_fields_come_first_and_empty_ones_not_at_all() -> None:
    record = Record(Event.DENY, {"host": "evil.test", "rule": "", "signal": "", "bytes_in": 0})
    assert json.loads(line(record)) == {
        "v": 1,
        "ts": "2026-01-02T03:04:05.000006Z",
        "seq": 1,
        "id": "abc",
        "event": "egress_deny",
        "workspace": "research",
        "host": "evil.test",
        "bytes_in": 0,
    }


@pytest.mark.parametrize(
    "hostile",
    ['"', "\n", "\r\n", "\u2028", "\x1b[31m", "\x1b]52;c;eA==\x07", "\u202e", "\ud800", '","event":"egress_allow'],
)
def test_hostile_text_stays_inside_its_field(hostile: str) -> None:
    written = line(Record(Event.DENY, {"host": hostile}))
    assert written.isascii()
    assert not any(byte < 0x20 or byte == 0x7F for byte in written)
    assert json.loads(written)["host"] == hostile
    assert json.loads(written)["event"] == "egress_deny"


def test_long_text_is_cut_and_says_so() -> None:
    parsed = json.loads(line(Record(Event.REQUEST, {"path": "/" + "a" * 70000})))
    assert len(parsed["path"]) == MAX_TEXT
    assert parsed["truncated"] is True


def test_long_text_in_a_list_is_cut_too() -> None:
    parsed = json.loads(line(Record(Event.DNS_ALLOW, {"answers": ["192.0.2.1", "a" * 70000]})))
    assert [len(answer) for answer in parsed["answers"]] == [9, MAX_TEXT]
    assert parsed["truncated"] is True


_VALUES = st.one_of(
    st.text(max_size=300),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(Event),
    st.lists(st.text(max_size=300) | st.integers(), max_size=3),
)


@given(st.dictionaries(st.text(max_size=20), _VALUES), st.text(max_size=20))
def test_what_is_written_is_what_json_would_write(fields: dict[str, object], ident: str) -> None:
    def short(value: object) -> object:
        return value[:MAX_TEXT] if isinstance(value, str) else value

    kept = {name: value for name, value in fields.items() if value is not None and value not in ("", [])}
    cut = {name: list(map(short, value)) if isinstance(value, list) else short(value) for name, value in kept.items()}
    common = {"v": 1, "ts": "2026-01-02T03:04:05.000006Z", "seq": 7, "id": ident, "event": "egress_request"}
    expected = list((common | {"workspace": "research"}).items()) + list(cut.items())
    if cut != kept:
        expected.append(("truncated", True))
    pairs = ",".join(f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in expected)
    ts = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    written = body(Record(Event.REQUEST, fields), ts=timestamp(ts), seq=7, ident=ident, workspace="research")
    assert written.decode() == f"{{{pairs}}}"


@given(st.lists(st.text(), min_size=3, max_size=6, unique=True))
def test_a_chain_shows_every_change(hosts: list[str]) -> None:
    lines, previous = [], chain.START
    for seq, host in enumerate(hosts):
        made, previous = chain.link(previous, line(Record(Event.ALLOW, {"host": host}), seq))
        lines.append(made)

    def broken_at(lines: list[bytes]) -> int | None:
        link = chain.START
        for number, made in enumerate(lines):
            following = chain.check(link, made[:-1])
            if following is None:
                return number
            link = following
        return None

    assert broken_at(lines) is None
    assert broken_at([lines[0], *lines[2:]]) == 1
    assert broken_at([lines[1], lines[0], *lines[2:]]) == 0
    assert broken_at([lines[0].replace(b'"v":1', b'"v":2'), *lines[1:]]) == 0
