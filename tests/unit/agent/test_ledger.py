"""What a killed agent leaves on disk, and that only the right process is ended."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from microagent.agent.ledger import Ledger, Process


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_what_is_noted_is_left_until_it_is_forgotten(ledger: Ledger) -> None:
    ledger.note("a")
    ledger.note("b", guest=os.getpid())
    assert ledger.left() == ["a", "b"]
    assert (ledger.processes("a"), ledger.processes("b")) == ({}, {"guest": Process.of(os.getpid())})
    ledger.forget("b")
    ledger.forget("b")
    assert ledger.left() == ["a"]
    assert ledger.processes("b") == {}


def test_a_process_is_ended_once(child: "subprocess.Popen[bytes]") -> None:
    process = Process.of(child.pid)
    assert process.kill()
    child.wait()
    assert not process.kill()


def test_another_process_with_the_same_pid_is_left_alone(child: "subprocess.Popen[bytes]") -> None:
    process = Process.of(child.pid)
    assert not Process(process.pid, process.started + 1).kill()
    assert child.poll() is None


def test_a_process_that_is_gone_is_not_noted(ledger: Ledger) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    ledger.note("a", guest=gone.pid)
    assert ledger.processes("a") == {}


def test_a_damaged_file_names_nobody(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "workspaces" / "a.json").write_text('[["x"]]')
    assert ledger.left() == ["a"]
    assert ledger.processes("a") == {}


def test_a_process_is_who_it_should_be(child: "subprocess.Popen[bytes]") -> None:
    process = Process.of(child.pid)
    assert process.alive()
    assert process.runs("sleep", os.getuid())
    assert not process.runs("sleep", os.getuid() + 1)
    assert not process.runs("true", os.getuid())
    assert not Process(process.pid, process.started + 1).runs("sleep", os.getuid())
    child.kill()
    process.wait()
    assert not process.alive()  # though nobody has reaped it


def test_what_a_killed_agent_had_not_finished_writing_goes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("a")
    ledger.close()
    (tmp_path / "workspaces" / ".b.json.0123abcd").write_text("{")
    again = Ledger(tmp_path)
    assert (again.left(), [path.name for path in (tmp_path / "workspaces").iterdir()]) == (["a"], ["a.json"])
    again.close()
