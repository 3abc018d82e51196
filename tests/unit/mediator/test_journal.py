"""The log across restarts, kills and full disks."""

import itertools
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from microagent.audit import chain
from microagent.audit.record import Event, Record
from microagent.mediator.journal import Journal

ALLOW = Record(Event.ALLOW, {"host": "api.ok.test"})


def journal(path: Path) -> Journal:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    numbers = itertools.count()
    return Journal(fd, "research", lambda: f"id{next(numbers)}")


def whole_lines(path: Path) -> list[bytes]:
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            json.loads(line)
        except ValueError:
            continue
        found.append(line)
    return found


def chained(path: Path) -> bool:
    link: str | None = chain.START
    for line in whole_lines(path):
        link = chain.check(link, line) if link else None
    return link is not None


def test_a_second_journal_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    first = journal(path)
    first.write(ALLOW)
    first.write(Record(Event.MEDIATOR_DOWN))
    second = journal(path)
    assert not second.resumed
    second.write(ALLOW)
    assert [json.loads(line)["seq"] for line in whole_lines(path)] == [1, 2, 3]
    assert chained(path)


def test_one_that_ended_without_a_word_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    journal(path).write(ALLOW)
    assert journal(path).resumed


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["torn", "ended and not told of"])
def test_a_torn_line_is_ended_and_told_of_once(tmp_path: Path, end: bytes) -> None:
    """Killed, or out of room, within the line, or between its end and the word about it."""
    path = tmp_path / "egress.jsonl"
    journal(path).write(ALLOW)
    with path.open("ab") as file:
        file.write(b'{"v":1,"ts":"2026' + end)
    journal(path).write(ALLOW)
    assert [json.loads(line)["seq"] for line in whole_lines(path)] == [1, 2, 3]
    assert json.loads(whole_lines(path)[1])["torn"] is True
    assert chained(path)
    journal(path).write(ALLOW)
    assert [json.loads(line).get("torn") for line in whole_lines(path)] == [None, True, None, None]


def test_what_cannot_be_written_raises_and_the_next_line_is_whole_again(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    log = journal(path)
    log.write(ALLOW)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"part of a line|File too large"):
            log.write(ALLOW)
        with pytest.raises(OSError, match=r"part of a line|File too large"):
            log.write(ALLOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    log.write(ALLOW)
    assert [json.loads(line)["seq"] for line in whole_lines(path)] == [1, 2, 3]
    assert json.loads(whole_lines(path)[1])["torn"] is True
    assert chained(path)


def test_a_rotated_log_goes_on_in_the_new_file_and_so_does_the_next_journal(tmp_path: Path) -> None:
    path, older = tmp_path / "egress.jsonl", tmp_path / "egress.jsonl.1"
    first = journal(path)
    first.write(ALLOW)
    path.rename(older)
    first.switch(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    first.write(ALLOW)
    (line,) = whole_lines(path)
    (before,) = whole_lines(older)
    assert chain.check(json.loads(before)["chain"], line)

    # A mediator that begins with an empty file is told what came before.
    path.rename(tmp_path / "egress.jsonl.0")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    second = Journal(fd, "research", lambda: "id", line)
    assert second.resumed
    second.write(ALLOW)
    assert json.loads(whole_lines(path)[0])["seq"] == 3
    assert chain.check(json.loads(line)["chain"], whole_lines(path)[0])
