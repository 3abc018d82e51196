"""A log in several files, read from either end, while it is rotated."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.audit import logfile
from microagent.audit.reader import UNREADABLE, Filter
from microagent.audit.tail import Tail, read

START = datetime(2026, 1, 2, tzinfo=UTC)
PADDING = "x" * 200


def stamp(number: int) -> str:
    return (START + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def line(number: int) -> bytes:
    event = "egress_deny" if number % 1000 == 0 else "egress_allow"
    fields: dict[str, Any] = {"v": 1, "ts": stamp(number), "seq": number, "id": f"id{number}", "event": event}
    fields |= {"flow": f"flow{number // 10}", "path": f'/{PADDING}_deny"'}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def rotate(path: Path) -> None:
    for number in range(logfile.ROTATED, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 000 records, 3 MB, in three files."""
    path = tmp_path_factory.mktemp("log") / "egress.jsonl"
    path.write_bytes(b"".join(line(number) for number in range(3000)))
    rotate(path)
    path.write_bytes(b"".join(line(number) for number in range(3000, 9000)))
    rotate(path)
    path.write_bytes(b"".join(line(number) for number in range(9000, 10000)))
    return path


def numbers(log: Path, wanted: Filter, limit: int | None = None) -> list[int]:
    return [record["seq"] for record in read(log, wanted, limit)]


@pytest.mark.parametrize("limit", [0, 1, 999, 1000, 1001, 7500, 10_000, 20_000])
def test_the_last_ones_across_files(log: Path, limit: int) -> None:
    assert numbers(log, Filter(), limit) == list(range(max(0, 10_000 - limit), 10_000))


@pytest.mark.parametrize("first", [0, 1, 2999, 3000, 5432, 8999, 9000, 9999, 10_000])
@pytest.mark.parametrize("limit", [None, 10_000])
def test_since_a_time_across_files(log: Path, first: int, limit: int | None) -> None:
    assert numbers(log, Filter(since=stamp(first)), limit) == list(range(first, 10_000))


def test_what_is_rare_is_found(log: Path) -> None:
    assert numbers(log, Filter(denied=True)) == list(range(0, 10_000, 1000))
    assert numbers(log, Filter(denied=True), 2) == [8000, 9000]
    assert numbers(log, Filter(id="id4711")) == [4711]
    assert numbers(log, Filter(flow="flow471")) == list(range(4710, 4720))


def test_a_bad_line_is_shown_whatever_is_asked_and_from_either_end(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    before = b"".join(line(number) for number in range(1, 900))
    path.write_bytes(before + b"garbage\n" + b"".join(line(number) for number in range(901, 5000)))
    for limit in (None, 100_000):
        first = next(iter(read(path, Filter(id="id4711"), limit)))
        assert first == {"v": 1, "event": UNREADABLE, "file": path.name, "offset": len(before), "bytes": 7}


def test_a_log_that_is_no_log_ends(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    path.write_bytes(bytes((3 << 20) + 17) + line(1))
    assert [record["event"] for record in read(path, Filter())][:3] == [UNREADABLE] * 3
    assert {record["event"] for record in read(path, Filter(), 10)} == {UNREADABLE}
    assert list(read(path, Filter(since=stamp(5)), 10)) is not None


@given(st.lists(st.sampled_from(["write", "rotate", "rotate", "late", "look"]), max_size=20), st.booleans())
def test_a_tail_sees_every_line_once_whatever_is_rotated_when(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], from_end: bool
) -> None:
    path = tmp_path_factory.mktemp("log") / "egress.jsonl"
    path.write_bytes(line(0))
    writer = path.open("ab", buffering=0)
    written, rotations, seen = 1, 0, []
    with Tail(path) as tail:
        seen += list(tail.past(Filter(), 5 if from_end else None))
        for act in acts:
            match act:
                case "write":
                    writer.write(line(written))
                    written += 1
                case "rotate" if rotations < logfile.ROTATED:
                    rotate(path)
                    rotations += 1
                    writer.close()
                    writer = path.open("ab", buffering=0)
                case "late" if rotations < logfile.ROTATED:
                    # The mediator gets the new file a moment after the old one was renamed.
                    rotate(path)
                    rotations += 1
                    seen += list(tail.records())
                    writer.write(line(written))
                    written += 1
                    writer.close()
                    writer = path.open("ab", buffering=0)
                case "look":
                    seen += list(tail.records())
        seen += list(tail.records())
    writer.close()
    assert [record["seq"] for record in seen] == list(range(written))


def test_a_torn_end_of_a_rotated_file_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    path.write_bytes(line(1) + b'{"half')
    with Tail(path) as tail:
        assert len(list(tail.records())) == 1
        rotate(path)
        assert list(tail.records()) == []
        path.write_bytes(line(2))
        torn, last = tail.records()
    assert (torn["event"], torn["bytes"], last["seq"]) == (UNREADABLE, 6, 2)


def test_a_position_outlives_the_reader_and_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    path.write_bytes(line(1))
    with Tail(path) as tail:
        list(tail.records())
        position = tail.position
    with path.open("ab") as log:
        log.write(line(2))
    rotate(path)
    path.write_bytes(line(3))
    with Tail(path) as tail:
        assert tail.resume(position)
        assert [record["seq"] for record in tail.records()] == [2, 3]
    with Tail(path) as tail:
        assert not tail.resume((1, 1))
        assert [record["seq"] for record in tail.records()] == [1, 2, 3]
