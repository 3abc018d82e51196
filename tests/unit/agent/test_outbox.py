"""What waits of deleted workspaces' logs, and what does not."""

from pathlib import Path

import pytest

from microagent.agent import outbox as room
from microagent.agent.config import Config
from microagent.agent.outbox import Outbox, Source


def config(state_dir: Path, *, syslog: bool = True, otlp: bool = True) -> Config:
    url = "http://127.0.0.1:4318/v1/logs" if otlp else ""
    return Config(state_dir=state_dir, syslog=Path("/dev/log") if syslog else None, otlp=url)


def deleted(outbox: Outbox, directory: Path, number: int) -> None:
    """A workspace with a log of 1000 bytes has been deleted."""
    place = directory / f"w{number}"
    place.mkdir(mode=0o700)
    (place / "egress.jsonl").write_bytes(b"x" * 999 + b"\n")
    outbox.keep(place.name, place)
    for path in place.iterdir():
        path.unlink()


def names(outbox: Outbox, receiver: str) -> list[str]:
    return sorted(path.name.partition("@")[0] for path in outbox.waiting_for(receiver))


def test_a_log_waits_until_every_receiver_has_it(tmp_path: Path) -> None:
    outbox = Outbox(config(tmp_path / "state"))
    deleted(outbox, tmp_path, 1)
    (waiting,) = outbox.waiting_for("syslog")
    outbox.sent(waiting, "syslog")
    assert (names(outbox, "syslog"), names(outbox, "otlp")) == ([], ["w1"])
    outbox.sent(waiting, "otlp")
    assert not waiting.exists()


def test_a_receiver_that_is_configured_no_more_is_waited_for_no_more(tmp_path: Path) -> None:
    outbox = Outbox(config(tmp_path / "state"))
    deleted(outbox, tmp_path, 1)
    (waiting,) = outbox.waiting_for("otlp")
    outbox.sent(waiting, "syslog")
    assert names(Outbox(config(tmp_path / "state")), "otlp") == ["w1"]
    Outbox(config(tmp_path / "state", otlp=False))
    assert not waiting.exists()


def test_the_oldest_are_given_up_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 3500)
    outbox = Outbox(config(tmp_path / "state"))
    for number in range(6):
        deleted(outbox, tmp_path, number)
    assert names(outbox, "syslog") == ["w3", "w4", "w5"]
    assert caplog.text.count("given up unsent workspace=w") == 3


def test_a_place_in_a_file_that_is_another_now_is_none(tmp_path: Path) -> None:
    """Inodes are used again: what stands before the place tells."""
    log = tmp_path / "egress.jsonl"
    tmp_path.chmod(0o700)
    log.write_bytes(b"one\ntwo\n")
    source = Source(tmp_path, "otlp")
    lines = source.block()
    source.remember(lines[0][1])
    source.close()
    again = Source(tmp_path, "otlp")
    assert len(again.block()) == 1
    again.close()
    with log.open("r+b") as same:
        same.write(b"ONE\nTWO\n")
    assert log.stat().st_ino == lines[0][1].inode
    other = Source(tmp_path, "otlp")
    assert len(other.block()) == 2
    other.close()
