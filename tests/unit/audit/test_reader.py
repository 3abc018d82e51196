"""Reading a log that grows, breaks, and is asked questions."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.audit.reader import UNREADABLE, Filter, duration, filter_from_query, is_denial, moment
from microagent.audit.tail import Tail, read
from microagent.errors import ApiError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORDS: list[dict[str, Any]] = [
    {"ts": "2026-01-02T03:00:00.000000Z", "id": "1", "event": "egress_allow", "host": "api.example.org"},
    {"ts": "2026-01-02T03:01:00.000000Z", "id": "2", "event": "egress_dns_deny", "qname": "evil.test"},
    {"ts": "2026-01-02T03:02:00.000000Z", "id": "3", "event": "egress_internal_deny", "dst": "10.0.0.1:80"},
    {"ts": "2026-01-02T03:03:00.000000Z", "id": "4", "event": "egress_drop", "what": "ipv6"},
]


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "egress.jsonl"
    path.write_text(lines(*RECORDS))
    return path


def ids(log: Path, wanted: Filter, limit: int | None = None) -> list[str]:
    return [record["id"] for record in read(log, wanted, limit)]


def test_no_log_yet_means_no_records(tmp_path: Path) -> None:
    assert list(read(tmp_path / "egress.jsonl", Filter())) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "1234"),
        ({"denied": "1"}, "234"),
        ({"event": "egress_allow"}, "1"),
        ({"host": "*.example.org"}, "1"),
        ({"host": "EVIL.*"}, "2"),
        ({"host": "10.*"}, "3"),
        ({"host": "10.0.0.1"}, "3"),
        ({"host": "10.0.0.1:80"}, "3"),
        ({"host": "10.0.0.1:8"}, ""),
        ({"host": "10.0.0"}, ""),
        ({"since": "2m"}, "4"),
        ({"since": "3m"}, "34"),
        ({"host": ".example.org"}, "1"),
        ({"host": ".org"}, "1"),
        ({"host": ".xample.org"}, ""),
        ({"host": "evil.test."}, "2"),
        ({"id": "2"}, "2"),
        ({"denied": "1", "since": "1h", "host": "evil.test"}, "2"),
    ],
)
def test_filters(log: Path, query: dict[str, str], expected: str) -> None:
    assert "".join(ids(log, filter_from_query(query, NOW))) == expected


def test_a_limit_takes_the_last_ones_that_match(log: Path) -> None:
    assert ids(log, Filter(), 2) == ["3", "4"]
    assert ids(log, Filter(denied=True), 1) == ["4"]
    assert ids(log, Filter(), 0) == []


@pytest.mark.parametrize("text", ["10", "m", "-1m", "1.5h", "10 m", "10y", "\u0661m", ""])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ApiError, match="is not a duration"):
        duration(text)


def test_durations() -> None:
    assert (duration("90s"), duration("2h")) == (timedelta(seconds=90), timedelta(hours=2))
    assert duration("7d") == timedelta(days=7) == duration("1w")
    assert duration("2h30m") == timedelta(minutes=150)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90s", "2026-01-31T11:58:30"),
        ("11:30", "2026-01-31T11:30:00"),
        ("13:00:01", "2026-01-30T13:00:01"),
        ("2026-01-30", "2026-01-30T00:00:00"),
        ("2026-01-30T15:04", "2026-01-30T15:04:00"),
        ("2026-01-30T15:04:05.000006Z", "2026-01-30T15:04:05.000006"),
        ("2026-01-30T15:04:05+02:00", "2026-01-30T13:04:05"),
    ],
)
def test_moments(text: str, found: str) -> None:
    assert moment(text, datetime(2026, 1, 31, 12, tzinfo=UTC)) == datetime.fromisoformat(found).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "10", "yesterday", "25:00", "2026-13-01", "-5m", "999999w", "\u0661m"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(ApiError, match="is neither a duration nor a time") as error:
        moment(text, datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert "10m" in error.value.hint


@pytest.mark.parametrize(("word", "hint"), [("egress_dns_den", "egress_dns_deny"), ("x", "are egress_allow")])
def test_an_event_that_there_is_not(word: str, hint: str) -> None:
    with pytest.raises(ApiError, match="there is no event") as error:
        filter_from_query({"event": word}, NOW)
    assert hint in error.value.hint


def test_a_kernel_drop_is_no_denial_of_a_request() -> None:
    assert [is_denial(record) for record in RECORDS] == [False, True, True, False]


def test_a_tail_sees_what_is_appended_and_waits_for_whole_lines(log: Path) -> None:
    with Tail(log) as tail, log.open("a") as writer:
        assert len(list(tail.records())) == 4
        assert list(tail.records()) == []
        writer.write('{"id": ')
        writer.flush()
        assert list(tail.records()) == []
        writer.write('"5"}\n{"id": "6"}\n{')
        writer.flush()
        assert [record["id"] for record in tail.records()] == ["5", "6"]


def test_a_tail_may_begin_before_the_log(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    with Tail(path) as tail:
        assert list(tail.records()) == []
        path.write_text(lines({"id": "1"}))
        assert [record["id"] for record in tail.records()] == ["1"]


def test_a_bad_line_is_reported_in_its_place_and_no_filter_hides_it(log: Path) -> None:
    size = log.stat().st_size
    log.write_bytes(log.read_bytes() + b"\xff{not json\n[1]\n" + lines({"id": "5"}).encode())
    found = list(read(log, Filter(id="5")))
    assert [record["event"] for record in found[:2]] == [UNREADABLE, UNREADABLE]
    assert [record["offset"] for record in found[:2]] == [size, size + 11]
    assert found[2]["id"] == "5"


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_any_chunks_give_the_lines_they_make(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "egress.jsonl"
    path.write_bytes(b"")
    seen = 0
    with Tail(path) as tail, path.open("ab", buffering=0) as writer:
        for chunk in chunks:
            writer.write(chunk)
            seen += len(list(tail.records()))
    assert seen == b"".join(chunks).count(b"\n")
